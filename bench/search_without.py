"""One run of `search_parts`: recorded logs go through record and replay with a part cut out.

The part is cut out of the source text before the search is imported, so that the product needs no
switches. Prints a JSON object: log -> algorithm -> figures.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

Edits = Mapping[str, Sequence[tuple[str, str]]]
"""Module -> (text that is in it once, what takes its place)."""


def edited(source: str, edits: Sequence[tuple[str, str]], where: str) -> str:
    """The source with every edit made.

    Raises:
        SystemExit: A text is not there exactly once; the table of parts is old.
    """
    for old, new in edits:
        if source.count(old) != 1:
            sys.exit(f"{where}: {old!r} is there {source.count(old)} times, want 1; see PARTS")
        source = source.replace(old, new)
    return source


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, edits: Sequence[tuple[str, str]]) -> None:
        super().__init__(name, path)
        self._edits = edits

    def get_code(self, fullname: str) -> CodeType:
        text = edited(Path(self.path).read_text(), self._edits, fullname)
        return compile(text, self.path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, edits: Edits) -> None:
        self._edits = edits

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name not in self._edits:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.origin is None:
            return None
        loader = _Loader(name, spec.origin, self._edits[name])
        return importlib.util.spec_from_file_location(name, spec.origin, loader=loader)


def cut_out(edits: Edits) -> None:
    """Have these modules imported with the edits made; before anything imports them."""
    sys.meta_path.insert(0, _Finder(edits))


def pieces(log: Any) -> Iterator[tuple[memoryview, int, int]]:
    """Records as a recorder takes them, up to a call that waits; the calls; bytes of uploads."""
    from rrto_ros.api.ops import Kind

    waits = (int(Kind.SYNC), int(Kind.POLL))
    piece, calls, carried = bytearray(), 0, 0
    for at, number in enumerate(log.exact):
        template = log.templates[number]
        size = template.payload_bytes
        payload = bytes(size) if size else None
        piece += template.record(log.index_of(log.base + at), log.threads[at], 0, payload)
        calls += 1
        carried += size + -size % 8
        if log.kinds[at] in waits:
            yield memoryview(piece), calls, carried
            piece, calls, carried = bytearray(), 0, 0
    yield memoryview(piece), calls, carried


def followed(log: Any, algorithm: str, memory: Any) -> dict[str, Any]:
    """What record and replay makes of a log."""
    from rrto_ros.robot.replay.replayer import Replayer, ReplayOptions

    replayer = Replayer(ReplayOptions(search=algorithm, run_ahead="off"), memory=memory)
    sent = sum(map(len, replayer.recall()))
    calls = first = 0
    for data, count, carried in pieces(log):
        fed = replayer.feed(data)
        calls += count
        sent += sum(map(len, fed.parts)) - carried
        if fed.ended and not first:
            first = calls
        # The program waits: what is open leaves, then the search has its turn.
        sent += sum(map(len, replayer.close()))
        while replayer.backlog:
            sent += sum(map(len, replayer.think()))
    replayer.end()
    counts = replayer.statistics()
    most = max(replayer.plans, key=lambda p: len(p[0]) * p[1], default=None)
    return {
        "calls": calls,
        "named": counts["referenced_calls"],
        "first": first,
        "plans": counts["plans_defined"],
        "followed": counts["plans_followed"],
        "sent": sent,
        "length": len(most[0]) if most is not None and most[1] else 0,
        "seconds": counts["think_s"],
        "failure": counts["search_failure"],
    }


def measured(path: Path, algorithm: str) -> dict[str, Any]:
    """A log's figures, and those of a second start of the same program."""
    from rrto_ros.robot.plan_store import PlanMemory, PlanStore
    from rrto_ros.robot.record import load

    log = load(path)
    with tempfile.TemporaryDirectory(prefix="rrto-bench-") as folder:
        store = PlanStore(Path(folder))
        found, again = (
            followed(log, algorithm, PlanMemory(store, ("program", "any"))) for _ in range(2)
        )
    return {**found, "again": again["named"], "again_sent": again["sent"]}


def main() -> int:
    edits, algorithms, *logs = sys.argv[1:]
    cut_out(json.loads(edits))
    found = {
        Path(path).stem: {name: measured(Path(path), name) for name in algorithms.split(",")}
        for path in logs
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
