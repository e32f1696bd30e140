"""Which build of the shim the tests' programs load, and which Python runs these programs.

The product's own, and this Python, unless another test runs a test file with a build for a
sanitizer or for another processor, and says so by these variables.
"""

import json
import os
import sys

from rrto_ros.shim.build import ensure_built

FOLDER, PRELOAD, PYTHON = "RRTO_TEST_SHIM", "RRTO_TEST_PRELOAD", "RRTO_TEST_PYTHON"


def shim_environment():
    """Variables with which a program loads the shim under test."""
    out = {"LD_LIBRARY_PATH": os.environ.get(FOLDER) or str(ensure_built())}
    if preloaded := os.environ.get(PRELOAD):
        # The allocator of the sanitizer, so that it sees the limits of the program's buffers.
        out |= {"LD_PRELOAD": preloaded, "PYTHONMALLOC": "malloc"}
    return out


def python():
    """The command that runs a program which is Python."""
    return json.loads(os.environ.get(PYTHON) or json.dumps([sys.executable]))
