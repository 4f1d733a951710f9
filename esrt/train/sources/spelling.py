"""Text in capitals, or without accents -> as other texts write it."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_BEGINS = re.compile(r"(^\W*|[.!?]\s+\W*)([^\W\d_])")
_WRITTEN_OUT = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"})


def _bare(word: str) -> str:
    """A word without capitals and accents, German umlauts written out: what its spellings have in common."""
    decomposed = unicodedata.normalize("NFD", word.lower().translate(_WRITTEN_OUT))
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


class Spelling:
    """How texts of one language write each word: learned from `texts`, which are written as they should be."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._forms: dict[str, Counter[str]] = defaultdict(Counter)
        for text in (each.replace("’", "'") for each in texts):
            begins = {match.start(2) for match in _BEGINS.finditer(text)}
            for match in _WORD.finditer(text):
                # Where a sentence begins, the capital says nothing of the word; shouted ones say nothing at all.
                if match.start() not in begins and (len(match[0]) == 1 or not match[0].isupper()):
                    self._forms[_bare(match[0])][match[0]] += 1

    def restored(self, text: str) -> str:
        """The text with each word in its most frequent form. A word that has accents keeps them; one that is not known
        keeps its capitals where the rest is not in capitals too.
        """
        shouted = sum(map(str.isupper, text)) > sum(map(str.islower, text))

        def form(match: re.Match[str]) -> str:
            small = match[0].lower()
            known: dict[str, int] = self._forms.get(_bare(small), {})
            if small != _bare(small):
                known = {each: count for each, count in known.items() if each.lower() == small}
            return max(known, key=known.__getitem__, default=small if shouted else match[0])

        return _BEGINS.sub(lambda match: match[1] + match[2].upper(), _WORD.sub(form, text))
