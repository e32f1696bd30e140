"""Tables of the words that a stream of messages has: learns them, and finds words in them.

A picture whose bytes were made floats has 256 different words at most, or so many for each of its
channels. They are learnt block by block, and known in the messages that follow, where a word is
found in its table by a hash without collisions (multiplication and shift, as in Dietzfelbinger
et al. 1997, with factors that are tried until one fits).
"""

from __future__ import annotations

import random

import numpy as np

from rrto_ros.wire.coding import (
    BLOCK_WORDS,
    ENTRIES,
    MOST_TABLES,
    NO_TABLE,
    Tables,
    Words,
    lanes_of,
)
from rrto_ros.wire.format import Buffer

_SLOTS = 1 << 16
_TRIES = 64
_AT_ONCE = 64
"""Blocks that are looked at together, at most, for a new table."""
MOST_LEARNT = 8
"""Of one message: looking for new tables costs more than finding words in those that there are."""


class _Table:
    """Up to 256 words for each lane."""

    def __init__(self, lanes: list[Words]) -> None:
        self.lanes = lanes
        self.words = np.zeros((len(lanes), ENTRIES), np.uint32)
        for place, words in enumerate(lanes):
            self.words[place, : len(words)] = words
        self._factor = np.uint32(1)
        self._slots = np.zeros(len(lanes) * _SLOTS, np.uint8)
        rng = random.Random(len(lanes[0]))
        for _ in range(_TRIES):
            self._factor = np.uint32(rng.getrandbits(32) | 1)
            hashes = [(words * self._factor) >> np.uint32(16) for words in lanes]
            # Where no factor fits, a few words are not found, and their blocks stay as they are.
            if all(len(np.unique(one)) == len(one) for one in hashes):
                break
        for place, (one, words) in enumerate(zip(hashes, lanes, strict=True)):
            self._slots[one.astype(np.int64) + place * _SLOTS] = np.arange(len(words))

    def find(self, words: Words, lane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places of words, and whether each block has nothing but words of this table.

        Args:
            words: [blocks, BLOCK_WORDS].
            lane: Of each of them.
        """
        slots = ((words * self._factor) >> np.uint32(16)).astype(np.int32)
        if len(self.lanes) == 1:
            places = self._slots[slots]
            return places, (self.words[0][places] == words).all(axis=1)
        places = self._slots[slots + lane * _SLOTS]
        found = self.words.reshape(-1)[places + lane * ENTRIES]
        return places, (found == words).all(axis=1)


class Palette:
    """The tables of one stream of messages.

    Args:
        lanes: Channels that take turns, word by word.
    """

    def __init__(self, lanes: int = 1) -> None:
        self.lanes = lanes
        self._tables: list[_Table] = []
        self._crowded = False

    def tables(self, data: Buffer) -> tuple[Tables, float]:
        """The words of a message in tables, those that it needs learnt first.

        Returns:
            The tables that it uses, and for which part of it there is one.
        """
        whole = np.frombuffer(data, np.uint32, count=len(data) // 4)
        blocks = len(whole) // BLOCK_WORDS
        words = whole[: blocks * BLOCK_WORDS].reshape(blocks, BLOCK_WORDS)
        lane = lanes_of(blocks, self.lanes)
        kinds = np.full(blocks, NO_TABLE, np.uint8)
        places = np.empty((blocks, BLOCK_WORDS), np.uint8)
        if self._crowded:
            # They are of what came before, and not of this.
            self._tables.clear()
            self._crowded = False
        for number, table in enumerate(self._tables):
            self._look(number, table, words, lane, kinds, places)
        for _ in range(MOST_LEARNT):
            left = np.flatnonzero(kinds == NO_TABLE)
            if len(left) * 50 <= blocks or (new := self._learn(words, lane, left)) is None:
                break
            kinds[kinds == new] = NO_TABLE
            self._look(new, self._tables[new], words, lane, kinds, places)
        return self._used(kinds, places), float((kinds != NO_TABLE).mean()) if blocks else 0.0

    def _look(
        self, number: int, table: _Table, words: Words, lane: np.ndarray, kinds: np.ndarray,
        places: np.ndarray,
    ) -> None:  # fmt: skip
        left = np.flatnonzero(kinds == NO_TABLE)
        if not len(left):
            return
        # Nearly always all of them: then nothing need be copied.
        all_ = len(left) == len(kinds)
        found, fits = table.find(
            words if all_ else words[left], lane if all_ or self.lanes == 1 else lane[left]
        )
        mine = left[fits]
        places[mine] = found[fits]
        kinds[mine] = number

    def _learn(self, words: Words, lane: np.ndarray, left: np.ndarray) -> int | None:
        """Number of a table for blocks that have none; None: there cannot be one."""
        # The first of them may lie where two channels meet.
        start = len(left) // 2
        new: list[Words] = []
        size = 1
        while size <= min(_AT_ONCE, len(left) - start):
            some = left[start : start + size]
            more = self._distinct(words[some], lane if self.lanes == 1 else lane[some])
            if max(map(len, more)) > ENTRIES:
                break
            new = more
            size *= 4
        if not new:
            return None
        for number, table in enumerate(self._tables):
            both = [np.union1d(a, b) for a, b in zip(table.lanes, new, strict=True)]
            old, now = sum(map(len, table.lanes)), sum(map(len, new))
            common = old + now - sum(map(len, both))
            # The same channel, of which not all was seen yet: in the dark, say.
            if max(map(len, both)) <= ENTRIES and common * 2 >= min(old, now):
                self._tables[number] = _Table(both)
                return number
        if len(self._tables) == MOST_TABLES:
            self._crowded = True
            return None
        self._tables.append(_Table(new))
        return len(self._tables) - 1

    def _distinct(self, words: Words, lane: np.ndarray) -> list[Words]:
        if self.lanes == 1:
            return [np.unique(words)]
        return [np.unique(words[lane == place]) for place in range(self.lanes)]

    def _used(self, kinds: np.ndarray, places: np.ndarray) -> Tables:
        numbers = sorted(set(np.unique(kinds).tolist()) - {NO_TABLE})
        renamed = np.full(256, NO_TABLE, np.uint8)
        renamed[numbers] = np.arange(len(numbers))
        tables = [self._tables[number].words for number in numbers]
        words = np.array(tables) if tables else np.empty((0, self.lanes, ENTRIES), np.uint32)
        return Tables(words, renamed[kinds], places[kinds != NO_TABLE].reshape(-1))
