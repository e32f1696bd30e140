"""Declares described parameters on a node: owns their descriptors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import ParameterException
from rclpy.node import Node

from rrto_ros.api.parameters import READ_ONLY, Parameter


def descriptor(parameter: Parameter) -> ParameterDescriptor:
    """What `ros2 param describe` shows."""
    out = ParameterDescriptor(
        description=parameter.explanation, read_only=parameter.changes == READ_ONLY
    )
    out.additional_constraints = ", ".join(parameter.choices)
    if parameter.span is not None and isinstance(parameter.default, int):
        low, high = map(int, parameter.span)
        out.integer_range = [IntegerRange(from_value=low, to_value=high, step=0)]
    elif parameter.span is not None:
        low_f, high_f = map(float, parameter.span)
        out.floating_point_range = [
            FloatingPointRange(from_value=low_f, to_value=high_f, step=0.0)
        ]
    return out


def declare(node: Node, parameters: Iterable[Parameter], *, check: bool = True) -> dict[str, Any]:
    """Declare parameters and return their values.

    Args:
        node: Where.
        parameters: Which.
        check: Also what ROS does not: choices and forms.

    Raises:
        ConfigError: A value has the wrong type, is out of range or is none of the choices.
    """
    values: dict[str, Any] = {}
    for parameter in parameters:
        name = parameter.name
        try:
            value = node.declare_parameter(name, parameter.default, descriptor(parameter)).value
        except ParameterException:
            # What was given is only to be had from a parameter that takes everything.
            anything = ParameterDescriptor(dynamic_typing=True)
            given = node.declare_parameter(name, parameter.default, anything).value
            # YAML takes the words on and off for true and false.
            value = {True: "on", False: "off"}.get(given) if isinstance(given, bool) else None
            if value not in parameter.choices:
                raise parameter.refusal(given) from None
            node.undeclare_parameter(name)
            node.declare_parameter(name, value, descriptor(parameter), ignore_override=True)
        if check:
            parameter.check(value)
        values[name] = value
    return values
