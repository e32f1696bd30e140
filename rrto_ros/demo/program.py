"""Runs one node of the demo as a program: clean ends, exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.task import Future

from rrto_ros.api.parameters import NODES
from rrto_ros.errors import RrtoError
from rrto_ros.ros.context import find_log_folder
from rrto_ros.ros.parameters import declare

DELIVERY_TIMEOUT = Duration(seconds=5)


class TaskNode(Node):  # type: ignore[misc]  # rclpy has no types
    """A node that has a piece of work to finish.

    Attributes:
        finished: Resolves when the work is done; an exception in it ends the program with code 1.
    """

    def __init__(self, name: str) -> None:
        self.finished: Future[None] = Future()
        super().__init__(name)

    def values(self) -> dict[str, Any]:
        """Declare this node's parameters and return their values.

        Raises:
            ConfigError: One cannot be used.
        """
        return declare(self, NODES[self.get_name()].values())

    def attempt(self, work: Callable[[], None]) -> None:
        """Do something in a callback; if it fails, the program ends with the reason."""
        if self.finished.done() or not self.context.ok():
            return
        try:
            work()
        except Exception as error:
            # Once the program is being stopped, publishing fails; that is no fault.
            if self.context.ok():
                self.finished.set_exception(error)

    def report(self, text: str) -> None:
        """Log at info, also after the program was told to stop."""
        logger = self.get_logger()
        if not self.context.ok():
            # The node's own logger would try to publish on /rosout.
            logger = rclpy.logging.get_logger(f"{self.get_name()}.end")
        logger.info(text)

    def deliver(self, *publishers: Publisher) -> None:
        """After the work is finished, let what was published last arrive (for a bounded time)."""
        if not self.finished.done():
            return
        for publisher in publishers:
            try:
                publisher.wait_for_all_acked(DELIVERY_TIMEOUT)
            except rclpy_implementation.RCLError:
                if self.context.ok():
                    raise
                return  # told to stop meanwhile

    def close(self) -> None:
        """Called once at the end, finished or stopped, while the node still exists."""


def run(make: Callable[[], TaskNode], arguments: Sequence[str] | None = None) -> int:
    """Run a node until its work is finished or the program is told to stop.

    Args:
        make: Makes the node.
        arguments: Command line, without the program's name; None takes it from sys.argv.

    Returns:
        Exit code: 0 finished or stopped by SIGINT or SIGTERM, 1 failed, 2 a parameter, argument or
        file cannot be used.
    """
    find_log_folder()
    rclpy.init(args=None if arguments is None else [sys.argv[0], *arguments])
    logger = rclpy.logging.get_logger("rrto_ros")
    node: TaskNode | None = None
    code = 0
    try:
        node = make()
        logger = node.get_logger()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        executor.spin_until_future_complete(node.finished)
        if node.finished.done():
            node.finished.result()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (RrtoError, ParameterException) as error:
        logger.fatal(str(error))
        code = 2
    except Exception as error:
        logger.fatal(f"{type(error).__name__}: {error}")
        code = 1
    finally:
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()
    return code
