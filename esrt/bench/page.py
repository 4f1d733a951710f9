"""A page of measurements: each section stands between two markers, and one command writes it anew."""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, TypeAlias

from esrt.errors import ESRTError, UsageError

Section: TypeAlias = Callable[[argparse.Namespace], str]
Options: TypeAlias = Mapping[str, Mapping[str, Any]]
"""By the name of an option, what argparse is told of it."""


def reader(prog: str, page: Path, sections: Mapping[Section, Options]) -> argparse.ArgumentParser:
    """The command of a page: a verb for each section, by its function's name and docstring, with its own options."""
    parser = argparse.ArgumentParser(prog=prog, allow_abbrev=False)
    verbs = parser.add_subparsers(metavar="SECTION", required=True)
    for section, options in sections.items():
        verb = verbs.add_parser(section.__name__, help=section.__doc__, allow_abbrev=False)
        verb.add_argument("--page", type=Path, default=page, help=f"Markdown page with the section (default {page})")
        for name, about in options.items():
            verb.add_argument(f"--{name}", **about)
        verb.set_defaults(section=section)
    return parser


def run(args: argparse.Namespace) -> int:
    """Writes what `args.section` measures into its section of `args.page`, and prints it. Returns the exit code."""
    try:
        find_section(args.page, args.section.__name__)  # before hours of measuring
        text = args.section(args)
        print(text)
        replace_section(args.page, args.section.__name__, text)
    except ESRTError as error:
        print(f"esrt: {error} [{error.code}]", file=sys.stderr)
        return 2
    return 0


def find_section(page: Path, name: str) -> re.Match[str]:
    """Where a Markdown page has `<!-- name -->`, what follows, and `<!-- /name -->`.

    Raises UsageError `page_missing` or `section_missing`.
    """
    if not page.is_file():
        raise UsageError("page_missing", f"There is no page {page}: run this in a checkout, or name one by --page.")
    found = re.search(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", page.read_text(encoding="utf-8"), re.DOTALL)
    if found is None:
        raise UsageError("section_missing", f"{page} has no lines <!-- {name} --> and <!-- /{name} -->: add them.")
    return found


def replace_section(page: Path, name: str, text: str) -> None:
    """Puts `text` into a section of a Markdown page, and leaves the rest as it is. Raises as `find_section`."""
    found = find_section(page, name)
    new = f"{found.string[: found.end(1)]}\n{text.strip()}\n\n{found.string[found.start(2) :]}"
    beside = page.with_suffix(".part")
    beside.write_text(new, encoding="utf-8")
    beside.replace(page)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> str:
    """On what this runs, when and from where: `2 cores of AMD EPYC, torch 2.13.0, 2026-11-21, commit 1a2b`."""
    import torch

    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        named = re.findall(r"^model name\s*: (.+)$", info.read_text(encoding="utf-8"), re.MULTILINE)
        name = next(iter(named), name)
    torch_said = f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)"
    return f"{os.cpu_count()} cores of {name}, {torch_said}, {date.today()}{_commit()}"


def _commit() -> str:
    """`, commit 1a2b` of the checkout that this code is in, and whether the code was changed since; "" outside one."""
    here = Path(__file__).parents[2]
    if not (here / ".git").exists():
        return ""
    git = ["git", "-C", str(here)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "status", "--porcelain", "esrt"], capture_output=True, text=True, check=False)
    return f", commit {head.stdout.strip()}{' with changes' if changed.stdout else ''}" if head.stdout else ""
