"""How many registers a kernel needs: the 32-bit words of what is alive where most is.

That is what a compiler for a GPU has to find room for. Predicates have registers of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rrto_ros.devices.cpu.passes.cfg import Block, destinations, live_in, sources

_BITS = {"float": 32, "double": 64, "half": 16}


def register_words(blocks: Sequence[Block], types: Mapping[str, str]) -> int:
    """Most 32-bit words that are alive at once.

    Args:
        blocks: The kernel's.
        types: Register -> LLVM type.
    """
    words = {name: _words(kind) for name, kind in types.items()}
    at_start = live_in(list(blocks))
    most = 0
    for block in blocks:
        alive = set[str]().union(*(at_start[target] for target in block.targets))
        alive.update(reg.name for reg in (block.guard, block.selector) if reg is not None)
        if block.barrier is not None:
            alive.update(sources(block.barrier))
        now = sum(words.get(name, 0) for name in alive)
        most = max(most, now)
        for instr in reversed(block.instrs):
            made = destinations(instr)
            read = set(sources(instr))
            # A result needs a place, also where nobody reads it.
            most = max(most, now + sum(words.get(n, 0) for n in made if n not in alive))
            for name in made:
                if name in alive and name not in read:
                    alive.discard(name)
                    now -= words.get(name, 0)
            for name in read - alive:
                alive.add(name)
                now += words.get(name, 0)
            most = max(most, now)
    return most


def _words(kind: str) -> int:
    bits = _BITS.get(kind) or int(kind.removeprefix("i") or 0)
    return 0 if bits == 1 else -(-bits // 32)
