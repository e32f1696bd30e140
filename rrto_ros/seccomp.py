"""Seccomp: owns the filter of system calls that a confined process gets, and how it is made.

What is filtered is what a process that computes has no use for: files to write, sockets, other
processes, the kernel's own settings. It fails with an error number and kills nobody, so that a
library that tries takes its other way. A filter holds for the process and all that it starts, for
good. Numbers are those of x86-64 and aarch64; elsewhere there is none.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Sequence
from dataclasses import dataclass

# Name: number on x86-64, on aarch64 (None: there is no such call).
_FILES_CHANGED = {
    "creat": (85, None), "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None),
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "link": (86, None),
    "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36), "unlink": (87, None),
    "unlinkat": (263, 35), "mknod": (133, None), "mknodat": (259, 33), "truncate": (76, 45),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "fremovexattr": (199, 16), "utime": (132, None),
    "utimes": (235, None), "utimensat": (280, 88), "futimesat": (261, None),
}  # fmt: skip
_NETWORK = {
    "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242),
}  # fmt: skip
_FORKS = {"fork": (57, None), "vfork": (58, None)}
_NEVER = {
    # programs, and other processes
    "execve": (59, 221), "execveat": (322, 281), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "kcmp": (312, 272),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    # memory and messages that others share by a number
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "msgget": (68, 186),
    "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187), "semget": (64, 190),
    "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192), "mq_open": (240, 180),
    "mq_unlink": (241, 181), "memfd_secret": (447, 447),
    # parts of the kernel that are large and rarely needed
    "perf_event_open": (298, 241), "bpf": (321, 280), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "fanotify_init": (300, 262), "lookup_dcookie": (212, 18), "nfsservctl": (180, 42),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    # the machine
    "mount": (165, 40), "umount2": (166, 39), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "pivot_root": (155, 41), "chroot": (161, 51),
    "unshare": (272, 97), "setns": (308, 268), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224),
    "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "sethostname": (170, 161), "setdomainname": (171, 162), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None), "syslog": (103, 116),
    "vhangup": (153, 58), "personality": (135, 92),
    # who it is
    "setuid": (105, 146), "setgid": (106, 144), "setreuid": (113, 145), "setregid": (114, 143),
    "setresuid": (117, 147), "setresgid": (119, 149), "setfsuid": (122, 151),
    "setfsgid": (123, 152), "setgroups": (116, 159), "capset": (126, 91),
}  # fmt: skip
_SOME = {
    "clone": (56, 220), "clone3": (435, 435), "kill": (62, 129), "tgkill": (234, 131),
    "prlimit64": (302, 261), "open": (2, None), "openat": (257, 56), "openat2": (437, 437),
    "ioctl": (16, 29), "socket": (41, 198), "seccomp": (317, 277),
}  # fmt: skip
"""Of these the arguments decide."""
_FIRST_UNKNOWN = 463
"""Calls of kernels that are newer than this list do not exist for a confined process."""

_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_X32 = 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_CLONE_THREAD = 0x00010000
_CLONE_NAMESPACES = 0x7E020000
_WRITES = 0o3 | 0o100 | 0o1000 | 0o2000  # O_ACCMODE, O_CREAT, O_TRUNC, O_APPEND
_AF_UNIX, _TIOCSTI = 1, 0x5412
_SET_FILTER, _ACTION_AVAILABLE = 1, 2
_ALL_THREADS, _KEEP_SPECULATION = 1, 4
_NO_NEW_PRIVILEGES = 38
_Instruction = tuple[int, int, int, int]

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Permits:
    """What a process may do beyond computing.

    Attributes:
        forks: Start processes that run its own code.
        files: Open files to write, and change them.
        local_sockets: Make sockets that lead to processes of this machine.
    """

    forks: bool = False
    files: bool = False
    local_sockets: bool = False


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def available() -> str:
    """Why there can be no filter, empty if there can be one."""
    if platform.machine() not in _MACHINES:
        return f"no list of system calls for {platform.machine()}"
    action = ctypes.c_uint32(_ERROR)
    number = _SOME["seccomp"][_MACHINES[platform.machine()][0]]
    if _libc.syscall(number, _ACTION_AVAILABLE, 0, ctypes.byref(action)):
        return os.strerror(ctypes.get_errno())
    return ""


def restrict(permits: Permits) -> None:
    """Filter the system calls of this process from now on, of all of its threads.

    Raises:
        OSError: The kernel refuses, or there is no filter for this machine.
    """
    if platform.machine() not in _MACHINES:
        raise OSError(errno.ENOSYS, available())
    instructions = build(permits, platform.machine(), os.getpid())
    packed = b"".join(struct.pack("=HBBI", *one) for one in instructions)
    program = _Program(len(instructions), packed)
    forbid_new_privileges()
    number = _SOME["seccomp"][_MACHINES[platform.machine()][0]]
    # Without the second flag older kernels slow down what the process computes, too.
    for flags in (_ALL_THREADS | _KEEP_SPECULATION, _ALL_THREADS):
        if not _libc.syscall(number, _SET_FILTER, flags, ctypes.byref(program)):
            return
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def forbid_new_privileges() -> None:
    """No program that this process starts has more rights than it, not even a setuid one.

    Raises:
        OSError: The kernel refuses.
    """
    if _libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def build(permits: Permits, machine: str, pid: int) -> list[_Instruction]:
    """The filter, as instructions (code, jump if true, jump if false, constant).

    Args:
        permits: What it lets through.
        machine: "x86_64" or "aarch64".
        pid: The process, the only one that it may send signals to.
    """
    column, architecture = _MACHINES[machine]
    out: list[_Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        _refuse(errno.EPERM),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        out += [(_AT_LEAST, 0, 1, _X32), _refuse(errno.EPERM)]
    out += [(_AT_LEAST, 0, 1, _FIRST_UNKNOWN), _refuse(errno.ENOSYS)]
    denied = {**_NEVER}
    if not permits.forks:
        denied |= _FORKS
    if not permits.files:
        denied |= _FILES_CHANGED
    if not permits.local_sockets:
        denied |= _NETWORK
    for numbers in denied.values():
        if numbers[column] is not None:
            out += [(_EQUAL, 0, 1, int(numbers[column] or 0)), _refuse(errno.EPERM)]
    for name, test in _tests(permits, pid).items():
        number = _SOME[name][column]
        if number is not None:
            out += [(_EQUAL, 0, len(test), number), *test]
    return [*out, _allow()]


def _tests(permits: Permits, pid: int) -> dict[str, Sequence[_Instruction]]:
    """Name of a call: what looks at its arguments and returns."""
    own = [*_unless(0, (_EQUAL, pid), errno.EPERM)]
    # The arguments of clone3 lie in memory, where no filter sees them; libraries then use clone.
    # The same is true of openat2.
    tests: dict[str, Sequence[_Instruction]] = {
        "clone3": [_refuse(errno.ENOSYS)],
        "prlimit64": [
            (_LOAD, 0, 0, _ARGUMENTS), (_EQUAL, 2, 0, 0), (_EQUAL, 1, 0, pid),
            _refuse(errno.EPERM), _allow(),
        ],
        "ioctl": _where(1, (_EQUAL, _TIOCSTI), errno.EPERM),
        "socket": [_refuse(errno.EPERM)],
    }  # fmt: skip
    if permits.forks:
        # What it has started has other numbers; Landlock keeps signals from others.
        tests["clone"] = _where(0, (_ANY_BIT, _CLONE_NAMESPACES), errno.EPERM)
    else:
        tests["clone"] = _unless(0, (_ANY_BIT, _CLONE_THREAD), errno.EPERM)
        tests["kill"] = tests["tgkill"] = own
    if not permits.files:
        tests["openat2"] = [_refuse(errno.ENOSYS)]
        tests["open"] = _where(1, (_ANY_BIT, _WRITES), errno.EACCES)
        tests["openat"] = _where(2, (_ANY_BIT, _WRITES), errno.EACCES)
    if permits.local_sockets:
        tests["socket"] = _unless(0, (_EQUAL, _AF_UNIX), errno.EPERM)
    return tests


def _where(argument: int, test: tuple[int, int], error: int) -> list[_Instruction]:
    """Refuse a call whose argument (its lower 32 bits) passes the test."""
    load = (_LOAD, 0, 0, _ARGUMENTS + 8 * argument)
    return [load, (test[0], 0, 1, test[1]), _refuse(error), _allow()]


def _unless(argument: int, test: tuple[int, int], error: int) -> list[_Instruction]:
    """Refuse a call whose argument (its lower 32 bits) does not pass the test."""
    load = (_LOAD, 0, 0, _ARGUMENTS + 8 * argument)
    return [load, (test[0], 1, 0, test[1]), _refuse(error), _allow()]


def _refuse(error: int) -> _Instruction:
    return (_RETURN, 0, 0, _ERROR | error)


def _allow() -> _Instruction:
    return (_RETURN, 0, 0, _ALLOW)
