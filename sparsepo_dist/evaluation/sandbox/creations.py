"""How many files a process makes, counted by the one that watches it: each has a size limit, and so have all together.

Files that are unlinked while they are open or mapped cannot be found by looking; their making cannot be missed. A
filter of seccomp has the kernel hold every call that would make a file until the watcher has said yes or no (Linux
5.5 and newer). Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct

from sparsepo_dist.evaluation.sandbox.landlock import LIBC, checked
from sparsepo_dist.evaluation.sandbox.seccomp import Program, asking_filter

_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV, _SEND
_REQUEST_BYTES = 80
_CONTINUE = 1


def ask_for_creations() -> int:
    """From here on this process makes no file before the holder of the returned listener has agreed. For good.

    It needs PR_SET_NO_NEW_PRIVS.

    Raises:
        OSError: the kernel cannot, or another filter above this process has such a listener already.
    """
    machine = platform.machine()
    if machine not in _SECCOMP:
        raise OSError(f"files cannot be counted on {machine}")
    code = asking_filter(machine)
    program = Program(len(code) // 8, code)
    call = ctypes.c_long(_SECCOMP[machine])
    found = LIBC.syscall(call, _SET_MODE_FILTER, _NEW_LISTENER, ctypes.byref(program))
    return checked(found, "counting the files that are made")


class Creations:
    """The watcher's side of a listener.

    Args:
        listener: its number; closed with this.
        most: files that may be made.
    """

    def __init__(self, listener: int, most: int) -> None:
        self.listener = listener
        self._left = most
        self.refused = False
        """Whether more were wanted."""

    def answer(self) -> None:
        """Decide on a call that waits. Raises OSError where the number is no listener."""
        request = bytearray(_REQUEST_BYTES)
        try:
            fcntl.ioctl(self.listener, _RECEIVE, request)
            (identity,) = struct.unpack_from("=Q", request)
            allowed = self._left > 0
            self._left -= allowed
            self.refused = self.refused or not allowed
            said = (0, _CONTINUE) if allowed else (-errno.EDQUOT, 0)
            fcntl.ioctl(self.listener, _SEND, bytearray(struct.pack("=QqiI", identity, 0, *said)))
        except OSError as error:
            if error.errno != errno.ENOENT:  # whoever asked is gone
                raise

    def close(self) -> None:
        """Further calls are refused."""
        os.close(self.listener)
