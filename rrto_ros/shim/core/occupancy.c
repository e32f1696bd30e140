/* Occupancy, computed from the device's and the kernel's attributes as the programming guide says:
 * how many blocks fit by threads, blocks, registers and shared memory. */
#include "shim.h"

enum { MOST = 1 << 24 };

/* A server may say any number; what is computed with it must not overflow. */
static int attribute_or(int id, int otherwise)
{
    int value = rrto_attribute(id);
    return value > MOST ? MOST : value > 0 ? value : otherwise;
}

static int blocks_that_fit(const struct rrto_kernel *kernel, int threads, size_t dynamic)
{
    int warp = attribute_or(10, 32), most = attribute_or(1, 1024);
    if (threads < 1 || threads > most || (kernel->max_threads > 0 && threads > kernel->max_threads))
        return 0;
    int64_t rounded = ((int64_t)threads + warp - 1) / warp * warp;
    int fit = (int)(attribute_or(39, 2048) / rounded);
    int blocks = attribute_or(106, 32);
    int registers = rrto_kernel_attribute(kernel, 4);
    size_t shared = dynamic + (size_t)kernel->static_shared;
    fit = blocks < fit ? blocks : fit;
    if (registers > 0) {
        int by_registers = (int)(attribute_or(82, 65536) / (registers * rounded));
        fit = by_registers < fit ? by_registers : fit;
    }
    if (shared) {
        size_t by_shared = (size_t)attribute_or(81, 102400) / shared;
        fit = by_shared < (size_t)fit ? (int)by_shared : fit;
    }
    return fit;
}

uint64_t rrto_blocks_at_once(const struct rrto_kernel *kernel, uint64_t threads, size_t shared)
{
    if (threads > INT32_MAX)
        return 0;
    return (uint64_t)blocks_that_fit(kernel, (int)threads, shared) * (unsigned)attribute_or(16, 1);
}

CUresult rrto_cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *numBlocks, CUfunction func,
                                                                   int blockSize,
                                                                   size_t dynamicSMemSize,
                                                                   unsigned int flags)
{
    struct rrto_kernel *kernel;
    if (!numBlocks || blockSize < 1 || flags > 1)
        return CUDA_INVALID_VALUE;
    CUresult result = rrto_use(func, &kernel);
    if (result)
        return result;
    *numBlocks = blocks_that_fit(kernel, blockSize, dynamicSMemSize);
    return CUDA_SUCCESS;
}

CUresult rrto_cuOccupancyMaxActiveBlocksPerMultiprocessor(int *numBlocks, CUfunction func,
                                                          int blockSize, size_t dynamicSMemSize)
{
    return rrto_cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(numBlocks, func, blockSize,
                                                                     dynamicSMemSize, 0);
}

CUresult rrto_cuOccupancyMaxPotentialBlockSizeWithFlags(
    int *minGridSize, int *blockSize, CUfunction func, CUoccupancyB2DSize blockSizeToDynamicSMemSize,
    size_t dynamicSMemSize, int blockSizeLimit, unsigned int flags)
{
    struct rrto_kernel *kernel;
    if (!minGridSize || !blockSize || flags > 1 || blockSizeLimit < 0)
        return CUDA_INVALID_VALUE;
    CUresult result = rrto_use(func, &kernel);
    if (result)
        return result;
    int warp = attribute_or(10, 32), most = attribute_or(1, 1024);
    if (kernel->max_threads > 0 && kernel->max_threads < most)
        most = kernel->max_threads;
    if (blockSizeLimit && blockSizeLimit < most)
        most = blockSizeLimit;
    int best_threads = 0, best_fit = 0;
    /* From the largest block down: of equals the larger block is taken. */
    for (int threads = (most + warp - 1) / warp * warp; threads > 0; threads -= warp) {
        int block = threads < most ? threads : most;
        size_t dynamic =
            blockSizeToDynamicSMemSize ? blockSizeToDynamicSMemSize(block) : dynamicSMemSize;
        int fit = blocks_that_fit(kernel, block, dynamic);
        if (fit * block > best_fit * best_threads) {
            best_fit = fit;
            best_threads = block;
        }
    }
    *blockSize = best_threads;
    *minGridSize = (int)((int64_t)best_fit * attribute_or(16, 1));
    return CUDA_SUCCESS;
}

CUresult rrto_cuOccupancyMaxPotentialBlockSize(int *minGridSize, int *blockSize, CUfunction func,
                                               CUoccupancyB2DSize blockSizeToDynamicSMemSize,
                                               size_t dynamicSMemSize, int blockSizeLimit)
{
    return rrto_cuOccupancyMaxPotentialBlockSizeWithFlags(minGridSize, blockSize, func,
                                                          blockSizeToDynamicSMemSize,
                                                          dynamicSMemSize, blockSizeLimit, 0);
}

CUresult rrto_cuOccupancyAvailableDynamicSMemPerBlock(size_t *dynamicSmemSize, CUfunction func,
                                                      int numBlocks, int blockSize)
{
    struct rrto_kernel *kernel;
    if (!dynamicSmemSize || numBlocks < 1 || blockSize < 1)
        return CUDA_INVALID_VALUE;
    CUresult result = rrto_use(func, &kernel);
    if (result)
        return result;
    int each = attribute_or(81, 102400) / numBlocks - kernel->static_shared;
    int limit = rrto_kernel_attribute(kernel, 8);
    each = each < limit ? each : limit;
    *dynamicSmemSize = each > 0 ? (size_t)each : 0;
    return CUDA_SUCCESS;
}

/* ---- clusters: of one block, which is what a launch without clusters is ---- */

/* Blocks of a cluster that a launch asks for; 0: it does not say. */
static CUresult cluster_of(const CUlaunchConfig *config, uint64_t *blocks)
{
    enum { CLUSTER = 4 };
    *blocks = 0;
    if (!config || (config->numAttrs && !config->attrs))
        return CUDA_INVALID_VALUE;
    for (unsigned i = 0; i < config->numAttrs; i++) {
        const struct rrto_launch_attribute *a = &config->attrs[i];
        if (a->id != CLUSTER)
            continue;
        if (!a->value.dim.x || !a->value.dim.y || !a->value.dim.z)
            return CUDA_INVALID_VALUE;
        /* Any of more than one block is as impossible as every other. */
        *blocks = a->value.dim.x > 1 || a->value.dim.y > 1 || a->value.dim.z > 1 ? 2 : 1;
    }
    return CUDA_SUCCESS;
}

CUresult rrto_cuOccupancyMaxActiveClusters(int *numClusters, CUfunction func,
                                           const CUlaunchConfig *config)
{
    enum { REQUIRED_WIDTH = 11 };
    struct rrto_kernel *kernel;
    uint64_t blocks;
    CUresult result = numClusters ? cluster_of(config, &blocks) : CUDA_INVALID_VALUE;
    if (!result)
        result = rrto_use(func, &kernel);
    if (result)
        return result;
    int required = rrto_kernel_attribute(kernel, REQUIRED_WIDTH);
    if (!blocks && !required) /* CUDA wants it said, there or here */
        return CUDA_INVALID_CLUSTER_SIZE;
    if (blocks > 1 && required)
        return CUDA_INVALID_CLUSTER_SIZE;
    uint64_t threads = (uint64_t)config->blockDimX * config->blockDimY * config->blockDimZ;
    if (!threads)
        return CUDA_INVALID_VALUE;
    *numClusters =
        blocks > 1 ? 0 : (int)rrto_blocks_at_once(kernel, threads, config->sharedMemBytes);
    return CUDA_SUCCESS;
}

CUresult rrto_cuOccupancyMaxPotentialClusterSize(int *clusterSize, CUfunction func,
                                                 const CUlaunchConfig *config)
{
    uint64_t blocks;
    CUresult result = clusterSize ? cluster_of(config, &blocks) : CUDA_INVALID_VALUE;
    if (result)
        return result;
    if (!rrto_kernel_of(func))
        return CUDA_INVALID_HANDLE;
    *clusterSize = 1;
    return CUDA_SUCCESS;
}
