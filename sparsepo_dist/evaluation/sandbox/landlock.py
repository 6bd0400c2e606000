"""Landlock (Linux 5.13 and newer): which files a process can open from now on. Standard library only."""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
# The same numbers on every architecture (linux/landlock.h, asm-generic/unistd.h).
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_FILE, _MAKE_REG, _TRUNCATE = (1 << bit for bit in (1, 2, 3, 5, 8, 14))
_ABI_1, _REFER = (1 << 13) - 1, 1 << 13
_OF_FILES = _WRITE_FILE | _READ_FILE | _TRUNCATE
# Python, what its extension modules link and look at, and what programs read without being asked.
READABLE = (
    sys.prefix, sys.exec_prefix, sys.base_prefix, "/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime",
    "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu", "/dev/urandom", "/dev/random", "/dev/zero",
)  # fmt: skip


class _Ruleset(ctypes.Structure):
    _fields_ = [("handled_access_fs", ctypes.c_uint64)]


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = [("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32)]


def checked(result: int, what: str) -> int:
    """A system call's result.

    Raises:
        OSError: it failed; says what it was for.
    """
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def version() -> int:
    """Landlock's version in this kernel; 0 where it has none."""
    return max(0, LIBC.syscall(_CREATE, None, ctypes.c_size_t(0), _VERSION))


def restrict(folder: Path | None) -> None:
    """Let this process read what Python needs, and make, read, write and remove files in a folder, if any. For good.

    It needs PR_SET_NO_NEW_PRIVS.

    Raises:
        OSError: the kernel has no Landlock, or it is not in use.
    """
    found = version()
    if not found:
        raise OSError("Landlock is not there: it needs Linux 5.13 or newer that was booted with it (lsm=landlock,...)")
    handled = _ABI_1 | (_REFER if found >= 2 else 0) | (_TRUNCATE if found >= 3 else 0)
    attributes = _Ruleset(handled)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    rules = checked(LIBC.syscall(_CREATE, ctypes.byref(attributes), size, 0), "Landlock's rules")
    try:
        for path in READABLE:
            _allow(rules, path, handled & (_READ_FILE | _READ_DIR))
        _allow(rules, os.devnull, handled & (_READ_FILE | _WRITE_FILE))
        if folder is not None:
            _allow(rules, str(folder), handled & (_OF_FILES | _READ_DIR | _REMOVE_FILE | _MAKE_REG))
        checked(LIBC.syscall(_RESTRICT, rules, 0), "Landlock")
    finally:
        os.close(rules)


def _allow(rules: int, path: str, access: int) -> None:
    if not Path(path).exists():
        return
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            access &= _OF_FILES
        rule = _PathBeneath(access, place)
        checked(LIBC.syscall(_ADD, rules, _PATH_BENEATH, ctypes.byref(rule), 0), f"Landlock's rule for {path}")
    finally:
        os.close(place)
