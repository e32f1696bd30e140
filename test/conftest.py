"""What every test shares: the helpers of test/support and the fixtures that clean up after them."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
