"""An inference of a bag, executed here call by call: what each costs, and what goes where.

The bag's calls are executed on the virtual device of this machine, from the first to the last, so
that memory, modules and graphs are what they were. Those of the sequence that is found most often
are timed and looked at each time that they come.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rrto_ros.api.ops import Kind
from rrto_ros.devices.registry import DeviceSettings, create_device
from rrto_ros.errors import ConfigError, ProtocolError
from rrto_ros.evaluation.analyze import Analysis, analyze_log
from rrto_ros.evaluation.analyze_bag import log_of
from rrto_ros.execution.executor import Executor
from rrto_ros.robot.search import SearchOptions
from rrto_ros.schedule.costs import Data, Measured
from rrto_ros.schedule.dataflow import Flow, Touched, flows
from rrto_ros.wire.blob_store import BlobStore
from rrto_ros.wire.codec import iter_headers, pack_call
from rrto_ros.wire.format import RESULT_PROFILE, Buffer
from rrto_ros.wire.literal import LiteralReader
from rrto_ros.wire.profiles import ProfiledCall, ProfileReader
from rrto_ros.wire.result_codec import iter_results

if TYPE_CHECKING:
    from rrto_ros.ros.bag_file import RecordedSession

_ON_DEVICE = (Kind.WORK, Kind.OPEN)
_NUMBER = 1
"""Of the only profile that is made."""


@dataclass(frozen=True)
class Profiled:
    """An inference as it was executed here.

    Attributes:
        program: Of the session.
        inferences: How often it was executed.
        pieces: Its calls and the nodes of its graphs, without those that touch no memory.
        tensors: What goes between them, by their places in `pieces`.
        unknown: Names of kernels of which it is not known what they access.
    """

    program: str
    inferences: int
    pieces: tuple[ProfiledCall, ...]
    tensors: tuple[Flow, ...]
    unknown: tuple[str, ...]

    def measured(self, slower: float) -> Measured:
        """What a schedule needs, of a robot that takes so many times longer than this machine.

        Uploads and what the program reads stay at the robot; an upload that is the same each time
        is at both places.
        """
        at_robot = [n for n, p in enumerate(self.pieces) if p.kind not in _ON_DEVICE]
        times = [p.typical if p.kind in _ON_DEVICE else 0.0 for p in self.pieces]
        return Measured(
            local_s=tuple(slower * seconds for seconds in times),
            edge_s=tuple(times),
            data=tuple(
                Data(t.producer, t.readers,
                     0 if self.pieces[t.producer].constant else t.bytes, t.bytes)
                for t in self.tensors
            ),
            at_robot=frozenset(at_robot),
        )  # fmt: skip


def profile_bag(
    path: str | os.PathLike[str],
    *,
    algorithm: str = "operator_sequence",
    options: SearchOptions | None = None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Profiled:
    """Execute the longest session of a bag here and look at its most frequent sequence.

    Args:
        path: Folder of the bag, or file.
        algorithm: Of the search, one of `rrto_ros.robot.search.ALGORITHMS`.
        options: Of the search.
        progress: Told how many batches of how many are done.

    Raises:
        ConfigError: It is no bag, or no sequence repeats in it.
        ProtocolError: A message is missing, damaged or sealed, or a call fails here.
    """
    # Only here: a log in a file of its own needs no reader of bags.
    from rrto_ros.ros.bag_file import read_bag

    sessions = [(s, log_of(s)) for s in read_bag(Path(path))]
    if not sessions:
        raise ConfigError(f"{path}: there are no driver calls in it")
    session, log = max(sessions, key=lambda s: len(s[1]))
    analysis = analyze_log(log, algorithm=algorithm, options=options)
    if not analysis.found:
        raise ConfigError(
            f"{path}: no sequence of calls repeats; record more inferences, or see "
            "min_repetitions and min_length"
        )
    return profile_session(session, analysis, progress)


def profile_session(
    session: RecordedSession,
    analysis: Analysis,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Profiled:
    """Execute a session here and look at its most frequent sequence.

    Args:
        session: Of a bag.
        analysis: Of its calls; at least one sequence was found.
        progress: Told how many batches of how many are done.

    Raises:
        ProtocolError: A call fails here, or an upload is missing.
    """
    places = _places(analysis, session.batches)
    settings = DeviceSettings(
        limit_bytes=max(1 << 30, session.arena_bytes // 8), arena_base=session.arena_base
    )
    with tempfile.TemporaryDirectory(prefix="rrto-profile-") as folder:
        device = create_device("cpu", settings)
        try:
            executor = Executor(device, BlobStore(Path(folder), 1 << 40))
            reader = LiteralReader()
            for done, batch in enumerate(session.batches):
                executor.execute(b"".join(_announced(reader.read(batch), places)))
                if executor.sticky or executor.malformed or executor.blocked:
                    raise ProtocolError(_why(executor))
                progress(done + 1, len(session.batches))
            memory = [(base, base + size) for base, size in executor.memory]
            profile = _told(executor)
        finally:
            device.close()
    pieces = tuple(p for p in profile if p.reads != () or p.writes != ())
    tensors = flows([Touched(p.reads, p.writes, p.covers) for p in pieces], memory)
    unknown = sorted({p.name for p in pieces if p.reads is None or p.writes is None})
    times = len(analysis.found[0].starts)
    return Profiled(session.program, times, pieces, tensors, tuple(unknown))


def _places(analysis: Analysis, batches: list[bytes]) -> dict[int, int]:
    """Index of each call that belongs to the most frequent sequence -> its place in it."""
    reader = LiteralReader()
    indices = [
        header.index
        for batch in batches
        for record in reader.read(batch)
        for header in iter_headers(record)
    ][analysis.log.base :]
    own: list[int] = np.flatnonzero(analysis.labels == 0).tolist()
    return {indices[at]: int(analysis.items[at]) for at in own}


def _announced(records: Iterable[Buffer], places: dict[int, int]) -> Iterator[Buffer]:
    """A batch's calls; those of the sequence are announced one by one.

    Other calls may come between them, so that they have no range of their own.
    """
    for record in records:
        index = next(iter_headers(record)).index
        place = places.get(index)
        if place is not None:
            yield pack_call("profile", 0, number=_NUMBER, first=index - place, calls=place + 1)
        yield record


def _told(executor: Executor) -> list[ProfiledCall]:
    """What the executor found of the calls that were announced."""
    reader = ProfileReader(_NUMBER)
    results = executor.execute(pack_call("profile", 0, number=_NUMBER, first=0, calls=0))
    for result in iter_results(results):
        if result.flags & RESULT_PROFILE:
            reader.take(result)
    if reader.error or not reader.done:
        raise ProtocolError(f"the calls cannot be told of: {reader.error or 'no end came'}")
    return reader.calls


def _why(executor: Executor) -> str:
    said = executor.statistics()
    if executor.blocked:
        return (
            "the bag names an upload that is not in it; record it anew with `rrto bag record` "
            "running before the program starts"
        )
    return f"the recorded calls fail here: {said['malformed'] or said['sticky_text']}"
