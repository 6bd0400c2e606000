"""A seccomp filter: the system calls that remain; every other one answers ENOSYS. Standard library only."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import NamedTuple

from sparsepo_dist.evaluation.sandbox.landlock import LIBC, checked
from sparsepo_dist.evaluation.sandbox.syscalls import ALLOWED, ARCHITECTURES, LIMITED

# BPF_LD|W|ABS, BPF_ALU|AND|K, BPF_JMP|JEQ|K, BPF_JMP|JSET|K, BPF_RET|K
_LOAD, _AND, _JUMP_IF_EQUAL, _JUMP_IF_ANY, _RETURN = 0x20, 0x54, 0x15, 0x45, 0x06
_ALLOW, _ERROR, _KILL, _ASK = 0x7FFF0000, 0x00050000, 0x80000000, 0x7FC00000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data; an argument has 8 bytes, low ones first
_SET_SECCOMP, _FILTER = 22, 2
_ALL = 0xFFFFFFFF
_ACCESS_OR_TRUNCATE = os.O_ACCMODE | os.O_TRUNC
_MAKES = os.O_CREAT | (os.O_TMPFILE & ~os.O_DIRECTORY)
# O_RDONLY | O_TRUNC is missing: it empties files that are open for reading, which Landlock's first versions do not see.
_OPEN = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_RDWR | os.O_TRUNC)
_THREAD, _NAMESPACES = 0x10000, 0x7E020080
# Duplicates and flags. Not F_SETOWN and F_SETSIG, by which the kernel would send any signal to any process.
_FCNTL = (0, 1, 2, 3, 4, 1030)
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX


class _Condition(NamedTuple):
    argument: int
    mask: int
    values: tuple[int, ...]


class Program(ctypes.Structure):
    """A filter as the kernel takes it."""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def restrict() -> None:
    """Leave this process the listed system calls. For good.

    It needs PR_SET_NO_NEW_PRIVS, and holds for threads that start later.

    Raises:
        OSError: another architecture than x86_64 and aarch64, or a kernel without seccomp filters.
    """
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise OSError(f"the list of system calls is for {' and '.join(ARCHITECTURES)} only, and this is {machine}")
    code = _filter(machine, os.getpid())
    program = Program(len(code) // 8, code)
    checked(LIBC.prctl(_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0), "seccomp's filter")


def asking_filter(machine: str) -> bytes:
    """BPF code that has every call which may make a file wait for an answer, and allows all others."""
    column, _ = ARCHITECTURES[machine]
    code = [_instruction(_LOAD, _NUMBER)]
    for name, argument in (("open", 1), ("openat", 2)):
        number = LIMITED[name][column]
        if number is not None:
            code += [
                _instruction(_JUMP_IF_EQUAL, number, skip_if_false=4),
                _instruction(_LOAD, _ARGUMENTS + 8 * argument),
                _instruction(_JUMP_IF_ANY, _MAKES, skip_if_false=1),
                _instruction(_RETURN, _ASK),
                _instruction(_RETURN, _ALLOW),
            ]
    return b"".join([*code, _instruction(_RETURN, _ALLOW)])


def _filter(machine: str, pid: int) -> bytes:
    """BPF code, 8 bytes an instruction."""
    column, architecture = ARCHITECTURES[machine]
    conditions = {
        "open": _Condition(1, _ACCESS_OR_TRUNCATE, _OPEN),
        "openat": _Condition(2, _ACCESS_OR_TRUNCATE, _OPEN),
        "clone": _Condition(0, _THREAD | _NAMESPACES, (_THREAD,)),
        "kill": _Condition(0, _ALL, (pid,)),
        "tgkill": _Condition(0, _ALL, (pid,)),
        "prlimit64": _Condition(0, _ALL, (0, pid)),
        "fcntl": _Condition(1, _ALL, _FCNTL),
        "ioctl": _Condition(1, _ALL, _IOCTL),
        "socketpair": _Condition(0, _ALL, (1,)),
    }
    code = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_JUMP_IF_EQUAL, architecture, skip_if_true=1),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER),
    ]
    for number in (numbers[column] for numbers in ALLOWED.values()):
        if number is not None:
            code += [_instruction(_JUMP_IF_EQUAL, number, skip_if_false=1), _instruction(_RETURN, _ALLOW)]
    for name, condition in conditions.items():
        number = LIMITED[name][column]
        if number is not None:
            code += _limited(number, condition)
    code.append(_instruction(_RETURN, _ERROR | errno.ENOSYS))
    return b"".join(code)


def _limited(number: int, condition: _Condition) -> list[bytes]:
    body = [
        _instruction(_LOAD, _ARGUMENTS + 8 * condition.argument),
        _instruction(_AND, condition.mask),
    ]
    for value in condition.values:
        body += [_instruction(_JUMP_IF_EQUAL, value, skip_if_false=1), _instruction(_RETURN, _ALLOW)]
    body.append(_instruction(_RETURN, _ERROR | errno.ENOSYS))
    return [_instruction(_JUMP_IF_EQUAL, number, skip_if_false=len(body)), *body]


def _instruction(code: int, value: int, *, skip_if_true: int = 0, skip_if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, skip_if_true, skip_if_false, value)
