"""Broken and random PTX for fuzzing: mutations of listings, and kernels of random instructions."""

import random
import re

# The code generator fills the table of instructions.
import rrto_ros.devices.cpu.codegen.kernel  # noqa: F401
from rrto_ros.devices.cpu.codegen.table import supported_instructions

_TOKEN = re.compile(r"[\w$%.:]+|\s+|[^\w\s]")
WORDS = [
    ".reg",
    ".b32",
    ".f32",
    ".pred",
    ".shared",
    ".param",
    ".entry",
    ".func",
    ".v4",
    ".u64",
    ".s8",
    ".align",
    ".global",
    ".const",
    ".local",
    ".b8",
    "@%p1",
    "@!%p1",
    "bra",
    "ret",
    "exit",
    "trap",
    "call",
    "bar.sync",
    "shfl.sync.idx.b32",
    "vote.sync.all.pred",
    "atom.global.add.u32",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    ",",
    ";",
    "|",
    "!",
    "-",
    "_",
    "<",
    ">",
    "0",
    "1",
    "-1",
    "32",
    "64",
    "4294967295",
    "99999999999999999999",
    "0f3F800000",
    "0d3FF0000000000000",
    "0x7fffffff",
    "%r1",
    "%rd1",
    "%f1",
    "%p1",
    "%tid.x",
    "%laneid",
    "%nonsense",
    "L1",
    ":",
    '"',
    "//",
    "/*",
    "\0",
    "\xff",
    ".version",
    ".target",
    "8.0",
    ".extern",
    ".maxntid",
    "1e999",
    "=",
]
TYPES = [
    "u8",
    "s8",
    "b8",
    "u16",
    "s16",
    "b16",
    "f16",
    "bf16",
    "f16x2",
    "u32",
    "s32",
    "b32",
    "f32",
    "u64",
    "s64",
    "b64",
    "f64",
    "pred",
    "tf32",
    "b128",
]
MODS = [
    "sat",
    "ftz",
    "rn",
    "rz",
    "rm",
    "rp",
    "lo",
    "hi",
    "wide",
    "approx",
    "full",
    "sync",
    "cc",
    "global",
    "shared",
    "local",
    "const",
    "volatile",
    "v2",
    "v4",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "add",
    "min",
    "max",
    "and",
    "or",
    "xor",
    "cas",
    "exch",
    "inc",
    "up",
    "down",
    "bfly",
    "idx",
    "all",
    "any",
    "ballot",
    "rzi",
    "rni",
    "to",
    "NaN",
    "wrap",
    "clamp",
    "l",
    "r",
    "popc",
    "warp",
    "arrive",
    "param",
    "relaxed",
    "gpu",
]


def mutated(text, rng):
    """A listing with a few tokens or characters changed, moved, doubled or cut off."""
    parts = _TOKEN.findall(text)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        if not parts:
            break
        at = rng.randrange(len(parts))
        match rng.randrange(9):
            case 0:
                del parts[at]
            case 1:
                parts.insert(at, rng.choice(WORDS))
            case 2:
                parts[at] = rng.choice(WORDS)
            case 3:
                other = rng.randrange(len(parts))
                parts[at], parts[other] = parts[other], parts[at]
            case 4:
                parts[at:at] = parts[at : at + rng.randrange(1, 20)]
            case 5:
                del parts[at : at + rng.randrange(1, 30)]
            case 6:
                del parts[at:]
            case 7:
                parts[at] = _changed_opcode(parts[at], rng)
            case _:
                parts[at] = "".join(
                    chr(rng.randrange(256)) if rng.random() < 0.3 else c for c in parts[at]
                )
    return "".join(parts)


def _changed_opcode(token, rng):
    """An opcode with one of its modifiers replaced, added or dropped."""
    head, *mods = token.split(".")
    if not mods:
        return token
    at = rng.randrange(len(mods))
    mods[at : at + rng.randrange(2)] = rng.sample(TYPES + MODS, rng.randrange(3))
    return ".".join([head, *mods])


def random_kernel(rng, opcodes):
    """A kernel of random instructions whose operands mostly fit."""
    lines = []
    for number in range(rng.randrange(1, 12)):
        op = rng.choice(opcodes)
        mods = rng.sample(MODS, rng.randrange(4)) + rng.choices(TYPES, k=rng.randrange(1, 3))
        operands = ", ".join(_operand(rng) for _ in range(rng.randrange(6)))
        guard = rng.choice(["", "", "", "@%p1 ", "@!%p2 "])
        lines.append(f"L{number}: {guard}{op}.{'.'.join(mods)} {operands};")
        if rng.random() < 0.2:
            lines.append(f"{rng.choice(['', '@%p1 '])}bra L{rng.randrange(number + 1)};")
    return (
        ".version 8.0\n.target sm_80\n.address_size 64\n.global .b32 word[4];\n"
        ".visible .entry k(.param .u64 a, .param .u32 n)\n{\n.reg .pred %p<4>;"
        " .reg .b16 %h<4>; .reg .b32 %r<4>; .reg .b64 %rd<4>;"
        " .reg .f32 %f<4>; .reg .f64 %fd<4>;\n"
        ".shared .b32 tile[64]; .local .b32 mine[4];\n" + "\n".join(lines) + "\nret;\n}\n"
    )


def _operand(rng):
    name = rng.choice(["%p", "%h", "%r", "%r", "%r", "%rd", "%f", "%f", "%fd"])
    register = f"{name}{rng.randrange(4)}"
    return rng.choice(
        [
            register,
            register,
            register,
            register,
            f"[{register}]",
            f"[{register}+4]",
            "[a]",
            "[tile]",
            "[word+4]",
            "[mine]",
            "tile",
            "word",
            str(rng.randrange(-70, 70)),
            "0f3F800000",
            "%tid.x",
            "%laneid",
            "_",
            f"!%p{rng.randrange(4)}",
            f"{{{register}, {register}}}",
            f"{register}|%p1",
            "L0",
            "999999999999",
        ]
    )


def cases(listings, seed, count):
    """(seed of the case, text): three mutated listings for each random kernel."""
    opcodes = sorted({*supported_instructions(), "bra", "exit", "ret"})
    for number in range(seed, seed + count):
        rng = random.Random(number)
        yield (
            number,
            (
                random_kernel(rng, opcodes)
                if number % 4 == 0
                else mutated(rng.choice(listings), rng)
            ),
        )
