"""A session's graphs, as its calls make them: owns which nodes each graph and executable has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

N = TypeVar("N")


class GraphNodes(Generic[N]):
    """What is known of each node, by graph and by executable graph. Not thread-safe."""

    def __init__(self) -> None:
        self._graphs: dict[int, dict[int, N]] = {}
        self._execs: dict[int, dict[int, N]] = {}

    def apply(self, name: str, f: dict[str, Any], describe: Callable[[], N]) -> None:
        """Follow one graph operation.

        Args:
            name: One of `graph_*`; a launch changes nothing.
            f: Its decoded fields.
            describe: What to keep of the node that it adds or changes.
        """
        if name == "graph_create":
            self._graphs[f["graph"]] = {}
        elif name == "graph_destroy":
            self._graphs.pop(f["graph"], None)
        elif name == "graph_instantiate":
            self._execs[f["graph_exec"]] = dict(self._graphs.get(f["graph"], {}))
        elif name == "graph_exec_destroy":
            self._execs.pop(f["graph_exec"], None)
        elif name.startswith("graph_exec_"):
            self._execs.setdefault(f["graph_exec"], {})[f["node"]] = describe()
        elif name != "graph_launch":
            self._graphs.setdefault(f["graph"], {})[f["node"]] = describe()

    def of(self, graph_exec: int) -> Iterable[N] | None:
        """What is kept of an executable's nodes; None if its making was not followed."""
        nodes = self._execs.get(graph_exec)
        return None if nodes is None else nodes.values()

    def one(self, graph_exec: int, node: int) -> N | None:
        """What is kept of one node of an executable; None if that was not followed."""
        return self._execs.get(graph_exec, {}).get(node)
