"""Code generation: PTX instructions to LLVM IR text, one module per instruction family."""
