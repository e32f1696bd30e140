"""What the manual leaves open, as docs/ptx_support.md decides it."""

import numpy as np
import pytest

HEAD = ".version 8.0\n.target sm_80\n.address_size 64\n"


def run(harness, body: str, count: int, threads: int = 32) -> np.ndarray:
    """`count` words of each thread: %r1... of the body, one row for each thread."""
    stores = "".join(f"st.global.u32 [%rd1+{4 * i}],%r{i + 1};" for i in range(count))
    text = (
        HEAD
        + f""".visible .entry k(.param .u64 out) {{
 .reg .b32 %r<40>; .reg .b64 %rd<9>; .reg .f32 %f<20>; .reg .pred %p<4>;
 ld.param.u64 %rd1,[out]; mov.u32 %r39,%tid.x; mul.wide.u32 %rd2,%r39,{4 * count};
 add.u64 %rd1,%rd1,%rd2; {body} {stores} ret; }}"""
    )
    (found,) = harness.launch(
        harness.load(text),
        "k",
        (1, 1, 1),
        (threads, 1, 1),
        [np.zeros((threads, count), np.uint32)],
    )
    return found


FLAGS = {
    # What sets the flag, and whether it is the carry of an adder.
    "sub.cc.u32 %r30,7,7;": 1,
    "sub.cc.u32 %r30,6,7;": 0,
    "sub.cc.s32 %r30,0,1;": 0,
    "add.cc.u32 %r30,1,1;": 0,
    "add.cc.u32 %r30,-1,1;": 1,
    "mad.lo.cc.u32 %r30,1,-1,-1;": 1,
    "mad.hi.cc.u32 %r30,-1,-1,1;": 0,
    "add.cc.u32 %r30,1,1; subc.cc.u32 %r30,0,0;": 0,
    "add.cc.u32 %r30,-1,1; subc.cc.u32 %r30,0,0;": 1,
    "sub.cc.u32 %r30,6,7; addc.cc.u32 %r30,-1,0;": 0,
    "sub.cc.u32 %r30,7,7; addc.cc.u32 %r30,-1,0;": 1,
}


@pytest.mark.parametrize("setter", FLAGS)
def test_the_carry_flag_is_what_the_adder_of_the_hardware_leaves(harness, setter):
    flag = FLAGS[setter]
    found = run(harness, f"{setter} addc.u32 %r1,0,0; subc.u32 %r2,0,0; subc.u32 %r3,9,4;", 3)
    assert (found == np.array([flag, flag - 1, 4 + flag]).astype(np.int64).astype(np.uint32)).all()


def test_a_subtraction_of_many_words_borrows(harness):
    rng = np.random.default_rng(5)
    for _ in range(4):
        x, y = (int.from_bytes(rng.bytes(16), "little") for _ in range(2))
        words = [[v >> 32 * i & 0xFFFFFFFF for i in range(4)] for v in (x, y)]
        ops = ("sub.cc", "subc.cc", "subc.cc", "subc")
        body = "".join(
            f"{op}.u32 %r{i + 1},{words[0][i]},{words[1][i]};" for i, op in enumerate(ops)
        )
        found = run(harness, body, 4)
        wanted = (x - y) % (1 << 128)
        assert sum(int(v) << 32 * i for i, v in enumerate(found[7])) == wanted


def test_sine_and_cosine_of_what_has_no_fraction_of_a_turn_are_those_of_zero(harness):
    body = "".join(
        f"mov.f32 %f1,{v}; sin.approx.f32 %f2,%f1; mov.b32 %r{2 * i + 1},%f2;"
        f"cos.approx.f32 %f3,%f1; mov.b32 %r{2 * i + 2},%f3;"
        for i, v in enumerate(("1e30", "-1e30", "3.4e38"))
    )
    found = run(harness, body, 6).view(np.float32)
    assert (np.abs(found) == np.array([0, 1] * 3)).all()
