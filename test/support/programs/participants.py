"""One end stays, the other comes and goes: forks a port again and again and says what it reached.

    participants.py server|robot COUNT BOUND_S KILL_EVERY STILL_S

The first argument is the end that stays. Every KILL_EVERY-th of those that come is killed instead
of closed. For STILL_S seconds from when one comes both ends stand still now and then, as they do
on a machine that is too busy. Prints a JSON line for each: number, seconds until the server
answered (null: not within BOUND_S), how often the robot's participant was made anew. Forked from
one process that has imported everything, so that hundreds take minutes.
"""

import json
import os
import random
import signal
import sys
import time

from rrto_ros.ros.robot_port import RosRobotPort
from rrto_ros.ros.server_port import RosServerPort
from rrto_ros.wire.port import OpenAnswer

ROBOT = "comes_and_goes"


def server():
    return RosServerPort(
        None,
        ROBOT,
        lambda message: None,
        lambda request: OpenAnswer(False, "a test"),
        lambda session, reason, proof: (False, "a test"),
    )


def robot():
    # The other end is there whenever this one is, as a status on other transports would say.
    return RosRobotPort(None, ROBOT, lambda message: None, elsewhere=lambda: True)


def reached(port, bound_s):
    """Seconds until the server answered, None if it did not."""
    begin = time.monotonic()
    while not port.server_seen():
        if time.monotonic() - begin > bound_s:
            return None
        time.sleep(0.005)
    return time.monotonic() - begin


def fork(work):
    """Run `work(write_end)` in a child; (its id, the read end)."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        try:
            work(write_end)
        finally:
            os._exit(0)
    os.close(write_end)
    return pid, read_end


def read_all(end):
    with os.fdopen(end, "rb") as file:
        return file.read()


def stand_still(pids, still_s, chance):
    """Stop and continue processes at random."""
    end = time.monotonic() + still_s
    while time.monotonic() < end:
        time.sleep(chance.uniform(0, 0.15))
        some = [pid for pid in pids if chance.random() < 0.6]
        for pid in some:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(chance.uniform(0.1, 1.5) if some else 0.0)
        for pid in some:
            os.kill(pid, signal.SIGCONT)


def main():
    stays, count, bound_s, kill_every, still_s = sys.argv[1], *map(float, sys.argv[2:])
    chance = random.Random(7)

    def come(kill):
        def work(end):
            port = robot() if stays == "server" else server()
            if stays == "server":
                taken = reached(port, bound_s)
                os.write(end, json.dumps([taken, port.statistics()["renewed"]]).encode())
            else:
                os.write(up_write, b"1")
                os.read(go_read, 1)
            if kill:
                os.kill(os.getpid(), signal.SIGKILL)
            port.close()

        return work

    up_read, up_write = os.pipe()
    go_read, go_write = os.pipe()
    told_read, told_write = os.pipe()

    def stay(end):
        port = server() if stays == "server" else robot()
        os.write(end, b"1")
        while stays == "robot" and os.read(up_read, 1):
            # The one before is still known for a while, so what is asked for is a new answer.
            port._ends.answers.clear()
            port._connected = False
            taken = reached(port, bound_s)
            line = json.dumps([taken, port.statistics()["renewed"]]) + "\n"
            os.write(told_write, line.encode())
        signal.pause()

    staying, ready = fork(stay)
    os.read(ready, 1)
    try:
        with os.fdopen(told_read, "r") as told:
            for number in range(int(count)):
                kill = bool(kill_every) and number % int(kill_every) == 0
                pid, end = fork(come(kill))
                stand_still((pid, staying), still_s, chance)
                if stays == "robot":
                    found = json.loads(told.readline())
                    os.write(go_write, b"1")
                    read_all(end)
                else:
                    found = json.loads(read_all(end))
                os.waitpid(pid, 0)
                print(json.dumps([number, *found]), flush=True)
    finally:
        os.kill(staying, signal.SIGKILL)


if __name__ == "__main__":
    main()
