"""The names that users choose from; here, so that a command line knows them without the rest."""

from __future__ import annotations

MODES = ("rpc", "batched", "replay", "local", "partition")
LOCAL = "local"
"""The mode in which sessions run on the robot's own device."""
PARTITION = "partition"
"""The mode in which they run there and at an edge."""
ON_ROBOT = (LOCAL, PARTITION)
"""The modes in which the robot's own place has the session."""
PARTITION_ALGORITHMS = ("min_cut", "mcop", "all_local", "all_edge")
OBJECTIVES = ("latency", "energy", "weighted")
EXACT = "exact"
TRANSFER_PRECISIONS = (EXACT, "adaptive")
RESUME = ("exact", "off")
FALLBACK = ("none", "local")
COMPRESSION = ("auto", "off")
DEVICES = ("cpu", "gpu", "null")
CONFINEMENTS = ("auto", "required", "off")
SEARCHES = ("operator_sequence", "data_dependency")
AUTHENTICATION = ("on", "off")
RUN_AHEAD = ("off", "reads", "auto")
"""What the server may execute before the program calls it: nothing, calls that only read, or calls
that write as well, where rolling them back is cheaper than the exchanges that are saved."""


def travels(mode: str) -> str:
    """The mode in which calls travel to wherever they are executed: to the robot's device, too."""
    return "replay" if mode in ON_ROBOT else mode
