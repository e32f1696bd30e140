"""Where a kernel's stores go, from its PTX, its arguments and its geometry."""
