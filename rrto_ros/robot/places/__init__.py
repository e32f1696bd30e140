"""Where sessions run: servers and the robot's own device, and the ways from one to another."""
