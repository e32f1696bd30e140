"""CUDA graphs node by node: bookkeeping, order and refusals, for any device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rrto_ros.api.results import CUresult
from rrto_ros.devices.protocol import GraphNode
from rrto_ros.errors import CudaError

MAX_NODES = 1 << 20


@dataclass
class Graph:
    """A graph under construction: node -> work and the nodes it waits for."""

    work: dict[int, GraphNode] = field(default_factory=dict)
    waits_for: dict[int, tuple[int, ...]] = field(default_factory=dict)


@dataclass
class GraphExec:
    """An instantiated graph: nodes in an order that respects every dependency."""

    order: tuple[int, ...]
    work: dict[int, GraphNode]


def topological_order(graph: Graph) -> tuple[int, ...]:
    """Nodes so that each follows what it waits for; ties keep the order of creation.

    Raises:
        CudaError: INVALID_VALUE if the dependencies form a cycle.
    """
    missing = {node: len(waits) for node, waits in graph.waits_for.items()}
    followers: dict[int, list[int]] = {}
    for node, waits in graph.waits_for.items():
        for wait in waits:
            followers.setdefault(wait, []).append(node)
    ready = [node for node, count in missing.items() if count == 0]
    order: list[int] = []
    for node in ready:
        order.append(node)
        for follower in followers.get(node, ()):
            missing[follower] -= 1
            if missing[follower] == 0:
                ready.append(follower)
    if len(order) != len(graph.work):
        raise CudaError(CUresult.INVALID_VALUE, "the graph has a cycle")
    return tuple(order)


class Graphs:
    """All graphs of one device."""

    def __init__(self) -> None:
        self._graphs: dict[int, Graph] = {}
        self._execs: dict[int, GraphExec] = {}

    def create(self, graph: int) -> None:
        if graph in self._graphs:
            raise CudaError(CUresult.INVALID_HANDLE, f"graph {graph} exists already")
        self._graphs[graph] = Graph()

    def destroy(self, graph: int) -> None:
        self._graph(graph)
        del self._graphs[graph]

    def add_node(
        self, graph: int, node: int, dependencies: Sequence[int], work: GraphNode
    ) -> None:
        """Adds a node that waits for existing nodes of the same graph."""
        found = self._graph(graph)
        waits = tuple(dict.fromkeys(dependencies))
        if node in found.work:
            raise CudaError(CUresult.INVALID_VALUE, f"node {node} exists already")
        unknown = [d for d in waits if d not in found.work]
        if unknown:
            raise CudaError(
                CUresult.INVALID_VALUE,
                f"node {node} waits for {unknown[0]}, which is not in the graph",
            )
        if len(found.work) >= MAX_NODES:
            raise CudaError(CUresult.OUT_OF_MEMORY, f"a graph holds at most {MAX_NODES} nodes")
        found.work[node] = work
        found.waits_for[node] = waits

    def instantiate(self, graph_exec: int, graph: int) -> GraphExec:
        if graph_exec in self._execs:
            raise CudaError(CUresult.INVALID_HANDLE, f"graph exec {graph_exec} exists already")
        source = self._graph(graph)
        made = GraphExec(topological_order(source), dict(source.work))
        self._execs[graph_exec] = made
        return made

    def destroy_exec(self, graph_exec: int) -> None:
        self.executable(graph_exec)
        del self._execs[graph_exec]

    def set_exec_node(self, graph_exec: int, node: int, work: GraphNode) -> None:
        """Changes a node of an instantiated graph; its kind must stay."""
        _replace(self.executable(graph_exec).work, node, work)

    def executable(self, graph_exec: int) -> GraphExec:
        found = self._execs.get(graph_exec)
        if found is None:
            raise CudaError(CUresult.INVALID_HANDLE, f"graph exec {graph_exec} is unknown")
        return found

    def counts(self) -> dict[str, int]:
        return {"graphs": len(self._graphs), "graph_execs": len(self._execs)}

    def _graph(self, graph: int) -> Graph:
        found = self._graphs.get(graph)
        if found is None:
            raise CudaError(CUresult.INVALID_HANDLE, f"graph {graph} is unknown")
        return found


def _replace(work: dict[int, GraphNode], node: int, new: GraphNode) -> None:
    if node not in work:
        raise CudaError(CUresult.INVALID_VALUE, f"node {node} is not in the graph")
    if type(work[node]) is not type(new):
        raise CudaError(CUresult.INVALID_VALUE, f"node {node} cannot change its kind")
    work[node] = new
