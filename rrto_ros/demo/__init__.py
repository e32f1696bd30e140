"""The demonstration: a camera, and a perception node that knows nothing of offloading."""
