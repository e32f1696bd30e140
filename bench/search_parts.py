"""Which part of the search does which program need? Each part is cut out, one at a time.

    python bench/search_parts.py LOG...                # logs of bench/search_logs.py
    python bench/search_parts.py LOG... --only varying # parts with these letters in their names

A log goes through the recorder's record and replay as a program's calls would, with a part cut
out of the source (`search_without`). Fewer calls named in references, more bytes sent, more and
shorter sequences, a later first one, a poorer second start: then a program needs the part. What
only bounds memory, or saves time, is no part here. The figures but the seconds are the same in
every run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEARCH = "rrto_ros.robot.search."
ROUNDS, MINER = SEARCH + "rounds", SEARCH + "miner"
CLASSES, CHECKS = SEARCH + "classes", SEARCH + "checks"
SEQUENCES, DEPENDENCY = SEARCH + "operator_sequence", SEARCH + "data_dependency"
LEARNER = "rrto_ros.robot.replay.learner"


@dataclass(frozen=True)
class Part:
    """A part of the search.

    Attributes:
        name: What it does, in a few words.
        module: Where it is.
        edits: (text that is there once, what takes its place): the module without it.
    """

    name: str
    module: str
    edits: tuple[tuple[str, str], ...]

    @property
    def algorithm(self) -> str:
        """The algorithm whose part it is."""
        return "data_dependency" if self.module == DEPENDENCY else "operator_sequence"


def part(name: str, module: str, *edits: tuple[str, str]) -> Part:
    return Part(name, module, edits)


PARTS = (
    # Cutting.
    part("a repeated query is left out", ROUNDS, ("if _POLL in kinds:", "if False:")),
    part(
        "calls that prepare a round belong to it",
        ROUNDS,
        ("start = lead if lead >= 0 else i", "start = i"),
    ),
    part("allocations prepare", ROUNDS, ("(_OPEN, _SETUP)\n", "(_OPEN,)\n")),
    part("fills and event records prepare", ROUNDS, ("(_OPEN, _SETUP)\n", "(_SETUP,)\n")),
    part(
        "a round begins only after something was computed",
        ROUNDS,
        (
            "if kind == _INPUT:\n                    if worked:",
            "if kind == _INPUT:\n                    if True:",
        ),
        (
            "elif kind == _INPUT:\n                if worked:",
            "elif kind == _INPUT:\n                if True:",
        ),
    ),
    # Classes: exact forms and varying arguments.
    part("varying arguments", CLASSES, ("if self.exact_mode or not self.varying:", "if True:")),
    part(
        "exact forms", CLASSES, ("if self.exact_mode or not self.varying:", "if not self.varying:")
    ),
    part("two new forms of four end exactness", CLASSES, ("bit_count() >= 2", "bit_count() >= 1")),
    part(
        "back to exact forms when they recur",
        CLASSES,
        ("self.exact_mode = self.trailing >= max(options.min_repetitions, recurring)", "pass"),
    ),
    part(
        "a form too different begins the merging anew",
        CLASSES,
        ("        # Too different:", "            return\n        # Too different:"),
    ),
    part(
        "witnesses only for clean rounds",
        CLASSES,
        ("self.witnesses if self.clean else 0", "self.witnesses"),
    ),
    part(
        "no witnesses for several forms",
        CLASSES,
        ("if len(self.forms) > 1:\n                extra", "if False:\n                extra"),
    ),
    # The miner.
    part(
        "an early round that ends like this one counts",
        MINER,
        ("if v.skeleton.endswith(key):", "if False:"),
    ),
    part(
        "a round with lazy loading in it is a witness",
        MINER,
        ("elif filtered and v.filtered.endswith(filtered):", "elif False:"),
    ),
    part(
        "stray calls before a known round are left out",
        MINER,
        (
            "        for c in self.classes.values():\n            longer",
            "        for c in ():\n            longer",
        ),
    ),
    part(
        "a cycle of units is one inference",
        MINER,
        ("if 2 <= distance <= MAX_PERIOD:", "if False:"),
    ),
    part(
        "it begins where nothing is handed on",
        MINER,
        (
            "free = [i for i in range(d) if prints[i].isdisjoint(prints[i - 1])]",
            "free: list[int] = []",
        ),
    ),
    part(
        "it begins with the oldest input",
        MINER,
        ("key=lambda i: self._first_input(self.by_number[cycle[i]])", "key=lambda i: i"),
    ),
    part(
        "the cycle is turned to where it begins",
        MINER,
        ("rotated = self._rotate(cycle)", "rotated = cycle"),
    ),
    part(
        "units that share no memory are inferences of their own",
        MINER,
        ("for group in self._groups(rotated):", "for group in [tuple(rotated)]:"),
    ),
    part(
        "a unit that brings the input anew is one of its own",
        MINER,
        ("if anew or touched", "if touched"),
    ),
    part("no unit twice in a cycle", MINER, (" or len(set(numbers[-d:])) < d:", ":")),
    part(
        "an early round's last call may end one now",
        MINER,
        ("return any(v.skeleton.endswith(last) for v in self.novel)", "return False"),
    ),
    part(
        "what was reported needs no early answer",
        MINER,
        (
            "return not known.reported and not (known.profile and known.profile.verdict)",
            "return True",
        ),
    ),
    # The whole.
    part(
        "the unfinished round is tried", SEQUENCES, ("if self.lane.state != SYNCED:", "if True:")
    ),
    part(
        "without resources made before its data",
        SEQUENCES,
        (
            "if start < 0 or self.lane.skeleton_bytes(start, end) in self.rounds.classes:",
            "if True:",
        ),
    ),
    part("segments", SEQUENCES, ("for c in segments.classes.values()", "for c in ()")),
    part(
        "only segments of rounds that are not recognised",
        SEQUENCES,
        ("if max(c.outside, c.inround) >= self.options.min_repetitions", "if True"),
    ),
    part(
        "segments of the unfinished round",
        SEQUENCES,
        (
            "if max(c.outside, c.inround) >= self.options.min_repetitions",
            "if c.outside >= self.options.min_repetitions",
        ),
    ),
    part(
        "rounds that came later end a segment",
        SEQUENCES,
        ("if r.sequence.start > piece.sequence.last:", "if False:"),
    ),
    part(
        "recognised rounds end their segments",
        SEQUENCES,
        ("if self._streak >= _SETTLED and _contains(r.key, piece.key):", "if False:"),
    ),
    part("two of them in a row", SEQUENCES, ("_SETTLED = 2\n", "_SETTLED = 0\n")),
    part(
        "what is part of a cycle is not offered by itself",
        SEQUENCES,
        ("if klass.composed and klass.standalone < self.options.min_repetitions:", "if False:"),
    ),
    part(
        "each thread's own order",
        SEQUENCES,
        ("        first = threads[0]\n", "        return changed\n        first = 0\n"),
    ),
    part(
        "threads only where they explain more",
        SEQUENCES,
        ("if apart and (not own or self._threads_explain_more()):", "if apart:"),
    ),
    part(
        "threads also where the session's order has some",
        SEQUENCES,
        ("if apart and (not own or self._threads_explain_more()):", "if apart and not own:"),
    ),
    part(
        "a thread's calls before the second thread",
        SEQUENCES,
        ("self._feed_thread(only, max(0, a - _CATCH_UP), a)", "self._feed_thread(only, a, a)"),
    ),
    part(
        "nothing is decided before the program observes something",
        SEQUENCES,
        ("early = pending < _PATIENCE and", "early = False and"),
    ),
    part(
        "a class of one form is not asked again",
        SEQUENCES,
        ("if klass.reported and len(klass.forms) == 1", "if False and len(klass.forms) == 1"),
    ),
    part(
        "a class that says the same is not asked again",
        SEQUENCES,
        ("return klass.offered != before or klass.composed", "return True"),
    ),
    part("items are kept", SEQUENCES, ("items = self._known_items.get(exact)", "items = None")),
    # The second level.
    part(
        "the checks",
        SEQUENCES,
        ("if not answers or miner.profile_of(klass).verdict:", "if not answers:"),
    ),
    part("no module is loaded in it", CHECKS, ('verdict = "it loads a module"', "pass")),
    part("something is computed", CHECKS, ("if not work:", "if False:")),
    part("it has to do with input or output", CHECKS, ("if not connected:", "if False:")),
    part("an input that is used will do", CHECKS, ("used or depending > 0", "depending > 0")),
    part("an output that depends on it will do", CHECKS, ("used or depending > 0", "used")),
    part("a segment brings something", CHECKS, ("if not outputs and not is_round:", "if False:")),
    part(
        "the program waits for something",
        CHECKS,
        ("if not outputs and not (inputs and syncs):", "if False:"),
    ),
    part(
        "memory that is not in the log may depend",
        CHECKS,
        ("unknown = live.find(got.reads[0][0]) is None or _opaque", "unknown = _opaque"),
    ),
    part(
        "graphs that are not in the log may depend",
        CHECKS,
        (" is None or _opaque(items, graphs)", " is None"),
    ),
    part(
        "memory that it allocates itself",
        CHECKS,
        (
            "elif op.effect in _COMES:\n            if own",
            "elif False:\n            if own",
        ),
    ),
    # The other algorithm.
    part(
        "a sequence begins with what depends on nothing",
        DEPENDENCY,
        ("if reach > end or not self._starting[begin]:", "if reach > end:"),
    ),
    part(
        "it computes, and a result is seen",
        DEPENDENCY,
        ("if items is None or not self._whole(items):", "if items is None:"),
    ),
    part("eight candidates", DEPENDENCY, ("_CANDIDATES = 8\n", "_CANDIDATES = 1\n")),
    part("the shortest candidate", DEPENDENCY, ("in reversed(equals):", "in equals:")),
    # The learner.
    part(
        "what was replayed is not searched",
        LEARNER,
        ("if clean and parted and", "if False and parted and"),
        ("if clean and self._held", "if False and self._held"),
    ),
    part("32 sequences at once", LEARNER, ("[:MAX_OFFERS]", "")),
    part(
        "plans are made once", LEARNER, ("        if known is not None:\n", "        if False:\n")
    ),
)

WORSE = {
    "named": lambda was, now: now["named"] < was["named"],
    "sent": lambda was, now: now["sent"] > 1.02 * was["sent"] + 64,
    "first": lambda was, now: bool(was["first"]) and not 0 < now["first"] <= was["first"],
    "followed": lambda was, now: (
        now["named"] <= was["named"] and now["followed"] > 1.05 * was["followed"]
    ),
    "again": lambda was, now: now["again"] < was["again"],
    "again_sent": lambda was, now: now["again_sent"] > 1.02 * was["again_sent"] + 64,
    "failure": lambda was, now: bool(now["failure"]) and not was["failure"],
}
"""Figure -> whether it is worse now than it was."""


def run(edits: dict[str, Any], logs: list[Path], algorithms: str) -> dict[str, Any]:
    """All logs with these edits, in a process of their own."""
    script = Path(__file__).with_name("search_without.py")
    command = [sys.executable, str(script), json.dumps(edits), algorithms, *map(str, logs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"search_parts: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout)


def compared(was: dict[str, Any], now: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Log -> what is worse now than it was, and what is better."""
    found: dict[str, dict[str, str]] = {}
    for log, before in was.items():
        after = now[log]
        for how, (a, b) in {"worse": (before, after), "better": (after, before)}.items():
            words = [
                f"{name} {before[name]} -> {after[name]}"
                for name, is_worse in WORSE.items()
                if is_worse(a, b)
            ]
            if words:
                found.setdefault(how, {})[log] = ", ".join(words)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("logs", type=Path, nargs="+")
    parser.add_argument("--only", default="", help="parts with these letters in their names")
    parser.add_argument("--json", type=Path, help="also write what was found to this file")
    parser.add_argument("--examples", type=int, default=4, help="programs shown for a part")
    parser.add_argument("--jobs", type=int, default=1, help="parts at once (%(default)s)")
    options = parser.parse_args()
    logs = [log.resolve() for log in options.logs]
    base = run({}, logs, "operator_sequence,data_dependency")
    whole: dict[str, Any] = {"base": base, "parts": {}}
    for log, each in base.items():
        print(log, *(f"\n    {name}: {figures}" for name, figures in each.items()))
    chosen = [each for each in PARTS if options.only in each.name]

    def without(each: Part) -> dict[str, Any]:
        found = run({each.module: each.edits}, logs, each.algorithm)
        return {log: got[each.algorithm] for log, got in found.items()}

    pool = ThreadPoolExecutor(options.jobs)
    for each, now in zip(chosen, pool.map(without, chosen), strict=True):
        was = {log: found[each.algorithm] for log, found in base.items()}
        differs = compared(was, now)
        seconds = [sum(f["seconds"] for f in figures.values()) for figures in (was, now)]
        whole["parts"][each.name] = {"module": each.module, "now": now, **differs}
        counts = {how: len(differs.get(how, {})) for how in ("worse", "better")}
        print(
            f"{each.name}: worse {counts['worse']}, better {counts['better']},",
            f"search {seconds[0]:.2f} -> {seconds[1]:.2f} s",
            flush=True,
        )
        for how in counts:
            for log, words in list(differs.get(how, {}).items())[: options.examples]:
                print(f"    {how}: {log}: {words}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(whole, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
