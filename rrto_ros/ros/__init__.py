"""Topics, services, clients and bags: what the two ends say, over ROS 2."""
