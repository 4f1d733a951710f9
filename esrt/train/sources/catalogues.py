"""Translated dialogue of games (Debian `wesnoth-1.16-*`, `freedroidrpg-data`): text, to be spoken by `synth`."""

from __future__ import annotations

import gettext
import re
import struct
from collections.abc import Iterable
from pathlib import Path

from esrt.errors import UsageError
from esrt.languages import LANGUAGES

_LOCALES = {"cmn": "zh_CN", "nob": "nb_NO", "por": "pt_BR"}  # elsewhere the plain BCP 47 tag


def sentences(root: Path, languages: Iterable[str], shortest: int = 3, longest: int = 22) -> list[dict[str, str]]:
    """Language -> text, for each plain sentence of `shortest` to `longest` English words; English is always there."""
    found: dict[str, dict[str, str]] = {}
    for language in languages:
        locale = _LOCALES.get(language, LANGUAGES[language].bcp47)
        for path in sorted(root.glob(f"usr/share/**/locale/{locale}/LC_MESSAGES/*.mo")):
            try:
                with path.open("rb") as file:
                    catalogue = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
            except (OSError, ValueError, struct.error) as error:
                text = f"{path} is no catalogue of translations ({error}): unpack its package again."
                raise UsageError("wrong_layout", text) from error
            for key, translated in catalogue.items():
                if not isinstance(key, str) or not isinstance(translated, str):
                    continue
                english = key.rpartition("\x04")[2].rpartition("^")[2].strip()
                if not shortest <= len(english.split()) <= longest or translated == english:
                    continue
                if re.search(r"[<>$|{}\[\]=_@#%\n*/\\0-9]", english + translated):
                    continue
                if text := translated.strip():
                    found.setdefault(english, {"eng": english})[language] = text
    return list(found.values())
