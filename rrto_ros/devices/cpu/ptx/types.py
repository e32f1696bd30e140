"""PTX fundamental types: widths, kinds and the LLVM type that holds a value of each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PtxType:
    """One PTX type.

    Attributes:
        name: Without the leading dot, for example "u32".
        bits: Width of a value.
        kind: "u", "s", "b", "f", "bf", "x2" (two packed 16-bit floats), "i2" (two packed 16-bit
            integers) or "pred".
    """

    name: str
    bits: int
    kind: str

    @property
    def bytes(self) -> int:
        """Size in memory."""
        return max(1, self.bits // 8)

    @property
    def signed(self) -> bool:
        return self.kind == "s"

    @property
    def is_float(self) -> bool:
        """Whether arithmetic on it is floating point (packed pairs excluded)."""
        return self.kind in ("f", "bf")

    @property
    def llvm(self) -> str:
        """The LLVM type that holds one value; bf16 is kept as its bits."""
        return _LLVM_FLOATS.get(self.name) or f"i{self.bits}"

    @property
    def llvm_int(self) -> str:
        return f"i{self.bits}"


_LLVM_FLOATS = {"f16": "half", "f32": "float", "f64": "double", "pred": "i1"}


def _table() -> dict[str, PtxType]:
    types = [PtxType(f"{k}{w}", w, k) for k in "usb" for w in (8, 16, 32, 64)]
    types += [PtxType("f16", 16, "f"), PtxType("f32", 32, "f"), PtxType("f64", 64, "f")]
    types += [PtxType("bf16", 16, "bf"), PtxType("tf32", 32, "b"), PtxType("b128", 128, "b")]
    types += [PtxType("f16x2", 32, "x2"), PtxType("bf16x2", 32, "x2")]
    types += [PtxType("u16x2", 32, "i2"), PtxType("s16x2", 32, "i2")]
    types.append(PtxType("pred", 1, "pred"))
    return {t.name: t for t in types}


TYPES: dict[str, PtxType] = _table()
"""Every type name that the parser knows."""

SPACES = frozenset({"reg", "param", "shared", "global", "const", "local"})
"""State spaces in which variables are declared."""
