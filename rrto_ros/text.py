"""Text of others that people read: owns what of it reaches a log, a terminal or the status."""

from __future__ import annotations


def printable(text: str, most: int = 0) -> str:
    """A text in which nothing moves a cursor, ends a line or changes a terminal.

    Args:
        text: From a program, a robot or a worker.
        most: Characters that are kept of it, 0 for all.
    """
    if most and len(text) > most:
        text = text[:most] + "..."
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escaped(one) for one in text)


def _escaped(one: str) -> str:
    # A surrogate stands for a byte that is no UTF-8, and cannot be written as it is.
    return one.encode("unicode_escape", "surrogatepass").decode()
