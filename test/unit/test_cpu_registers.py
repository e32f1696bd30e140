"""The registers that a kernel is said to need: what is alive where most is."""

import pytest

from rrto_ros.devices.cpu.facts import facts_of
from rrto_ros.devices.cpu.program import prepare

HEAD = ".version 7.0\n.target sm_70\n.address_size 64\n"


def kernel(body, name="k"):
    return (
        f".visible .entry {name}(.param .u64 p) {{ .reg .b64 %rd<40>; .reg .b32 %r<80>; "
        f".reg .pred %q<4>;\n{body}\nret; }}\n"
    )


def words(body):
    return facts_of(prepare(HEAD + kernel(body))).kernels[0].registers


def sums(count):
    """Loads `count` words, then adds them up: all are alive at once, and the address."""
    lines = ["ld.param.u64 %rd1, [p];"]
    lines += [f"ld.global.u32 %r{i}, [%rd1 + {4 * i}];" for i in range(count)]
    lines += ["mov.u32 %r79, 0;"]
    lines += [f"add.u32 %r79, %r79, %r{i};" for i in range(count)]
    return "\n".join([*lines, "st.global.u32 [%rd1], %r79;"])


@pytest.mark.parametrize("count", [1, 5, 40])
def test_words_that_are_alive_at_once_count(count):
    assert words(sums(count)) == count + 1 + 2


def test_a_register_that_is_used_again_and_again_counts_once():
    lines = ["ld.param.u64 %rd1, [p];"]
    lines += ["ld.global.u32 %r1, [%rd1];", "st.global.u32 [%rd1 + 4], %r1;"] * 20
    assert words("\n".join(lines)) == 3


def test_predicates_have_registers_of_their_own_and_64_bits_count_twice():
    body = """ld.param.u64 %rd1, [p]; ld.global.u64 %rd2, [%rd1]; setp.ne.u64 %q1, %rd2, 0;
    @%q1 st.global.u64 [%rd1 + 8], %rd2;"""
    assert words(body) == 4


def test_what_a_loop_keeps_is_alive_around_it():
    body = """ld.param.u64 %rd1, [p]; ld.global.u32 %r1, [%rd1]; ld.global.u32 %r2, [%rd1 + 4];
    LOOP: ld.global.u32 %r3, [%rd1 + 8]; add.u32 %r2, %r2, %r3; setp.lt.u32 %q1, %r2, 9;
    @%q1 bra LOOP;
    add.u32 %r2, %r2, %r1; st.global.u32 [%rd1], %r2;"""
    assert words(body) == 2 + 3


def test_no_more_than_the_text_allows_are_said():
    text = kernel(sums(40)).replace(") {", ") .maxntid 64 .maxnreg 24 {", 1)
    assert facts_of(prepare(HEAD + text)).kernels[0].registers == 24


def test_a_kernel_that_does_nothing_needs_none():
    assert words("") == 0
