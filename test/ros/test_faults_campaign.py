"""A few faults of the campaign with real nodes on two emulated machines. Needs root."""

import sys

import pytest
from support import bench

sys.path.insert(0, str(bench.BENCH))

import faults_nodes

pytestmark = pytest.mark.root


@pytest.mark.timeout(300)
def test_faults_of_real_nodes_cost_no_byte_and_leave_nothing():
    seen = faults_nodes.campaign(6, 1, 3, "replay", "auto", longest_cut_s=2.0)
    assert seen.good, (seen.table(), seen.wrong, seen.left)
    assert sum(seen.faults.values()) == 6
    assert seen.programs > 0
