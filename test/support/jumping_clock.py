"""Programs whose wall clock jumps when a test wants it to; no other clock of theirs does."""

import struct
import subprocess
from pathlib import Path

from rrto_ros.shim.build import compiler

SOURCE = Path(__file__).resolve().parent / "clock_jump.c"


class JumpingClock:
    """The clock of the programs that start with `variables`.

    Args:
        folder: For the library and the file that it reads.
    """

    def __init__(self, folder):
        library, self._file = folder / "clock_jump.so", folder / "clock_jump"
        self._file.write_bytes(struct.pack("<d", 0.0))
        command = [compiler(), "-std=c11", "-O2", "-shared", "-fPIC", "-Wall", "-Werror"]
        subprocess.run([*command, SOURCE, "-o", library, "-ldl", "-pthread"], check=True)
        self.variables = {"LD_PRELOAD": str(library), "CLOCK_JUMP": str(self._file)}

    def jump(self, seconds):
        """It is wrong by so much from now on."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("<d", seconds))
