"""Ties a process to its parent: when the parent is gone, however it went, the process goes too."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> bool:
    """Asks the system to kill this process when its parent ends; returns whether it can.

    Only Linux can. A killed run then leaves nothing behind that could write into the checkpoints of the next one; what
    the last checkpoint holds is not lost.

    Args:
        parent: Process id of the parent, as the parent knows it.
    """
    if sys.platform != "linux":
        return False
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        return False
    if os.getppid() != parent:  # it was gone before the request
        os.kill(os.getpid(), signal.SIGKILL)
    return True
