"""A device around another that checks every call against the CUDA driver's documentation."""
