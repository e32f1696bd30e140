"""What another server needs to have a session's state (the robot)."""
