"""Each call to the stand-in for the driver against the C prototype in the project's own table."""

import functools
import inspect
import json
from pathlib import Path

from support.fake_cuda_types import ENUMS, HANDLES, STRUCTS

import rrto_ros.api

_TABLE = Path(rrto_ros.api.__file__).parent / "_generated" / "prototypes.json"
PROTOTYPES = json.loads(_TABLE.read_text())["exports"]
NEWEST = {
    "cuGraphInstantiate": "cuGraphInstantiateWithFlags",
    "cuCtxSynchronize": "cuCtxSynchronize",
}
"""Functions of the bindings that are another export than the newest of their name."""
RENAMED = {("cuDeviceGetName", "len"): "length", ("cuGraphLaunch", "hGraph"): "hGraphExec"}
"""Parameters that the bindings call otherwise."""
_INTEGERS = {
    "int": (-(2**31), 2**31 - 1), "unsigned int": (0, 2**32 - 1), "size_t": (0, 2**64 - 1),
    "unsigned long long": (0, 2**64 - 1), "unsigned char": (0, 255), "unsigned short": (0, 65535),
}  # fmt: skip
GRANULE = 2 << 20
BLOCKS = 0x7000_0000_0000
ELSEWHERE = 0x6000_0000_0000
VARIABLES = 0x5000_0000_0000
OK, INVALID, MEMORY, HANDLE, NOT_FOUND, NOT_READY, ILLEGAL = (
    0, 1, 2, 400, 500, 600, 700,
)  # fmt: skip


def prototype(name):
    """The C parameters of a function of the bindings: of the newest export it can stand for."""
    for candidate in (NEWEST.get(name, ""), name + "_v3", name + "_v2", name):
        if candidate in PROTOTYPES:
            return [(kind, RENAMED.get((name, p), p)) for kind, p in PROTOTYPES[candidate]]
    raise AssertionError(f"{name} is no export of libcuda")


def is_output(kind):
    return kind.endswith("*") and (not kind.startswith("const") or kind.endswith("**"))


def _check(name, kind, parameter, value):
    """Raise AssertionError if the bindings would not take `value` for a C parameter."""
    where = f"{name}({parameter}: {kind}) got {value!r}"
    base = kind.removeprefix("const ").rstrip("*")
    if kind in _INTEGERS:
        low, high = _INTEGERS[kind]
        assert type(value) is int or isinstance(value, int), where
        assert not isinstance(value, bool), where
        assert low <= int(value) <= high, where
    elif kind in HANDLES:
        assert type(value) is HANDLES[kind], where
    elif kind in ENUMS:
        assert type(value) is ENUMS[kind], where
    elif kind.startswith("const char*"):
        assert isinstance(value, bytes), where
    elif base in STRUCTS and isinstance(value, list):
        assert all(type(item) is STRUCTS[base] for item in value), where
    elif base in STRUCTS:
        assert type(value) is STRUCTS[base], where
    elif base in HANDLES:
        assert isinstance(value, list), where
        assert all(type(item) is HANDLES[base] for item in value), where
    elif base in ENUMS:
        assert all(type(item) is ENUMS[base] for item in value), where
    elif kind == "void**" and isinstance(value, list):
        assert all(isinstance(item, int | bytearray) for item in value), where
    elif base == "void":
        assert isinstance(value, int | bytes), where
    else:
        raise AssertionError(f"no rule for {where}")


def checked(method):
    """A function of the stand-in: notes and checks each call before it is done."""
    name = method.__name__
    taken = list(inspect.signature(method).parameters)[1:]
    c_parameters = prototype(name)
    inputs = [(kind, p) for kind, p in c_parameters if p in taken]
    assert [p for _, p in inputs] == taken, f"{name}: {taken} are not parameters of {c_parameters}"
    for kind, p in c_parameters:
        assert p in taken or is_output(kind), f"{name} needs {p}"

    @functools.wraps(method)
    def call(self, *arguments):
        assert len(arguments) == len(taken), f"{name} takes {taken}, got {arguments}"
        for (kind, p), value in zip(inputs, arguments, strict=True):
            _check(name, kind, p, value)
            self._check_alive(name, value)
        self.calls.append((name, arguments))
        code = self._injected(name)
        if code is None:
            code = self.broken
        if code and name not in _ALWAYS:
            outputs = sum(is_output(kind) and p not in taken for kind, p in c_parameters)
            return (self._result(code), *[None] * outputs)
        result = method(self, *arguments)
        code, *values = result if isinstance(result, tuple) else (result,)
        return (self._result(code), *values)

    return call


_ALWAYS = {"cuGetErrorName", "cuGetErrorString", "cuDriverGetVersion"}
