"""Binary floating-point numbers as fractions: what a format holds, how values are rounded to it.

Knows nothing of NumPy's or the processor's arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Format:
    """A binary floating-point format: width, bits of the significand, largest exponent."""

    bits: int
    precision: int
    top: int

    @property
    def infinity(self) -> int:
        return 2 * self.top + 1 << self.precision - 1


FLOATS = {
    "f16": Format(16, 11, 15),
    "bf16": Format(16, 8, 127),
    "f32": Format(32, 24, 127),
    "f64": Format(64, 53, 1023),
}
NAN, INF = "nan", "inf"
# A value is (negative, magnitude), the magnitude a fraction, INF or NAN.
Value = tuple[bool, Fraction | str]


def decoded(bits: int, form: Format) -> Value:
    negative, bits = bool(bits >> form.bits - 1), bits & (1 << form.bits - 1) - 1
    if bits >= form.infinity:
        return negative, NAN if bits > form.infinity else INF
    exponent, fraction = divmod(bits, 1 << form.precision - 1)
    scale = max(exponent, 1) - form.top - form.precision + 1
    whole = fraction + ((1 << form.precision - 1) if exponent else 0)
    return negative, whole * Fraction(2) ** scale


def whole(x: Fraction, mode: str, negative: bool) -> int:
    """A magnitude rounded to an integer."""
    down = x.numerator // x.denominator
    rest = x - down
    away = {
        "rn": rest > Fraction(1, 2) or (rest == Fraction(1, 2) and down & 1),
        "rna": rest >= Fraction(1, 2),
        "rz": False,
        "rm": rest and negative,
        "rp": rest and not negative,
    }[mode]
    return down + bool(away)


def encoded(value: Value, form: Format, mode: str) -> int:
    """The bits of a value rounded to a format."""
    negative, x = value
    sign = negative << form.bits - 1
    if isinstance(x, str):
        return sign | form.infinity if x == INF else form.infinity + 1
    lowest = 2 - form.top - form.precision  # exponent of the last bit of subnormal numbers
    scale = lowest
    if x:
        length = x.numerator.bit_length() - x.denominator.bit_length()
        length += x >= Fraction(2) ** length  # x < 2 ** length
        scale = max(lowest, length - form.precision)
    # Counting on from the highest significand gives the lowest of the next exponent.
    bits = whole(x / Fraction(2) ** scale, mode, negative)
    bits += (scale - lowest) << form.precision - 1
    if bits >= form.infinity:
        stays = mode == "rz" or mode == ("rp" if negative else "rm")
        bits = form.infinity - stays
    return sign | bits
