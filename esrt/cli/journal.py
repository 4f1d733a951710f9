"""The results of one file so far, a line each, on disk: what a run that breaks off leaves for `--resume`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from esrt.edge.pipeline import SegmentResult
from esrt.errors import UsageError
from esrt.wire.schemas import Drafting

SUFFIX = ".esrt.jsonl"


class Journal:
    """`path` begins with a line that says of what it is (`head`); each further line is a SegmentResult.

    `saved` counts the results that are safe.
    """

    def __init__(self, path: Path, head: dict[str, Any]) -> None:
        """Nothing is read or written yet."""
        self.path = path
        self.saved = 0
        self._head = head
        self._begun = False

    def read(self) -> list[SegmentResult]:
        """The results of the run that broke off; none if there was none. A line that was cut short does not count.

        Raises UsageError `resume_mismatch` if that run was of another file or had other options.
        """
        try:
            lines = self.path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UsageError("resume_mismatch", f"{self.path} cannot be read: {error.strerror}.") from error
        read = []
        with suppress(ValueError):
            read = [json.loads(line) for line in lines if line.endswith(b"\n")]
        if not read or read[0] != self._head:
            begun = read[0] if read else {}
            other = [name for name in {**begun, **self._head} if begun.get(name) != self._head.get(name)]
            what = "by another model, such as the cloud's" if other == ["edge"] else "of another file or options"
            raise UsageError(
                "resume_mismatch", f"{self.path} is {what}: go on with that, or leave --resume out to begin anew."
            )
        self.saved = len(read) - 1
        return [_result(line) for line in read[1:]]

    def add(self, results: Sequence[SegmentResult]) -> None:
        """Save the last of all results so far. Raises OSError."""
        if not self._begun:
            return self.keep(results)
        with self.path.open("ab") as file:
            file.write(_line(asdict(results[-1])))
            file.flush()
            os.fsync(file.fileno())
        self.saved = len(results)

    def keep(self, results: Sequence[SegmentResult]) -> None:
        """Save all results, whatever the file holds. Raises OSError."""
        write(self.path, b"".join(map(_line, [self._head, *map(asdict, results)])))
        self.saved = len(results)
        self._begun = True

    def remove(self) -> None:
        """The file is finished, and all is where it belongs."""
        if self.path.exists():  # a folder that cannot be written to has none
            self.path.unlink()


def _result(line: dict[str, Any]) -> SegmentResult:
    drafting = line.get("drafting")
    return SegmentResult(**{**line, "drafting": drafting and Drafting(**drafting)})


def write(path: Path, data: bytes) -> None:
    """Write beside `path`, then rename: what has the name is whole. Raises OSError."""
    beside = path.with_name(f".{path.name}.part")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"  # all in ASCII: a file's name may be no text
