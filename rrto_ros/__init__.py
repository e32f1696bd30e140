"""Transparent CUDA offloading over ROS 2: record the driver calls, replay them at the edge."""

__version__ = "0.1.0"
