"""What every test shares: the helpers of test/support, and logs of processes when a test fails."""

import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from support.domains import domain_lock
from support.rig import Rig

from rrto_ros.ros.shared_memory import remove_litter


@pytest.hookimpl(tryfirst=True)  # before the groups are read
def pytest_collection_modifyitems(items):
    """Tests with real nodes wait more than they compute; those of a file go one by one."""
    for item in items:
        path = Path(item.path)
        if path.parent.name == "ros":
            item.add_marker(pytest.mark.ros)
            item.add_marker(pytest.mark.xdist_group(path.stem))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        for rig in getattr(item, "funcargs", {}).values():
            if isinstance(rig, Rig):
                for name, text in rig.logs().items():
                    report.sections.append((f"output of {name}", text))
    return report


@pytest.fixture
def sockets():
    """A folder for sockets: their paths have 107 characters, and tmp_path may have more."""
    with tempfile.TemporaryDirectory(prefix="rrto-", dir="/tmp") as made:
        yield Path(made)


@pytest.fixture
def ros_domain():
    """A ROS domain that no other test on this machine uses meanwhile."""
    with domain_lock() as number:
        yield number


@pytest.fixture
def rig(ros_domain, tmp_path, monkeypatch):
    """A robot and an edge whose nodes and programs this test starts and breaks."""
    # For nodes of the test itself: they meet those of the rig only if both look alike.
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("ROS_STATIC_PEERS", "127.0.0.1")
    made = Rig(ros_domain, tmp_path)
    try:
        yield made
    finally:
        made.close()
        remove_litter()  # of nodes that were killed, once it is old enough
