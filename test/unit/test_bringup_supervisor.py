"""The supervisor with ordinary programs: output, exit codes, the order of ending."""

import os
import signal
import sys
import tempfile
import threading
import time

import pytest

from rrto_ros.bringup import supervisor as module
from rrto_ros.bringup.processes import Process
from rrto_ros.bringup.supervisor import Supervisor

# A handler and pause() would lose a signal that comes between its check and the pause.
STAYS = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
print('up', flush=True)
signal.sigwait([signal.SIGINT])
print('ending', flush=True)
"""
STUBBORN = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('up', flush=True)
while True:
    signal.pause()
"""


class Lines:
    """Takes the output and waits for what is expected."""

    def __init__(self):
        self.lines = []
        self._changed = threading.Condition()

    def __call__(self, name, line):
        with self._changed:
            self.lines.append((name, line))
            self._changed.notify_all()

    def wait(self, *wanted):
        with self._changed:
            assert self._changed.wait_for(lambda: set(wanted) <= set(self.lines), 30), self.lines


def python(name, text, **more):
    return Process(name, (sys.executable, "-c", text), **more)


@pytest.fixture
def lines():
    return Lines()


def supervised(lines, *processes):
    supervisor = Supervisor(processes, lines, {"PATH": os.environ["PATH"]})
    supervisor.start()
    return supervisor


def test_the_first_failing_process_gives_the_exit_code(lines):
    bad = python("bad", "print('no'); raise SystemExit(7)")
    supervisor = supervised(lines, python("stays", STAYS), bad)
    assert supervisor.wait() == 7
    # Before, an interrupt would be its end, and an error too.
    lines.wait(("stays", "up"))
    supervisor.stop()
    assert ("bad", "no") in lines.lines
    assert ("bad", "ended with exit code 7") in lines.lines
    assert supervisor.failed() == "bad ended with exit code 7"


def test_a_signal_is_told_by_its_name_and_as_a_shell_would(lines):
    supervisor = supervised(lines, python("bad", "import os; os.kill(os.getpid(), 11)"))
    assert supervisor.wait() == 128 + signal.SIGSEGV
    assert ("bad", "ended with signal SIGSEGV") in lines.lines
    supervisor.stop()


def test_a_node_that_its_watchdog_ended_is_started_again_a_few_times(lines):
    again = python("node", "import os; print('up', flush=True); os.abort()", restarts=True)
    supervisor = supervised(lines, python("stays", STAYS), again)
    assert supervisor.wait() == 128 + signal.SIGABRT
    lines.wait(("stays", "up"))
    supervisor.stop()
    assert lines.lines.count(("node", "up")) == 1 + module.MOST_RESTARTS
    told = [line for _, line in lines.lines if line.startswith("stood still and is started")]
    assert len(told) == module.MOST_RESTARTS
    assert supervisor.statistics()["restarted"] == module.MOST_RESTARTS


@pytest.mark.parametrize(("ends", "restarts"), [("os.abort()", False), ("os._exit(1)", True)])
def test_nothing_else_is_started_again(lines, ends, restarts):
    supervisor = supervised(lines, python("node", f"import os; {ends}", restarts=restarts))
    assert supervisor.wait() != 0
    supervisor.stop()
    assert supervisor.statistics()["restarted"] == 0


def test_processes_end_in_the_reverse_order_of_starting(lines):
    supervisor = supervised(lines, python("first", STAYS), python("second", STAYS))
    lines.wait(("first", "up"), ("second", "up"))
    supervisor.stop()
    ends = [name for name, line in lines.lines if line == "ending"]
    assert ends == ["second", "first"]
    assert supervisor.statistics()["alive"] == 0


def test_one_that_ends_well_ends_the_others_only_if_it_is_to(lines):
    quick = python("quick", "pass")
    last = python("last", "input()", ends_all=True)
    supervisor = supervised(lines, python("stays", STAYS), quick, last)
    # `input` fails at once, since there is no input: exit code 1.
    assert supervisor.wait() == 1
    supervisor.stop()
    supervisor = supervised(lines, python("stays", STAYS), python("last", "", ends_all=True))
    assert supervisor.wait() == 0
    supervisor.stop()


def test_interrupt_ends_the_waiting(lines):
    supervisor = supervised(lines, python("stays", STAYS))
    lines.wait(("stays", "up"))
    supervisor.interrupt()
    assert supervisor.wait() == 0
    supervisor.stop()


def test_a_process_that_ignores_signals_is_killed(lines, monkeypatch):
    monkeypatch.setattr(module, "GRACE_S", 0.2)
    supervisor = supervised(lines, python("stubborn", STUBBORN))
    lines.wait(("stubborn", "up"))
    start = time.monotonic()
    supervisor.stop()
    assert time.monotonic() - start < 10
    assert supervisor.statistics()["alive"] == 0


def test_what_cannot_be_started_ends_what_was_started(lines):
    supervisor = Supervisor(
        [python("stays", STAYS), Process("none", ("/nowhere/program",))], lines, {}
    )
    with pytest.raises(OSError, match="nowhere"):
        supervisor.start()
    assert supervisor.statistics()["alive"] == 0


def test_processes_get_the_given_environment_and_their_own(lines):
    show = python(
        "show",
        "import os; print(os.environ['A'], os.environ['B'])",
        environment={"B": "theirs"},
    )
    supervisor = Supervisor([show], lines, {"A": "base", "B": "base"})
    supervisor.start()
    assert supervisor.wait() == 0
    supervisor.stop()
    assert ("show", "base theirs") in lines.lines


HELD = """
from rrto_ros.bringup.held import await_release
print('imported', flush=True)
print('goes' if await_release() else 'was not needed', flush=True)
"""


def held(lines):
    process = python("node", HELD, held=True)
    supervisor = Supervisor([process], lines, dict(os.environ))
    supervisor.start()
    lines.wait(("node", "imported"))
    return supervisor


def test_a_held_process_goes_on_when_it_is_released(lines):
    supervisor = held(lines)
    assert ("node", "goes") not in lines.lines
    supervisor.release("node", go=True)
    lines.wait(("node", "goes"))
    assert supervisor.wait() == 0
    supervisor.stop()


def test_a_held_process_that_is_not_needed_ends_without_a_failure(lines):
    supervisor = held(lines)
    supervisor.release("node", go=False)
    lines.wait(("node", "was not needed"))
    assert supervisor.wait() == 0
    assert supervisor.failed() == ""
    supervisor.stop()


def test_stopping_ends_a_held_process_and_no_signal_breaks_its_imports(lines):
    supervisor = held(lines)
    supervisor.stop(together=True)
    lines.wait(("node", "was not needed"))
    assert not any("Traceback" in line for _, line in lines.lines)


def test_together_all_are_asked_before_any_is_waited_for(lines):
    # Each waits for the other to be ending, so one after the other would not do.
    text = (
        STAYS
        + """
import os, pathlib, sys
pathlib.Path(sys.argv[1]).touch()
while not pathlib.Path(sys.argv[2]).exists():
    os.sched_yield()
"""
    )
    with tempfile.TemporaryDirectory() as folder:
        names = [f"{folder}/a", f"{folder}/b"]
        processes = [
            Process(str(i), (sys.executable, "-c", text, names[i], names[1 - i])) for i in (0, 1)
        ]
        supervisor = supervised(lines, *processes)
        lines.wait(("0", "up"), ("1", "up"))
        start = time.monotonic()
        supervisor.stop(together=True)
        assert time.monotonic() - start < module.GRACE_S
        assert supervisor.failed() == "", lines.lines


def test_one_that_is_started_anew_is_killed_first_and_is_no_failure(lines, monkeypatch):
    monkeypatch.setattr(module, "GRACE_S", 0.2)
    supervisor = supervised(lines, python("stubborn", STUBBORN), python("stays", STAYS))
    lines.wait(("stubborn", "up"), ("stays", "up"))
    lines.lines.clear()
    assert supervisor.restart("stubborn")
    lines.wait(("stubborn", "up"))
    assert ("stays", "up") not in lines.lines
    assert supervisor.failed() == ""
    assert supervisor.statistics()["alive"] == 2
    assert not supervisor.restart("unknown")
    supervisor.interrupt()
    assert supervisor.wait() == 0, "the killed one told nobody"
    supervisor.stop()
