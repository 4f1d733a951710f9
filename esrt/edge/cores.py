"""What this machine's processor can do: how many threads are worth starting, and whether int8 products are exact."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_INFO = Path("/proc/cpuinfo")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Physical cores that this process may use, as its affinity and its container's quota allow.

    0, which ONNX Runtime reads as "all physical cores", where the system is not Linux.
    """
    if sys.platform != "linux":
        return 0
    cores = {_siblings(cpu) for cpu in os.sched_getaffinity(0)}
    return max(1, min(len(cores), _quota(len(cores))))


def _siblings(cpu: int) -> str:
    """The hardware threads that share a core with `cpu`, as the kernel writes them; `cpu` itself where it does not."""
    try:
        return (_CPUS / f"cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii").strip()
    except OSError:
        return str(cpu)


def _quota(otherwise: int) -> int:
    """Whole cores that the container's time quota is worth: `cpu.max` holds `quota period` or `max period`."""
    try:
        quota, period = _QUOTA.read_text(encoding="ascii").split()
        return otherwise if quota == "max" else int(quota) // int(period)
    except (OSError, ValueError):
        return otherwise


def saturates() -> bool:
    """Whether products of int8 may overflow 16 bits where they are added: on x86 without VNNI.

    Only Linux says which it is; elsewhere they are taken to, which costs time only.
    """
    try:
        return "vnni" not in _INFO.read_text(encoding="ascii", errors="replace")
    except OSError:
        return True
