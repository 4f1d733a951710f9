"""What vLLM runs at the start of each of its processes: its engine's must not outlive the server that started it.

vLLM leaves its engine running, with all its memory, when the process that asked for it is killed.
"""

from __future__ import annotations

import ctypes
import os
import signal

SERVER = "ESRT_VLLM_SERVER"
"""Names, in the environment, the process that the engine belongs to."""

_PR_SET_PDEATHSIG = 1


def end_with_server() -> None:
    """In a child of the server: end when it ends; and a terminal's Ctrl-C is for the server alone."""
    if os.environ.get(SERVER) == str(os.getppid()):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setpgid(0, 0)
