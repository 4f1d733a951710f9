"""The drafter: a small ESRT model's LLM on the device, which remembers what it has read of a clip.

It runs on torch (the extra `cloud`); the edge loop sees nothing of that but `listen`, `next` and `name`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from esrt.cloud.engines.keyvalues import KeyValues, extend, start
from esrt.cloud.text import Text
from esrt.config import ModelConfig
from esrt.decoding.gates import Guess, guess
from esrt.errors import ModelError
from esrt.model import checkpoint, finder
from esrt.model.finder import Finder
from esrt.model.language_model import eos_ids, load_language_model, load_tokenizer
from esrt.model.outputs import trim
from esrt.model.precision import decoding_type
from esrt.wire import codecs
from esrt.wire.frame import Frame
from esrt.wire.verification import tokenizer_fingerprint


class Drafter:
    """Drafts greedily after a clip's rows. One clip at a time: `listen` begins the next.

    `fingerprint` (8 bytes) is that of the device's half whose frames it reads, `tokenizer` names what its ids mean.
    """

    def __init__(
        self,
        llm: nn.Module,
        projector: nn.Module,
        tokenizer: Tokenizer,
        tables: codecs.Tables,
        fingerprint: bytes,
        eos_ids: Iterable[int],
        outputs: Tensor | None = None,
        branch: Literal["smt", "srt"] = "smt",
        finder: Finder | None = None,
    ) -> None:
        """`llm` is a transformers Gemma3ForCausalLM in eval mode; `outputs` [n] are the ids it may write, None: all;
        `branch` is that of config.ModelConfig; `finder` tells the language of rows, where the model has one.
        """
        model: Any = llm
        self._llm, self._projector, self._tables = model, projector, tables
        self.text, self.fingerprint, self.eos_ids = Text(tokenizer), fingerprint, frozenset(eos_ids)
        self.tokenizer = tokenizer_fingerprint(tokenizer.get_vocab())
        self._embedding = model.get_input_embeddings()
        if outputs is not None:
            trim(model, outputs)
        self._outputs, self.branch, self._finder = outputs, branch, finder
        self.found: str | None = None
        """The language that a finder tells of the clip."""
        self._audio = torch.empty(0, 0)
        self._kv: KeyValues | None = None
        self._ids: list[int] = []  # what the cache holds after the audio rows

    @torch.inference_mode()
    def listen(self, frame: Frame) -> None:
        """Begin a clip. Raises FrameError, ModelError `pair_mismatch` for a frame of another device's half."""
        if frame.fingerprint != self.fingerprint:
            raise ModelError(
                "pair_mismatch", "The drafter belongs to another model's device half: make one from this model."
            )
        rows = codecs.decode(frame, self._tables)
        self.found = None if self._finder is None else self._finder(rows)
        self._audio = self._projector(torch.from_numpy(rows)[None])[0].to(self._embedding.weight.dtype)
        self._kv, self._ids = None, []

    def asked(self, known: list[int], target: str) -> list[int]:
        """The prompt's ids of a translation, as in the cloud: `known` is the transcript and the source's tag."""
        tag = self.text.tags[target]
        return [*known, tag] if self.branch == "smt" else [known[-1], tag, *known, tag]

    def next(self, ids: Sequence[int]) -> Guess:
        """The likeliest token after the clip and `ids`; what they share with the last call's is not read again."""
        last = self._after(ids)
        if self._outputs is None:
            return guess(last.float().numpy())
        return guess(last[self._outputs].float().numpy(), self._outputs.numpy())

    def name(self, ids: Sequence[int]) -> str:
        """The code of the likeliest language of a transcript that has ended without its tag."""
        tags = sorted(self.text.codes)
        return self.text.codes[tags[int(self._after(ids)[tags].argmax())]]

    @torch.inference_mode()
    def _after(self, ids: Sequence[int]) -> Tensor:
        """The logits [vocabulary] of what follows the clip and `ids`."""
        if not len(self._audio):
            raise ValueError("listen to a clip first")
        queries, keep = len(self._audio), 0
        if self._kv is not None:
            same = next((i for i, (a, b) in enumerate(zip(self._ids, ids, strict=False)) if a != b), None)
            same = min(len(self._ids), len(ids)) if same is None else same
            keep = min(queries + same, queries + len(ids) - 1)  # the last row must be read to say what follows
        past = start(self._kv, 0, keep) if self._kv is not None and keep else None
        new = self._embedding(torch.tensor(list(ids[max(0, keep - queries) :]), dtype=torch.long))
        logits, self._kv = extend(self._llm, torch.cat([self._audio[keep:], new])[None], past, 1)
        self._ids = list(ids)
        return logits[0, -1]


def load(folder: Path) -> Drafter:
    """The drafter of a model folder that `hub.resolve` returned. Raises ModelError."""
    llm = load_language_model(folder / "llm", decoding_type()).requires_grad_(False).eval()
    return Drafter(
        llm,
        checkpoint.load_projector(folder),
        load_tokenizer(folder / "llm").backend_tokenizer,
        checkpoint.load_tables(folder),
        checkpoint.fingerprint(folder),
        eos_ids(llm),
        checkpoint.load_outputs(folder),
        ModelConfig.load(folder / "config.json").branch,
        finder.load(folder),
    )
