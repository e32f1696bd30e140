"""Every exception this package raises on purpose.

    RrtoError
    +-- ConfigError            a parameter, argument or file the user gave cannot be used
    +-- UnavailableError       a process, device or capability that is needed is not there
    +-- ProtocolError          bytes from the wire or from a program break the format
    +-- CudaError              a CUDA driver error, with its CUresult
        +-- PtxError           a module image that cannot be compiled
        +-- AccessError        a kernel or copy left the session's memory

A message names the value got, the value wanted and the next step.
"""

from __future__ import annotations

from rrto_ros.api.results import CUresult


class RrtoError(Exception):
    """Base of all errors of this package."""


class ConfigError(RrtoError):
    """A parameter, argument or file that the user gave cannot be used."""


class UnavailableError(RrtoError):
    """A process, device or capability that is needed is not there."""


class ProtocolError(RrtoError):
    """Bytes from the wire or from the program break the format; the message is refused."""


class CudaError(RrtoError):
    """A CUDA driver error: what the program will see, and why.

    Attributes:
        result: The CUresult that the program gets.
        detail: What happened, for logs and the status.
    """

    def __init__(self, result: CUresult, detail: str = "") -> None:
        self.result = CUresult(result)
        self.detail = detail
        name = f"CUDA_ERROR_{self.result.name}"
        super().__init__(f"{name} ({int(self.result)}): {detail}" if detail else name)


class PtxError(CudaError):
    """A module image that cannot be parsed or compiled (INVALID_PTX unless said otherwise)."""

    def __init__(self, detail: str, result: CUresult = CUresult.INVALID_PTX) -> None:
        super().__init__(result, detail)


class AccessError(CudaError):
    """A kernel left the session's memory (ILLEGAL_ADDRESS, sticky for the session)."""

    def __init__(self, detail: str) -> None:
        super().__init__(CUresult.ILLEGAL_ADDRESS, detail)
