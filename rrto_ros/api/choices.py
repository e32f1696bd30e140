"""The names that users choose from; here, so that a command line knows them without the rest."""

from __future__ import annotations

MODES = ("rpc", "batched", "replay", "local", "partition")
SEARCHES = ("operator_sequence", "data_dependency")
RUN_AHEAD = ("off", "reads", "auto")
"""What the server may execute before the program calls it: nothing, calls that only read, or calls
that write as well, where undoing them is cheaper than the exchanges that are saved."""
