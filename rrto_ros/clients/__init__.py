"""The CUDA programs of others: which there are, what an environment holds of them, what runs."""
