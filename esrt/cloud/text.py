"""Between token ids and text: tags are told by their ids alone, never by how a text reads."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

from esrt.errors import ModelError
from esrt.languages import LANGUAGES
from esrt.prompts import CAPTION_TAG, Task, parse

_HALF_A_CHARACTER = "\ufffd"
_CIRCLE = 32  # tokens
_LAST = 96  # tokens, too


class Text:
    """A model's tokenizer with the 102 tags. `tags`: language code -> token id; `codes`: the other way round.

    `caption` are the ids that ask for a caption, before its language's tag.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Raises ModelError `tags_missing` when a tag is not one token."""
        self._tokenizer = tokenizer
        self.tags: dict[str, int] = {}
        for code, language in LANGUAGES.items():
            token = tokenizer.token_to_id(language.tag)
            if token is None:
                raise ModelError(
                    "tags_missing", f"The tokenizer has no token {language.tag}: download the model again."
                )
            self.tags[code] = token
        self.codes = {token: code for code, token in self.tags.items()}
        self.caption: list[int] = tokenizer.encode(CAPTION_TAG, add_special_tokens=False).ids

    def read(self, task: Task, ids: Sequence[int], source: str | None, target: str | None = None) -> str:
        """The text of an answer's ids, without its tag: a transcript (ASR) or a translation (SMT)."""
        parsed = parse(task, self._tokenizer.decode(list(ids), skip_special_tokens=True), source, target)
        return parsed.transcript if task is Task.ASR else parsed.translation or ""


def circles(ids: Sequence[int]) -> int:
    """How many of the last ids are repetition, where they say the same thing four times over: all but a round; else 0.

    A small model that has lost the thread goes on like that until it is stopped. Short runs are left alone: people do
    say a phrase four times, and some tokenizers have one token for each zero of a trillion. Rounds that differ in a
    word now and then are told by how few different fours of tokens the last 96 have: two thirds of these are cut.
    """
    for length in range(_CIRCLE // 4, len(ids) // 4 + 1):
        tail = ids[-4 * length :]
        if tail[length:] == tail[:-length]:
            return next(4 * length - period for period in range(1, length + 1) if tail[period:] == tail[:-period])
    if len(ids) < _LAST:
        return 0
    fours = {tuple(ids[at : at + 4]) for at in range(len(ids) - _LAST, len(ids) - 3)}
    return 2 * _LAST // 3 if len(fours) < _LAST // 3 else 0


class Deltas:
    """Cuts a growing text into pieces that may be shown at once: their sum is the text so far."""

    def __init__(self) -> None:
        self._shown = ""

    def next(self, text: str) -> str:
        """What `text` adds; nothing while it ends within a character, or when it is not what was shown and more."""
        if text.endswith(_HALF_A_CHARACTER) or not text.startswith(self._shown):
            return ""
        delta, self._shown = text[len(self._shown) :], text
        return delta
