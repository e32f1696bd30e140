"""`rrto top` beside real nodes: one view, a live view in a terminal, and nobody to look at."""

import os
import pty
import select
import signal
import subprocess
import sys
import time

from support.rig import said

TOP = [sys.executable, "-m", "rrto_ros.cli.main", "top"]
LAUNCHES = 8


class Terminal:
    """A command in a terminal of its own, and what it wrote there."""

    def __init__(self, command, env, columns=160):
        self._master, slave = pty.openpty()
        env = {**env, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "50"}
        self.process = subprocess.Popen(
            command, env=env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        self.text = ""

    def wait_for(self, text, timeout_s=40.0):
        """Read until it wrote this, after what was read before."""
        after = len(self.text)
        end = time.monotonic() + timeout_s
        while text not in self.text[after:]:
            assert time.monotonic() < end, self.text[-3000:]
            assert self._read(0.2), self.text[-3000:]

    def ends(self, timeout_s=20.0):
        """Its exit code, when it has ended and all it wrote was read."""
        end = time.monotonic() + timeout_s
        while self._read(0.2):
            assert time.monotonic() < end, "it does not end"
        return self.process.wait(timeout_s)

    def _read(self, timeout_s):
        if not select.select([self._master], [], [], timeout_s)[0]:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:
            return False
        self.text += data.decode(errors="replace")
        return bool(data)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)


def test_the_live_view_follows_a_program_and_ctrl_c_restores_the_terminal(rig):
    rig.both("cpu", mode="replay", server={"server_name": "edge1"})
    program = rig.program("infer.py", 1000, "--pace", "--launches", LAUNCHES, stdin=True)
    said(program, ready=True)
    environment = rig.environment(RRTO_ROBOT=rig.robot)
    terminal = Terminal([*TOP, "--interval", "0.2"], environment)
    try:
        terminal.wait_for("\x1b[?1049h")
        terminal.wait_for("recording")
        for number in range(8):
            program.say("go")
            said(program, iteration=number)
        terminal.wait_for("replaying")
        terminal.wait_for(f"{LAUNCHES + 2} calls, of 1 known")
        once = rig.start("top", [*TOP, "--once"], {**environment, "COLUMNS": "160"})
        assert once.wait() == 0, once.text()
        for part in (
            f"/{rig.robot}/recorder_replayer: active, mode replay, server connected, 1 sessions",
            "offload_server edge1: running, device cpu, 1 sessions", "replay on cpu of edge1",
            f"{LAUNCHES + 2} calls, of 1 known", "0 divergences", "1 round trips", "ms median",
            f"pid {program.pid}",
        ):  # fmt: skip
            assert part in once.text(), once.text()
        assert "\x1b" not in once.text(), "plain text where the output is no terminal"
        program.close_input()
        terminal.wait_for("no session is open")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.ends() == 0, terminal.text[-2000:]
        assert terminal.text.rindex("\x1b[?1049l") > terminal.text.rindex("\x1b[?1049h")
        assert terminal.text.rindex("\x1b[?25h") > terminal.text.rindex("\x1b[?25l")
        assert "Traceback" not in terminal.text
    finally:
        terminal.close()


def test_where_nobody_answers_the_next_step_is_told(rig):
    process = rig.start("top", [*TOP], rig.environment(RRTO_ROBOT=rig.robot))
    assert process.wait(40) == 1
    assert "rrto up" in process.text()
    assert "Traceback" not in process.text()


def test_an_interval_that_makes_no_sense_is_refused(rig):
    process = rig.start("top", [*TOP, "--interval", "0"], rig.environment())
    assert process.wait(40) == 2
    assert "want 0.1 to 60" in process.text()
