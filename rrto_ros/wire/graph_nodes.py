"""A session's graphs, as its calls make them: owns which nodes each graph and executable has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from rrto_ros.api.ops import Effect

N = TypeVar("N")


class GraphNodes(Generic[N]):
    """What is known of each node, by graph and by executable graph. Not thread-safe."""

    def __init__(self) -> None:
        self._graphs: dict[int, dict[int, N]] = {}
        self._execs: dict[int, dict[int, N]] = {}

    def apply(self, effect: Effect, f: dict[str, Any], describe: Callable[[], N]) -> None:
        """Follow one operation.

        Args:
            effect: The operation's; one that is no graph's changes nothing.
            f: Its decoded fields.
            describe: What to keep of the node that it adds or changes.
        """
        if effect is Effect.GRAPH_MAKE:
            self._graphs[f["graph"]] = {}
        elif effect is Effect.GRAPH_DROP:
            self._graphs.pop(f["graph"], None)
        elif effect is Effect.EXEC_MAKE:
            self._execs[f["graph_exec"]] = dict(self._graphs.get(f["graph"], {}))
        elif effect is Effect.EXEC_DROP:
            self._execs.pop(f["graph_exec"], None)
        elif effect is Effect.EXEC_NODE:
            self._execs.setdefault(f["graph_exec"], {})[f["node"]] = describe()
        elif effect is Effect.GRAPH_NODE:
            self._graphs.setdefault(f["graph"], {})[f["node"]] = describe()

    def of(self, graph_exec: int) -> Iterable[N] | None:
        """What is kept of an executable's nodes; None if its making was not followed."""
        nodes = self._execs.get(graph_exec)
        return None if nodes is None else nodes.values()

    def one(self, graph_exec: int, node: int) -> N | None:
        """What is kept of one node of an executable; None if that was not followed."""
        return self._execs.get(graph_exec, {}).get(node)
