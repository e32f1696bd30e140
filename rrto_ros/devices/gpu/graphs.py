"""The program's own CUDA graphs, made as real ones.

Names, order and refusals are kept by `rrto_ros.devices.graphs`, as on every device. A CUgraph
stays alive while an executable made from it may still be changed: the driver finds the node to
change through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rrto_ros.devices.gpu.driver import Driver
from rrto_ros.devices.gpu.launching import Launcher
from rrto_ros.devices.graphs import Graphs
from rrto_ros.devices.protocol import GraphNode
from rrto_ros.errors import CudaError


@dataclass
class _Graph:
    """A CUgraph, its nodes by name, and how many names and executables need it."""

    handle: Any
    nodes: dict[int, Any] = field(default_factory=dict)
    users: int = 1


@dataclass(frozen=True)
class _Executable:
    handle: Any
    source: _Graph


class GpuGraphs:
    """Graphs by the robot's names.

    Attributes:
        launches: How many executable graphs were started.
    """

    def __init__(self, driver: Driver, launcher: Launcher) -> None:
        self._driver = driver
        self._launcher = launcher
        self._known = Graphs()
        self._graphs: dict[int, _Graph] = {}
        self._executables: dict[int, _Executable] = {}
        self.launches = 0

    def counts(self) -> dict[str, int]:
        return {**self._known.counts(), "graph_launches": self.launches}

    def create(self, graph: int) -> None:
        self._known.create(graph)
        self._graphs[graph] = _Graph(self._driver.call("cuGraphCreate", 0))

    def destroy(self, graph: int) -> None:
        self._known.destroy(graph)
        self._drop(self._graphs.pop(graph))

    def add_node(
        self, graph: int, node: int, dependencies: Sequence[int], work: GraphNode
    ) -> None:
        self._known.add_node(graph, node, dependencies, work)
        found = self._graphs[graph]
        waits = [found.nodes[d] for d in dict.fromkeys(dependencies)]
        found.nodes[node] = self._launcher.add_node(found.handle, waits, work)

    def instantiate(self, executable: int, graph: int) -> None:
        self._known.instantiate(executable, graph)
        source = self._graphs[graph]
        try:
            handle = self._driver.call("cuGraphInstantiate", source.handle, 0)
        except CudaError:
            self._known.destroy_exec(executable)
            raise
        source.users += 1
        self._executables[executable] = _Executable(handle, source)

    def destroy_executable(self, executable: int) -> None:
        self._known.destroy_exec(executable)
        found = self._executables.pop(executable)
        self._driver.call("cuGraphExecDestroy", found.handle)
        self._drop(found.source)

    def set_executable_node(self, executable: int, node: int, work: GraphNode) -> None:
        self._known.set_exec_node(executable, node, work)
        found = self._executables[executable]
        self._launcher.set_exec_node(found.handle, found.source.nodes[node], work)

    def launch(self, executable: int, stream: Any) -> None:
        self._known.executable(executable)
        self._driver.call("cuGraphLaunch", self._executables[executable].handle, stream)
        self.launches += 1

    def close(self) -> None:
        for executable in self._executables.values():
            self._driver.call_anyway("cuGraphExecDestroy", executable.handle)
        graphs = {id(g): g for g in self._graphs.values()}
        graphs |= {id(e.source): e.source for e in self._executables.values()}
        for graph in graphs.values():
            self._driver.call_anyway("cuGraphDestroy", graph.handle)
        self._executables.clear()
        self._graphs.clear()

    def _drop(self, graph: _Graph) -> None:
        graph.users -= 1
        if graph.users == 0:
            self._driver.call("cuGraphDestroy", graph.handle)
