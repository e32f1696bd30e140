"""The virtual CUDA device: executes PTX on the CPU (parser, passes, LLVM code, memory)."""
