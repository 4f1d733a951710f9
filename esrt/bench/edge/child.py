"""Work in a fresh process, so that its memory is its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from esrt.errors import UsageError

_STATUS = Path("/proc/self/status")
_CODE = """
import importlib, json, sys
module, name, arguments = sys.argv[1:]
for found in getattr(importlib.import_module(module), name)(**json.loads(arguments)):
    print(json.dumps(found), flush=True)
"""


def run(function: Callable[..., Iterator[Any]], **arguments: Any) -> Iterator[Any]:
    """What a generator function of a module yields in a new Python process, as it comes. All must be fit for JSON.

    Raises UsageError `child_failed`; what the process had to say stands on stderr.
    """
    command = [sys.executable, "-c", _CODE, function.__module__, function.__name__, json.dumps(arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                yield json.loads(line)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise UsageError("child_failed", f"{function.__name__} ended with {process.returncode}: see above.")


def peak_memory() -> int:
    """The most bytes of this process that were ever in memory, libraries included. Raises UsageError `not_linux`."""
    if not _STATUS.is_file():
        raise UsageError("not_linux", "Only Linux says how much memory a process had at most: measure there.")
    found = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])
