"""The tables that the CUDA runtime library asks for, slot by slot."""

import struct
import uuid

import pytest
from support.shim_peer import CASES, Peer

from rrto_ros.api.runtime_tables import (
    TABLES,
    VALIDITY_FIXED,
    VALIDITY_KEY,
    VALIDITY_REFUSED,
    VALIDITY_VARIABLE,
)
from rrto_ros.shim.emit_c import NEEDS
from rrto_ros.shim.emit_tables import md2_table

PROGRAM = CASES.parent / "runtime_tables.py"


def run(case, **environment):
    with Peer() as peer:
        found = peer.case(case, program=PROGRAM, **environment)
        return found, peer.rings[0].refusals(), peer.stderr


def test_the_description_fits_the_tables_that_are_served():
    assert len({table.id_bytes for table in TABLES}) == len(TABLES)
    for table in TABLES:
        assert str(uuid.UUID(table.id)) == table.id
        numbers = [slot.number for slot in table.slots]
        assert sorted(set(numbers)) == numbers
        assert set(numbers) <= set(table.functions())
        assert {slot.needs for slot in table.slots} <= NEEDS.keys()


def test_every_slot_that_is_not_described_is_refused_by_name():
    with Peer() as peer:
        refused = peer.case("served", program=PROGRAM)
        names = peer.rings[0].refusals()
        counted = peer.rings[0].counters().unsupported
    assert len(refused) > 90
    assert counted == len(refused) == sum(names.values())
    # There is room for so many names; the rest are counted together.
    assert names.keys() - {"others"} <= refused.keys()
    assert len(names) > 20


@pytest.mark.parametrize("case", ["plain", "modules", "storage", "ends", "endless", "threads"])
def test_a_program_finds_in_the_tables_what_public_sources_describe(case):
    _, names, _ = run(case)
    wanted = {"table CUDART_INTERFACE: a module with options": 2} if case == "modules" else {}
    assert names == wanted


def test_the_validity_check_is_refused_and_explained_once_if_nobody_asked_for_it():
    _, names, said = run("refused_check")
    assert names == {VALIDITY_REFUSED: 2}
    assert said.count("rrto run --cuda-runtime") == len(said.splitlines()) == 1


# ---- the digest, written once more from RFC 1319 and RFC 2104


def md2(data):
    table = md2_table()
    data += bytes([16 - len(data) % 16]) * (16 - len(data) % 16)
    sums, last = bytearray(16), 0
    for at in range(0, len(data), 16):
        for i in range(16):
            sums[i] ^= table[data[at + i] ^ last]
            last = sums[i]
    state = bytearray(48)
    for at in range(0, len(data) + 16, 16):
        block = (data + sums)[at : at + 16]
        state[16:32] = block
        state[32:48] = bytes(a ^ b for a, b in zip(state[:16], block, strict=True))
        t = 0
        for turn in range(18):
            for i in range(48):
                t = state[i] = state[i] ^ table[t]
            t = (t + turn) % 256
    return bytes(state[:16])


def hmac(message):
    inner, outer = (bytes(byte ^ pad for byte in VALIDITY_KEY) for pad in (0x36, 0x5C))
    return md2(outer + md2(inner + message))


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        ("", "8350e5a3e24c153df2275c9f80692773"),
        ("abc", "da853b0d3f88d99b30283a69e6ded6bb"),
        ("abcdefghijklmnopqrstuvwxyz", "4e8ddff3650292ab5a4108c3aa47940b"),
    ],
)
def test_the_table_and_the_digest_are_those_of_rfc_1319(text, digest):
    assert md2(text.encode()).hex() == digest


def test_the_answer_is_the_digest_over_what_the_runtime_knows_too():
    with Peer() as peer:
        found = peer.case("check", program=PROGRAM, **{VALIDITY_VARIABLE: "1"})
        assert peer.rings[0].refusals() == {}
    answers = found["answers"]
    for version, fixed in ((12080, 0), (12081, 1)):
        assert answers[f"{version} 5"] == struct.pack("<2Q", *VALIDITY_FIXED[fixed]).hex()
    for version, seconds in ((13002, 5), (13002, 6), (13003, 5)):
        message = struct.pack(
            "<4I4Q16s3i", found["driver"], version, found["process"], found["thread"],
            *found["tables"], found["function"], seconds, bytes.fromhex(found["uuid"]),
            *found["pci"],
        )  # fmt: skip
        assert answers[f"{version} {seconds}"] == hmac(message).hex()
    assert len(set(answers.values())) == 5
