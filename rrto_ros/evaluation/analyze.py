"""`rrto analyze`: what the search finds in a recorded log or bag, and where.

The search says which sequences there are; here every call of the log is given to an occurrence
of one of them or to the noise, call by call, so that nothing is counted that is not there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rrto_ros.api.ops import Kind
from rrto_ros.errors import ConfigError, ProtocolError
from rrto_ros.evaluation.analyze_bag import logs_of_bag
from rrto_ros.execution.coverage import runs
from rrto_ros.robot.record.log import CallLog
from rrto_ros.robot.record.log_file import is_log, load
from rrto_ros.robot.search import SearchOptions, Sequence, make_search, shared_prefix
from rrto_ros.robot.search.sequence import plan_of
from rrto_ros.wire.templates import CallTemplate

NOISE = -1


@dataclass(frozen=True)
class Found:
    """A sequence and where it is in the log.

    Attributes:
        sequence: The sequence.
        starts: Positions of the first call of each occurrence, ascending.
        variant_of: The sequence (by place in the analysis) with which it shares most first calls,
            and how many; None if there is none.
    """

    sequence: Sequence
    starts: tuple[int, ...]
    variant_of: tuple[int, int] | None = None


@dataclass(frozen=True)
class Analysis:
    """One session's log, call by call.

    Attributes:
        log: The log.
        algorithm: The search that was used.
        found: The sequences, the most frequent (by calls) first.
        labels: Per call the place in `found`, or NOISE.
        items: Per call its index in the sequence, or -1.
    """

    log: CallLog
    algorithm: str
    found: tuple[Found, ...]
    labels: npt.NDArray[np.int32]
    items: npt.NDArray[np.int32]

    @property
    def noise(self) -> tuple[tuple[int, int], ...]:
        """Runs of calls that belong to no sequence: (first position, calls)."""
        return tuple((self.log.base + a, b - a) for a, b in runs(self.labels == NOISE))

    @property
    def coverage(self) -> float:
        """Share of the calls that belong to a sequence, 0 to 1."""
        return float(np.mean(self.labels != NOISE)) if len(self.labels) else 0.0


def analyze(
    path: str | os.PathLike[str],
    *,
    algorithm: str = "operator_sequence",
    options: SearchOptions | None = None,
) -> list[Analysis]:
    """Analyse a dumped log or a bag of the call topics.

    Args:
        path: Log file, or bag folder or file.
        algorithm: One of `rrto_ros.robot.search.ALGORITHMS`.
        options: Parameters of the search.

    Returns:
        One analysis per session, the longest first.

    Raises:
        ConfigError: The path holds no log.
        ProtocolError: What it holds is damaged.
    """
    source = Path(path)
    if not source.exists():
        raise ConfigError(f"{source}: there is no such log or bag")
    if source.is_file() and is_log(source):
        logs = [load(source)]
    else:
        logs = logs_of_bag(source)
    done = [analyze_log(log, algorithm=algorithm, options=options) for log in logs]
    done.sort(key=lambda a: len(a.log), reverse=True)
    if not done:
        raise ConfigError(f"{source}: there are no driver calls in it")
    return done


def analyze_log(
    log: CallLog, *, algorithm: str = "operator_sequence", options: SearchOptions | None = None
) -> Analysis:
    """Search a log and give each of its calls to a sequence or to the noise."""
    search = make_search(algorithm, log, options)
    search.update(last=True)
    found = list(search.found())
    labels = np.full(len(log), NOISE, np.int32)
    items = np.full(len(log), -1, np.int32)
    starts: dict[int, list[int]] = {i: [] for i in range(len(found))}
    # The longest first: where two fit, the whole inference is meant and not a piece of it.
    for i in sorted(range(len(found)), key=lambda i: len(found[i]), reverse=True):
        for places in occurrences(log, found[i], labels != NOISE):
            labels[places] = i
            items[places] = np.arange(len(places))
            starts[i].append(log.base + int(places[0]))
    weight = [len(starts[i]) * len(found[i]) for i in range(len(found))]
    order = [i for i in sorted(starts, key=lambda i: weight[i], reverse=True) if starts[i]]
    rank = np.full(len(found) + 1, NOISE, np.int32)
    rank[order] = np.arange(len(order))
    kept = [found[i] for i in order]
    _label_polls(log, labels, items)
    return Analysis(
        log,
        algorithm,
        tuple(Found(found[i], tuple(starts[i]), _variant(kept, n)) for n, i in enumerate(order)),
        rank[labels],
        items,
    )


def occurrences(
    log: CallLog, sequence: Sequence, taken: npt.NDArray[np.bool_]
) -> Iterable[npt.NDArray[np.int64]]:
    """Where a sequence is in the log, without overlap, from the left.

    Args:
        log: The log.
        sequence: The sequence.
        taken: Per call of the log whether it is given away already.

    Yields:
        For each occurrence the places of its calls in the log's arrays.
    """
    exact = np.frombuffer(log.exact, np.int32)
    kinds = np.frombuffer(bytes(log.kinds), np.uint8)
    keep = np.ones(len(exact), np.bool_)
    if sequence.thread is not None:
        keep &= np.frombuffer(log.threads, np.uint32) == sequence.thread
    places = np.flatnonzero(keep)
    own = exact[places]
    repeated = np.zeros(len(own), np.bool_)
    repeated[1:] = (kinds[places][1:] == Kind.POLL) & (own[1:] == own[:-1])
    places = places[~repeated]
    own, skeletons = exact[places], np.frombuffer(log.skeletons, np.int32)[places]
    n = len(sequence)
    wanted = [_number(log, item) for item in sequence.items]
    if None in wanted or n > len(own):
        return
    numbers = np.array(wanted, np.int32)
    shape = np.array([log.templates.entry(int(m))[1] for m in numbers], np.int32)
    words = {(v.call, o) for v in sequence.varying for o in range(v.offset, v.offset + v.size, 8)}
    fixed = np.ones(n, np.bool_)
    fixed[[v.call for v in sequence.varying]] = False
    # The rarest fixed call proposes; the comparison of all decides.
    counts = np.bincount(own[np.isin(own, numbers)], minlength=int(numbers.max()) + 1)
    candidates_of = np.where(fixed, counts[numbers], len(own) + 1)
    anchor = int(np.argmin(candidates_of))
    key, where = (own, numbers) if fixed[anchor] else (skeletons, shape)
    next_free = 0
    for start in (np.flatnonzero(key == where[anchor]) - anchor).tolist():
        if start < next_free or start < 0 or start + n > len(own):
            continue
        here = own[start : start + n]
        if words:
            if not (
                np.array_equal(here[fixed], numbers[fixed])
                and np.array_equal(skeletons[start : start + n], shape)
                and _only_varying(log, here, numbers, ~fixed, words)
            ):
                continue
        elif not np.array_equal(here, numbers):
            continue
        at = places[start : start + n]
        if not taken[at].any():
            next_free = start + n
            yield at


def _number(log: CallLog, item: CallTemplate) -> int | None:
    key = item.payload_bytes.to_bytes(4, "little") + item.body
    entry = log.templates.tables[item.code].get(key)
    return entry[0] if entry is not None else None


def _only_varying(
    log: CallLog,
    here: npt.NDArray[np.int32],
    numbers: npt.NDArray[np.int32],
    loose: npt.NDArray[np.bool_],
    words: set[tuple[int, int]],
) -> bool:
    for call in np.flatnonzero(loose & (here != numbers)).tolist():
        a, b = log.templates[int(here[call])].body, log.templates[int(numbers[call])].body
        for o in range(0, len(a), 8):
            if a[o : o + 8] != b[o : o + 8] and (call, o + 24) not in words:
                return False
    return True


def _label_polls(
    log: CallLog, labels: npt.NDArray[np.int32], items: npt.NDArray[np.int32]
) -> None:
    """A repeated query belongs where the query before it does."""
    exact = log.exact
    i = log.kinds.find(int(Kind.POLL), 1)
    while i >= 0:
        if labels[i] == NOISE and exact[i] == exact[i - 1]:
            labels[i], items[i] = labels[i - 1], items[i - 1]
        i = log.kinds.find(int(Kind.POLL), i + 1)


def _variant(found: list[Sequence], n: int) -> tuple[int, int] | None:
    best: tuple[int, int] | None = None
    for m, other in enumerate(found):
        shared = shared_prefix(found[n], other) if m != n else 0
        # The upload alone is no common beginning.
        if shared > 1 and (best is None or shared > best[1]):
            best = (m, shared)
    return best


def report(analysis: Analysis) -> str:
    """The analysis as text, a few lines per sequence."""
    log = analysis.log
    name = ", ".join(f"{k} {v}" for k, v in sorted(log.session.items()))
    threads = len(np.unique(np.frombuffer(log.threads, np.uint32))) if len(log) else 0
    plural = "threads" if threads != 1 else "thread"
    distinct = len(log.templates)
    size = f"{len(log)} calls, {distinct} distinct, {threads} {plural}"
    share = f"{100 * analysis.coverage:.1f} % of the calls"
    lines = [
        f"session {name or '(unnamed)'}: {size}",
        f"search {analysis.algorithm}: {len(analysis.found)} sequences, {share}",
    ]
    if log.base:
        lines.append(f"the oldest {log.base} calls are no longer in the log")
    for n, found in enumerate(analysis.found):
        s = found.sequence
        lines.append(f"sequence {n}: {len(s)} calls, {len(found.starts)} times")
        lines.append(
            f"    first call number {log.index_of(found.starts[0])}, "
            f"last {log.index_of(found.starts[-1])}"
            + (f", thread {s.thread}" if s.thread is not None else "")
            + ("" if s.is_round else ", part of inferences that do not repeat as a whole")
        )
        lines.append(
            f"    {_calls(s)}; {len(s.inputs)} inputs of {s.input_bytes} bytes, "
            f"{len(s.outputs)} outputs, {len(s.sync_points)} sync points"
        )
        if s.varying:
            words = sum(v.size for v in s.varying) // 8
            calls = len({v.call for v in s.varying})
            lines.append(f"    {words} varying words in {calls} calls")
        lines.append(f"    {_plan(s)}")
        if found.variant_of is not None:
            other, shared = found.variant_of
            lines.append(f"    variant of sequence {other}: the first {shared} calls are the same")
    noise = analysis.noise
    lines.append(f"noise: {sum(n for _, n in noise)} calls in {len(noise)} runs")
    for position, count in noise[:8]:
        end = position + count
        lines.append(
            f"    calls {log.index_of(position)} to {log.index_of(end - 1)} "
            f"({count}): {_kinds(log, position, end)}"
        )
    if len(noise) > 8:
        lines.append(f"    and {len(noise) - 8} more runs")
    return "\n".join(lines)


def _plan(sequence: Sequence) -> str:
    """The name under which a recorder that finds this sequence keeps and replays it."""
    try:
        return f"plan {plan_of(sequence).digest.hex()}"
    except ProtocolError as error:
        return f"no plan: {error}"


def _calls(sequence: Sequence) -> str:
    names: dict[str, int] = {}
    for item in sequence.items:
        names[item.op.name] = names.get(item.op.name, 0) + 1
    return ", ".join(f"{n} {name}" for name, n in sorted(names.items(), key=lambda p: -p[1]))


def _kinds(log: CallLog, start: int, end: int) -> str:
    numbers, counts = np.unique(
        np.frombuffer(log.exact, np.int32)[start - log.base : end - log.base], return_counts=True
    )
    names: dict[str, int] = {}
    for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
        name = log.templates[number].op.name
        names[name] = names.get(name, 0) + count
    return ", ".join(f"{n} {name}" for name, n in sorted(names.items(), key=lambda p: -p[1])[:5])
