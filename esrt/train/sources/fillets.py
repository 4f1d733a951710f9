"""Acted dialogue of Fish Fillets: Czech and Dutch speech, text in twelve languages (Debian `fillets-ng-data*`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from esrt.train.manifest import Row, held_out, rows_of
from esrt.train.sources import files

LOCALES = {
    "eng": "en", "bul": "bg", "ces": "cs", "deu": "de", "spa": "es", "fra": "fr",
    "ita": "it", "nld": "nl", "pol": "pl", "rus": "ru", "slv": "sl", "swe": "sv",
}  # fmt: skip
SPOKEN = ("ces", "nld")
_ENTRY = re.compile(r'dialogId\("([^"]+)",\s*"[^"]*",\s*"([^"]*)"\)(?:\s*dialogStr\("([^"]*)"\))?')


def dialogue(root: Path) -> dict[tuple[str, str], dict[str, str]]:
    """(scene, dialogue id) -> language -> text."""
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for language, locale in LOCALES.items():
        for path in sorted((root / "usr/share/games/fillets-ng/script").glob(f"*/dialogs_{locale}.lua")):
            for key, english, translated in _ENTRY.findall(path.read_text(encoding="utf-8", errors="replace")):
                text = re.sub(r"\s+", " ", english if language == "eng" else translated).strip()
                if text and not re.search(r"[\\%$]", text):
                    lines.setdefault((path.parent.name, key), {})[language] = text
    return lines


def rows(root: Path, test: bool) -> Iterator[Row]:
    """One row per recorded line and language it is translated to; whole scenes are held out."""
    files.need(root / "usr/share/games/fillets-ng/script", "unpack fillets-ng-data and its voices there (dpkg -x)")
    for (scene, key), texts in dialogue(root).items():
        if held_out(scene) != test:
            continue
        for source in SPOKEN:
            path = root / "usr/share/games/fillets-ng/sound" / scene / LOCALES[source] / f"{key}.ogg"
            if source not in texts or not path.is_file():
                continue
            name = f"fillets-{source}-{scene}-{key}"
            yield from rows_of(name, str(path), source, texts, texts)
