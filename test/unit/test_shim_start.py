"""Before a program computes: which device it may see, and what is answered before cuInit."""

import pytest
from support.shim_peer import ARENA_BASE, Peer

NO_DEVICE, NOT_INITIALIZED, OPERATING_SYSTEM = 100, 3, 304


@pytest.fixture(scope="module")
def peer():
    with Peer() as served:
        yield served


@pytest.fixture(scope="module")
def uuid(peer):
    raw = peer.case("visible")["uuid"]
    return "GPU-" + "-".join((raw[:8], raw[8:12], raw[12:16], raw[16:20], raw[20:]))


@pytest.mark.parametrize(
    "value",
    ["0", "0,1", "0,7,-1", "0,-1", "0,nonsense", "0,", " 0", "0 ,1", "00", "+0", "0gpu", "0,GPU-1",
     "{uuid}", "{UUID}", "{start}", "GPU-", " {uuid} ", "{uuid},GPU-ffff", "{uuid},0",
     "{uuid},MIG-{uuid}"],
)  # fmt: skip
def test_a_list_that_begins_with_the_device_shows_it(peer, uuid, value):
    value = value.format(uuid=uuid, UUID="GPU-" + uuid[4:].upper(), start=uuid[:8])
    answer = peer.case("visible", CUDA_VISIBLE_DEVICES=value)
    assert (answer["init"], answer["count"], answer["devices"]) == (0, 0, 1)


@pytest.mark.parametrize(
    "value",
    ["", " ", "-1", "NoDevFiles", "none", "void", "1", "1,0", "-1,0", ",0", "nonsense,0", "0,0",
     "0,00", "{uuid},{start}", "GPU-00000000-0000-0000-0000-000000000000", "{uuid}0", "gpu-",
     "MIG-{uuid}/1/0", "MIG-GPU-", "GPU-ffffffff,{uuid}", "99999999999999999999"],
)  # fmt: skip
def test_a_list_without_the_device_hides_it(peer, uuid, value):
    answer = peer.case("visible", CUDA_VISIBLE_DEVICES=value.format(uuid=uuid, start=uuid[:8]))
    assert (answer["init"], answer["count"]) == (NO_DEVICE, NOT_INITIALIZED)
    assert answer["devices"] == -1
    assert "CUDA_VISIBLE_DEVICES" in peer.stderr


def test_the_order_of_devices_changes_nothing_where_there_is_one(peer):
    for order in ("FASTEST_FIRST", "PCI_BUS_ID"):
        answer = peer.case("visible", CUDA_DEVICE_ORDER=order, CUDA_VISIBLE_DEVICES="0")
        assert (answer["init"], answer["devices"]) == (0, 1)


def test_no_session_is_opened_for_a_program_that_may_not_see_the_device():
    with Peer() as peer:
        peer.case("visible", CUDA_VISIBLE_DEVICES="-1")
        assert peer.hello is None
        peer.case("visible", CUDA_VISIBLE_DEVICES="GPU-123456789abcdef")
        assert peer.rings[0].export_counts()[0] == 0
        assert peer.closed_sessions.acquire(timeout=5)


def test_only_a_few_calls_are_answered_before_cuinit(peer):
    peer.case("not_started")


def test_memory_of_the_program_where_the_device_has_its_addresses_is_said():
    with Peer() as peer:
        address = str(ARENA_BASE + (1 << 20))
        assert peer.case("own_memory_in_the_arena", ADDRESS=address)["init"] == OPERATING_SYSTEM
        assert "memory of the program lies where the device's addresses are" in peer.stderr


def test_the_program_gets_no_memory_where_the_device_has_its_addresses(peer):
    peer.case("arena_is_kept_free")


def test_a_child_of_a_process_that_has_not_started_has_a_session_of_its_own():
    with Peer() as peer:
        peer.case("fork_before_start")
        assert len(peer.rings) == 3
