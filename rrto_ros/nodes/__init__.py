"""ROS 2 nodes: the offloading nodes, and the demo: a camera source and a perception node."""
