"""Server-side CUDA devices behind one protocol: cpu (virtual), gpu (cuda-python), null."""
