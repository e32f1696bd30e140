"""The drop-in libcuda.so.1: generator, C sources and their build."""
