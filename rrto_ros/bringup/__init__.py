"""The one description of what starts: processes, their parameters and their environment.

`launch/offload.launch.py` and `rrto up` both read it, so that they start the same things.
"""
