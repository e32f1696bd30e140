"""The recorder of `partition_link`: its robot has a slower device, and may be told the cut.

    slow_recorder.py TIMES FOLDER [ROS arguments]

The node is the package's own. Its device is `slow_device`, TIMES slower than this machine; 1: as
it is. In mode `partition` each choice of a placement is told in FOLDER/told.json, with what the
model says it takes; where there is a FOLDER/cut, the number in it is the first call that runs at
the edge, all before it run here (but for those that can only run at one side), whatever is best.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

from rrto_ros.confinement import OFF
from rrto_ros.nodes import local_table, recorder_replayer
from rrto_ros.robot.partition import planner
from rrto_ros.schedule.hysteresis import Chooser
from rrto_ros.schedule.problem import Placement, Problem

TOLD, CUT = "told.json", "cut"
DEVICE = Path(__file__).resolve().parent / "slow"
"""A folder of its own: workers look for their modules there first."""


def prefix(unit: Problem, cut: int) -> Placement:
    """All from a call on at the edge, as far as they may."""
    here, away = unit.all_local, unit.all_edge
    return tuple(away[n] if n >= cut else here[n] for n in range(len(here)))


def _single_cuts(unit: Problem) -> dict[Placement, int]:
    return {prefix(unit, cut): cut for cut in range(len(unit.local) + 1)}


class ToldChooser(Chooser):
    """A chooser that tells, and is told."""

    folder = Path()
    longest = 0
    """Calls of the longest plan so far: that is the inference."""
    _cuts: dict[Placement, int] | None = None

    def choose(self, up_bytes_per_s: float, now_s: float) -> Placement:
        """As `Chooser.choose`."""
        table, file = self._table, self.folder / CUT
        placement = super().choose(up_bytes_per_s, now_s)
        told: dict[str, object] = {}
        if file.exists():
            placement = prefix(table.unit, int(file.read_text()))
            # To know which single cuts are worth a look, all of them are priced.
            if self._cuts is None:
                self._cuts = _single_cuts(table.unit)
            costs = {
                cut: table.line(placed).cost(up_bytes_per_s) for placed, cut in self._cuts.items()
            }
            told["cuts_s"] = costs
        told |= {
            "predicted_s": table.line(placement).cost(up_bytes_per_s),
            "bytes_per_s": up_bytes_per_s,
            "round_trip_s": table.round_trip_s,
            "calls": len(placement),
            "at_edge": sum(placement),
            "robot_s": sum(table.unit.local),
            "edge_s": sum(table.unit.edge),
        }
        if len(placement) >= ToldChooser.longest:
            ToldChooser.longest = len(placement)
            other = self.folder / f"{TOLD}.{os.getpid()}"
            other.write_text(json.dumps(told))
            other.replace(self.folder / TOLD)
        return placement


def main() -> int:
    """Run the node."""
    times, folder, *arguments = sys.argv[1:]
    ToldChooser.folder = Path(folder)
    planner.Chooser = ToldChooser  # type: ignore[misc]
    if times != "1":
        os.environ["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(DEVICE), os.environ.get("PYTHONPATH")])
        )
        settings = local_table.ServerSettings
        local_table.ServerSettings = partial(  # type: ignore[misc, assignment]
            settings, factory=f"slow_device:by_{times}", confinement=OFF
        )
    return recorder_replayer.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
