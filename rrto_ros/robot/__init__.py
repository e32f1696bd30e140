"""A program's session on the robot: ring, call log, search, replay, what leaves for the edge."""
