"""The CUDA driver API as this package sees it: the call table, wire operations and codec."""
