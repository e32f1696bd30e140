/* Structures of the driver API that the shim looks into: own declarations. The sizes and offsets
 * below are those of CUDA 13.5's cuda.h on x86-64 and aarch64; a wrong one does not compile. */
#ifndef RRTO_CUDA_STRUCTS_H
#define RRTO_CUDA_STRUCTS_H
#include "cuda_types.h"

enum { RRTO_MEMORY_HOST = 1, RRTO_MEMORY_DEVICE = 2, RRTO_MEMORY_ARRAY = 3, RRTO_MEMORY_UNIFIED = 4 };

struct rrto_CUuuid {
    unsigned char bytes[16];
};

struct rrto_CUDA_MEMCPY2D_v2 {
    size_t srcXInBytes, srcY;
    int srcMemoryType;
    const void *srcHost;
    CUdeviceptr srcDevice;
    void *srcArray;
    size_t srcPitch;
    size_t dstXInBytes, dstY;
    int dstMemoryType;
    void *dstHost;
    CUdeviceptr dstDevice;
    void *dstArray;
    size_t dstPitch;
    size_t WidthInBytes, Height;
};

struct rrto_CUDA_MEMCPY3D_v2 {
    size_t srcXInBytes, srcY, srcZ, srcLOD;
    int srcMemoryType;
    const void *srcHost;
    CUdeviceptr srcDevice;
    void *srcArray, *reserved0;
    size_t srcPitch, srcHeight;
    size_t dstXInBytes, dstY, dstZ, dstLOD;
    int dstMemoryType;
    void *dstHost;
    CUdeviceptr dstDevice;
    void *dstArray, *reserved1;
    size_t dstPitch, dstHeight;
    size_t WidthInBytes, Height, Depth;
};

struct rrto_CUDA_KERNEL_NODE_PARAMS_v1 {
    CUfunction func;
    unsigned gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes;
    void **kernelParams, **extra;
};

struct rrto_CUDA_KERNEL_NODE_PARAMS_v2 {
    CUfunction func;
    unsigned gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes;
    void **kernelParams, **extra;
    CUkernel kern;
    CUcontext ctx;
};

struct rrto_CUDA_MEMSET_NODE_PARAMS_v1 {
    CUdeviceptr dst;
    size_t pitch;
    unsigned value, elementSize;
    size_t width, height;
};

struct rrto_CUDA_HOST_NODE_PARAMS_v1 {
    CUhostFn fn;
    void *userData;
};

typedef struct rrto_CUDA_HOST_NODE_PARAMS_v2 {
    CUhostFn fn;
    void *userData;
    unsigned syncMode;
    CUcontext ctx;
} CUDA_HOST_NODE_PARAMS_v2;

struct rrto_CUgraphExecUpdateResultInfo_v1 {
    int result;
    CUgraphNode errorNode, errorFromNode;
};

struct rrto_CUgraphEdgeData {
    unsigned char from_port, to_port, type, reserved[5];
};

struct rrto_CUgraphNodeParams {
    int type, reserved0[3];
    union {
        char bytes[232];
        struct rrto_CUDA_KERNEL_NODE_PARAMS_v2 kernel;
        struct {
            int flags, reserved;
            CUcontext context;
            struct rrto_CUDA_MEMCPY3D_v2 params;
        } copy;
        struct {
            struct rrto_CUDA_MEMSET_NODE_PARAMS_v1 params;
            CUcontext context;
        } fill;
        CUDA_HOST_NODE_PARAMS_v2 host;
        struct {
            CUgraph graph;
            int ownership;
        } child;
        struct {
            CUevent event;
            CUcontext context; /* of a record */
        } event;
    };
    long long reserved2;
};

struct rrto_CUDA_GRAPH_INSTANTIATE_PARAMS {
    cuuint64_t flags;
    CUstream hUploadStream;
    CUgraphNode hErrNode_out;
    int result_out;
};

struct rrto_CUlaunchAttributeValue {
    union {
        char bytes[64];
        int number;
        struct {
            unsigned x, y, z;
        } dim;
        struct {
            void *base;
            size_t bytes;
            float hit_ratio;
            int hit, miss;
        } window;
    };
};

struct rrto_launch_attribute {
    int id;
    char pad[4];
    struct rrto_CUlaunchAttributeValue value;
};

struct rrto_CUlaunchConfig {
    unsigned gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes;
    CUstream hStream;
    struct rrto_launch_attribute *attrs;
    unsigned numAttrs;
};

struct rrto_CUmemLocation_v1 {
    int type, id;
};

struct rrto_CUmemPoolProps_v1 {
    int allocType, handleTypes;
    struct rrto_CUmemLocation_v1 location;
    void *win32SecurityAttributes;
    size_t maxSize;
    unsigned short usage;
    unsigned char reserved[54];
};

struct rrto_CUmemAccessDesc_v1 {
    struct rrto_CUmemLocation_v1 location;
    int flags;
};

struct rrto_CUmemAllocationProp_v1 {
    int type, requestedHandleTypes;
    struct rrto_CUmemLocation_v1 location;
    void *win32HandleMetaData;
    unsigned char compression, gpuDirectRDMACapable;
    unsigned short usage;
    unsigned char reserved[4];
};

struct rrto_CUmemcpyAttributes_v1 {
    int srcAccessOrder;
    struct rrto_CUmemLocation_v1 srcLocHint, dstLocHint;
    unsigned flags;
};

enum { RRTO_OPERAND_POINTER = 1, RRTO_OPERAND_ARRAY = 2 };

struct rrto_operand {
    int type;
    union {
        struct {
            CUdeviceptr address;
            size_t row_length, layer_height;
            struct rrto_CUmemLocation_v1 hint;
        } pointer;
        struct {
            CUarray array;
            size_t offset[3];
        } array;
    };
};

struct rrto_CUDA_MEMCPY3D_BATCH_OP_v1 {
    struct rrto_operand src, dst;
    size_t extent[3];
    int order;
    unsigned flags;
};

struct rrto_CUstreamBatchMemOpParams_v1 {
    union {
        int operation;
        struct {
            int operation;
            CUdeviceptr address;
            cuuint64_t value; /* its first half, where 32 bits are meant */
            unsigned flags;
        } value;
        struct {
            int operation;
            unsigned flags;
        } barrier;
        cuuint64_t whole[6];
    };
};

struct rrto_CUDA_ARRAY_DESCRIPTOR_v2 {
    size_t Width, Height;
    int Format;
    unsigned NumChannels;
};

struct rrto_CUDA_ARRAY3D_DESCRIPTOR_v2 {
    size_t Width, Height, Depth;
    int Format;
    unsigned NumChannels, Flags;
};

struct rrto_CUDA_RESOURCE_DESC_v1 {
    int type;
    union {
        CUarray array;
        struct {
            CUdeviceptr address;
            int format;
            unsigned channels;
            size_t bytes;
        } linear;
        struct {
            CUdeviceptr address;
            int format;
            unsigned channels;
            size_t width, height, pitch;
        } rows;
        int reserved[32];
    };
    unsigned flags;
};

struct rrto_CUDA_TEXTURE_DESC_v1 {
    int mode[3], filter;
    unsigned flags, anisotropy;
    int mipmap_filter;
    float bias, least, most, border[4];
    int reserved[12];
};

struct rrto_CUDA_RESOURCE_VIEW_DESC_v1 {
    int format;
    size_t width, height, depth;
    unsigned first_level, last_level, first_layer, last_layer, reserved[16];
};

struct rrto_CUdevprop_v1 {
    int maxThreadsPerBlock, maxThreadsDim[3], maxGridSize[3];
    int sharedMemPerBlock, totalConstantMemory, SIMDWidth, memPitch, regsPerBlock, clockRate;
    int textureAlign;
};

struct rrto_CUctxCreateParams {
    void *execAffinityParams;
    int numExecAffinityParams;
    void *cigParams;
};

#define RRTO_SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), "size of " #type)
#define RRTO_AT(type, member, bytes)                                                              \
    _Static_assert(offsetof(type, member) == (bytes), #member " of " #type)
RRTO_SIZE(CUDA_MEMCPY2D, 128);
RRTO_SIZE(CUDA_MEMCPY3D, 200);
RRTO_SIZE(CUDA_KERNEL_NODE_PARAMS_v1, 56);
RRTO_SIZE(CUDA_KERNEL_NODE_PARAMS_v2, 72);
RRTO_SIZE(CUDA_MEMSET_NODE_PARAMS, 40);
RRTO_SIZE(CUDA_HOST_NODE_PARAMS, 16);
RRTO_SIZE(CUDA_HOST_NODE_PARAMS_v2, 32);
RRTO_SIZE(CUgraphExecUpdateResultInfo, 24);
RRTO_SIZE(CUgraphEdgeData, 8);
RRTO_SIZE(CUgraphNodeParams, 256);
RRTO_SIZE(CUDA_GRAPH_INSTANTIATE_PARAMS, 32);
RRTO_SIZE(struct rrto_launch_attribute, 72);
RRTO_SIZE(CUstreamAttrValue, 64);
RRTO_SIZE(CUlaunchConfig, 56);
RRTO_SIZE(CUmemLocation, 8);
RRTO_SIZE(CUmemPoolProps, 88);
RRTO_SIZE(CUmemAccessDesc, 12);
RRTO_SIZE(CUmemAllocationProp, 32);
RRTO_SIZE(CUmemcpyAttributes, 24);
RRTO_SIZE(CUDA_MEMCPY3D_BATCH_OP, 112);
RRTO_SIZE(CUstreamBatchMemOpParams, 48);
RRTO_SIZE(CUDA_ARRAY_DESCRIPTOR, 24);
RRTO_SIZE(CUDA_ARRAY3D_DESCRIPTOR, 40);
RRTO_SIZE(CUDA_RESOURCE_DESC, 144);
RRTO_SIZE(CUDA_TEXTURE_DESC, 104);
RRTO_SIZE(CUDA_RESOURCE_VIEW_DESC, 112);
RRTO_SIZE(CUdevprop, 56);
RRTO_SIZE(CUctxCreateParams, 24);
RRTO_AT(CUDA_MEMCPY2D, dstMemoryType, 72);
RRTO_AT(CUDA_MEMCPY2D, Height, 120);
RRTO_AT(CUDA_MEMCPY3D, dstMemoryType, 120);
RRTO_AT(CUDA_MEMCPY3D, Depth, 192);
RRTO_AT(CUDA_MEMCPY3D, srcHeight, 80);
RRTO_AT(CUDA_KERNEL_NODE_PARAMS_v2, kern, 56);
RRTO_AT(CUDA_MEMSET_NODE_PARAMS, width, 24);
RRTO_AT(CUgraphNodeParams, copy.params, 32);
RRTO_AT(CUgraphNodeParams, fill.context, 56);
RRTO_AT(CUlaunchConfig, hStream, 32);
RRTO_AT(CUlaunchConfig, numAttrs, 48);
RRTO_AT(struct rrto_launch_attribute, value, 8);
RRTO_AT(CUmemPoolProps, location, 8);
RRTO_AT(CUmemPoolProps, maxSize, 24);
RRTO_AT(CUmemAccessDesc, flags, 8);
RRTO_AT(CUmemAllocationProp, compression, 24);
RRTO_AT(CUmemAllocationProp, usage, 26);
RRTO_AT(CUmemcpyAttributes, flags, 20);
RRTO_AT(CUDA_MEMCPY3D_BATCH_OP, dst, 40);
RRTO_AT(CUDA_MEMCPY3D_BATCH_OP, order, 104);
RRTO_AT(CUstreamBatchMemOpParams, value.flags, 24);
RRTO_AT(CUDA_RESOURCE_DESC, array, 8);
RRTO_AT(CUDA_RESOURCE_DESC, rows.pitch, 40);
RRTO_AT(CUDA_RESOURCE_DESC, flags, 136);
RRTO_AT(CUDA_TEXTURE_DESC, border, 40);
RRTO_AT(CUDA_RESOURCE_VIEW_DESC, first_level, 32);
RRTO_AT(CUdevprop, sharedMemPerBlock, 28);
RRTO_AT(CUdevprop, textureAlign, 52);
RRTO_AT(CUctxCreateParams, cigParams, 16);
RRTO_AT(CUDA_GRAPH_INSTANTIATE_PARAMS, hErrNode_out, 16);
RRTO_AT(CUDA_GRAPH_INSTANTIATE_PARAMS, result_out, 24);

#endif
