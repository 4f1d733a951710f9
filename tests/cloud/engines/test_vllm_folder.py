"""What vLLM reads, checked without vLLM: the same model, with the tokens that it may write and no others."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from esrt.cloud.engines.vllm_folder import embedding, language_model
from esrt.errors import ModelError
from esrt.model import checkpoint, manifest
from esrt.model.language_model import load_language_model
from esrt.model.outputs import trim

EOS = 1


@pytest.fixture
def ready(
    tmp_path: Path, make_folder: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, torch.Tensor]:
    """A tiny ready folder whose LLM may write every third token and the end of a text, and those tokens."""
    monkeypatch.setenv("ESRT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    make_folder(folder)
    outputs = torch.tensor(sorted({EOS, *range(0, 300, 3)}), dtype=torch.int32)
    save_file({"ids": outputs}, folder / checkpoint.OUTPUTS)
    manifest.write(folder)
    return folder, outputs


def test_a_cut_model_writes_what_the_trimmed_one_does(ready: tuple[Path, torch.Tensor]) -> None:
    folder, outputs = ready
    cut = language_model(folder)
    assert cut.ids == outputs.tolist() and cut.eos_ids == {EOS}
    small = load_language_model(cut.folder)
    whole = load_language_model(folder / "llm")
    assert small.config.vocab_size == len(outputs)
    assert [cut.ids[number] for number in small.config.eos_token_id] == [EOS]
    trim(whole, outputs)
    rows = torch.randn(1, 30, 32, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        mine = small(inputs_embeds=rows).logits[0]
        theirs = whole(inputs_embeds=rows).logits[0]
    torch.testing.assert_close(mine, theirs[:, outputs.long()])
    table = embedding(folder)
    torch.testing.assert_close(table.float(), whole.get_input_embeddings().weight)


def test_it_is_made_once_and_again_where_it_is_damaged(ready: tuple[Path, torch.Tensor]) -> None:
    folder, _ = ready
    first = language_model(folder).folder
    weights = first / "model.safetensors"
    made = weights.stat().st_mtime_ns
    assert language_model(folder).folder == first and weights.stat().st_mtime_ns == made
    weights.write_bytes(weights.read_bytes()[:-1])
    assert language_model(folder).folder == first
    manifest.check(first)


def test_a_model_that_may_write_everything_is_read_where_it_is(ready: tuple[Path, torch.Tensor]) -> None:
    folder, _ = ready
    (folder / checkpoint.OUTPUTS).unlink()
    model = language_model(folder)
    assert model.folder == folder / "llm"
    assert model.ids == list(range(load_language_model(model.folder).config.vocab_size))
    shutil.rmtree(folder / "llm")
    with pytest.raises(ModelError, match="fetch the model again"):
        language_model(folder)
