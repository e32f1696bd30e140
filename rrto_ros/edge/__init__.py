"""A robot's session on the edge: the table of sessions, their hosts and their worker processes."""
