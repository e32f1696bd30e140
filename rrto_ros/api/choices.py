"""The names that users choose from; here, so that a command line knows them without the rest."""

from __future__ import annotations

READY_MODES = ("rpc", "batched", "replay", "local")
"""The modes that this version can run."""
LATER_MODES = ("partition",)
MODES = (*READY_MODES, *LATER_MODES)
LOCAL = "local"
"""The mode in which sessions run on the robot's own device."""
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
    return "replay" if mode == LOCAL else mode
