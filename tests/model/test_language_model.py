"""Gemma 3 from folders and multimodal checkpoints; tags in the vocabulary and in the embedding."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma3Config, Gemma3ForCausalLM, Gemma3ForConditionalGeneration, SiglipVisionConfig

from esrt.errors import ModelError
from esrt.languages import LANGUAGES
from esrt.model import language_model
from esrt.model.language_model import TAGS
from tests.model import tiny

# Multimodal checkpoints.


@pytest.fixture(scope="module")
def multimodal(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A multimodal Gemma 3 as the Hub has it, and what it answers to text."""
    folder = tmp_path_factory.mktemp("multimodal")
    size = tiny.save_tokenizer(folder)
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    torch.manual_seed(5)
    config = Gemma3Config(text_config=tiny.text_config(size), vision_config=vision, mm_tokens_per_image=4)
    whole = Gemma3ForConditionalGeneration(config).eval()
    whole.save_pretrained(folder)
    return folder, tiny.logits(whole)


def rename(folder: Path, copy: Path, prefix: str) -> Path:
    """The checkpoint with its tensors of text under `prefix`, the others as they are."""
    shutil.copytree(folder, copy)
    state = load_file(folder / "model.safetensors")
    assert any("vision_tower" in name for name in state)
    assert any("multi_modal_projector" in name for name in state)
    named = {}
    for name, tensor in state.items():
        text = language_model.text_name(name)
        named[name if text is None else prefix + text.removeprefix("model.")] = tensor
    save_file(named, copy / "model.safetensors", {"format": "pt"})
    return copy


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_a_multimodal_checkpoint_loses_its_eyes(
    multimodal: tuple[Path, torch.Tensor], tmp_path: Path, prefix: str
) -> None:
    folder, expected = multimodal
    llm = language_model.load_language_model(rename(folder, tmp_path / "named", prefix))
    assert isinstance(llm, Gemma3ForCausalLM)
    assert not any("vision" in name or "multi_modal" in name for name, _ in llm.named_parameters())
    torch.testing.assert_close(tiny.logits(llm), expected)


def test_a_pruned_checkpoint_is_saved_as_text_only(multimodal: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    folder, expected = multimodal
    language_model.convert_base(folder, tmp_path, torch.float32)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "gemma3_text"
    assert all(name.startswith(("model.layers", "model.embed", "model.norm", "lm_head")) for name in state_of(tmp_path))
    ours = tiny.logits(language_model.load_language_model(tmp_path))
    ids = language_model.tag_ids(language_model.load_tokenizer(tmp_path))
    rest = [index for index in range(ours.shape[-1]) if index not in ids]
    torch.testing.assert_close(ours[..., rest], expected[..., rest])


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "new"),
    [
        ("vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", None),
        ("model.vision_tower.vision_model.embeddings.patch_embedding.weight", None),
        ("multi_modal_projector.mm_soft_emb_norm.weight", None),
        ("model.multi_modal_projector.mm_input_projection_weight", None),
        ("language_model.model.embed_tokens.weight", "model.embed_tokens.weight"),
        ("model.language_model.norm.weight", "model.norm.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
    ],
)
def test_which_tensors_stay(name: str, new: str | None) -> None:
    assert language_model.text_name(name) == new


# Folders that are no Gemma 3.


def test_other_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match="needs Gemma 3") as caught:
        language_model.load_language_model(tmp_path)
    assert caught.value.code == "model_not_supported"


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        language_model.load_language_model(tmp_path)
    assert caught.value.code == "model_missing"


def test_weights_that_must_be_unpickled_are_refused(gemma: Path, tmp_path: Path) -> None:
    shutil.copytree(gemma, tmp_path, dirs_exist_ok=True)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError) as caught:
        language_model.load_language_model(tmp_path)
    assert caught.value.code == "model_damaged"


def test_cut_weights_are_refused(gemma: Path, tmp_path: Path) -> None:
    shutil.copytree(gemma, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError) as caught:
        language_model.load_language_model(tmp_path / "cut")
    assert caught.value.code == "model_damaged"


# Tags in the tokenizer.


@pytest.fixture(scope="module")
def expanded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("expanded")
    tiny.save_tokenizer(folder)
    language_model.expand_tokenizer(folder)
    return folder


def test_each_tag_is_one_token(expanded: Path) -> None:
    tokenizer = language_model.load_tokenizer(expanded)
    ids = language_model.tag_ids(tokenizer)
    assert len(set(ids)) == 102
    for tag, index in zip(TAGS, ids, strict=True):
        assert tokenizer(tag, add_special_tokens=False).input_ids == [index]
        assert tokenizer.decode([index]) == tag
    text = "".join(f"a{tag}b" for tag in TAGS)
    found = tokenizer(text, add_special_tokens=False).input_ids
    assert [index for index in found if index in ids] == ids
    assert tokenizer.decode(found, skip_special_tokens=True) == "ab" * 102


def test_the_tags_take_the_last_unused_places(expanded: Path) -> None:
    tokenizer = language_model.load_tokenizer(expanded)
    first = 4 + tiny.UNUSED - 102
    assert language_model.tag_ids(tokenizer) == list(range(first, first + 102))
    vocabulary = tokenizer.get_vocab()
    assert [token for token in vocabulary if token.startswith("<unused")]
    assert f"<unused{tiny.UNUSED - 1}>" not in vocabulary


def test_text_cannot_name_a_tag(expanded: Path) -> None:
    tokenizer = language_model.load_tokenizer(expanded)
    ids = set(language_model.tag_ids(tokenizer))
    for text in ("<|deu|>", "Hello <|fra|> there", "<|eng|><|deu|>"):
        found = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert not ids & set(found)
        assert tokenizer.decode(found) == text


def test_other_text_is_cut_as_before(expanded: Path, tmp_path: Path) -> None:
    tiny.save_tokenizer(tmp_path)
    before, after = language_model.load_tokenizer(tmp_path), language_model.load_tokenizer(expanded)
    for language in LANGUAGES.values():
        assert before(f" {language.name} | é").input_ids == after(f" {language.name} | é").input_ids
    assert len(before) == len(after)


def test_expanding_twice_changes_nothing(tmp_path: Path) -> None:
    tiny.save_tokenizer(tmp_path)
    ids = language_model.expand_tokenizer(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert language_model.expand_tokenizer(tmp_path) == ids
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_too_few_unused_tokens_are_refused(tmp_path: Path) -> None:
    tiny.save_tokenizer(tmp_path, unused=101)
    with pytest.raises(ModelError, match="101 <unusedN> tokens") as caught:
        language_model.expand_tokenizer(tmp_path)
    assert caught.value.code == "model_not_supported"


def test_a_tokenizer_without_tags_is_told(tmp_path: Path) -> None:
    tiny.save_tokenizer(tmp_path)
    with pytest.raises(ModelError) as caught:
        language_model.tag_ids(language_model.load_tokenizer(tmp_path))
    assert caught.value.code == "tokenizer_without_tags"


@pytest.mark.parametrize("text", ["", "{}", '{"model": {"vocab": []}}', "[1]"])
def test_a_damaged_tokenizer_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ModelError) as caught:
        language_model.expand_tokenizer(tmp_path)
    assert caught.value.code in {"model_damaged", "model_not_supported"}


# Tags in the embedding.


def test_the_rows_begin_as_the_languages_names(gemma: Path, tmp_path: Path) -> None:
    ids = language_model.convert_base(gemma, tmp_path, torch.float32)
    llm = language_model.load_language_model(tmp_path)
    tokenizer = language_model.load_tokenizer(tmp_path)
    table = language_model.load_language_model(gemma).get_input_embeddings().weight
    rows = llm.get_input_embeddings().weight.detach()[ids]
    for row, language in zip(rows, LANGUAGES.values(), strict=True):
        name = tokenizer(" " + language.name, add_special_tokens=False).input_ids
        torch.testing.assert_close(row, table[name].mean(0))
    rest = [index for index in range(len(table)) if index not in ids]
    assert torch.equal(llm.get_input_embeddings().weight[rest], table[rest])


def test_rows_are_a_delta_of_102(gemma: Path) -> None:
    llm = language_model.load_language_model(gemma)
    ids = list(range(12, 114))
    rows = torch.randn(102, tiny.WIDTH)
    before = llm.get_input_embeddings().weight.detach().clone()
    language_model.set_tag_rows(llm, ids, rows)
    assert torch.equal(llm.get_input_embeddings().weight.detach()[ids], rows)
    after = llm.get_input_embeddings().weight
    assert torch.equal(after[114:], before[114:])
    assert llm.lm_head.weight is after, "the output layer is tied: it knows the rows too"
    with pytest.raises(ModelError) as caught:
        language_model.set_tag_rows(llm, ids, rows[:, :-1])
    assert caught.value.code == "model_mismatch"
