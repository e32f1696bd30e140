"""Waits until a robot's recorder and server are up, then becomes an interposed program.

    python -m rrto_ros.bringup.when_ready --robot robot -- COMMAND...

The process keeps its id, so whoever started it signals and waits for the program itself. A program
of another Python environment than this one wants --foreign.
"""

from __future__ import annotations

import argparse
import os
import sys

from rrto_ros.bringup.environment import find_program, interposed_environment
from rrto_ros.bringup.options import Options
from rrto_ros.bringup.stand_ins import with_stand_ins
from rrto_ros.errors import RrtoError
from rrto_ros.wire.port import SERVER

READY_TIMEOUT_S = 60.0
STATUS_S = 3.0


def main(arguments: list[str] | None = None) -> int:
    """Wait, then replace this process; returns only if that failed."""
    parser = argparse.ArgumentParser(prog="when_ready", description=__doc__)
    parser.add_argument("--robot", default="robot")
    parser.add_argument("--label", default="")
    parser.add_argument("--timeout", type=float, default=READY_TIMEOUT_S, help="seconds")
    parser.add_argument("--foreign", action="store_true", help="as of interposed_environment")
    parser.add_argument("command", nargs="+")
    chosen = parser.parse_args(arguments)
    try:
        environment = interposed_environment(
            os.environ, chosen.robot, chosen.label, foreign=chosen.foreign
        )
        program = find_program(chosen.command[0], environment)
        # Imported late: a wrong argument is told without ROS.
        from rrto_ros.ros.client import RobotClient

        with RobotClient(chosen.robot, Options(robot=chosen.robot).domain_number()) as client:
            client.wait_ready(chosen.timeout)
            client.wait(lambda: client.status(SERVER) is not None, STATUS_S)
            status = client.status(SERVER)
            environment = with_stand_ins(environment, str(status["device"]) if status else "")
    except RrtoError as error:
        sys.stderr.write(f"when_ready: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    sys.stdout.flush()
    return os.execve(program, chosen.command, environment)


if __name__ == "__main__":
    raise SystemExit(main())
