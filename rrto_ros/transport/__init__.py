"""How calls and results travel: the reliable link, the ring to the program, the ROS port."""
