"""COMET by its own classes, with a small random checkpoint, in a Python that has it: `make .venv/.comet`."""

from __future__ import annotations

import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest

from esrt.errors import UsageError
from esrt.evaluate import comet

PYTHON = Path(__file__).parents[2] / ".venv" / "comet" / "bin" / "python"
MAKE = textwrap.dedent(
    """
    import sys
    from pathlib import Path

    import torch, yaml
    from comet.models import RegressionMetric
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import XLMRobertaConfig, XLMRobertaModel, XLMRobertaTokenizerFast

    folder = Path(sys.argv[1])
    encoder = folder / "encoder"
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "\u2581", *"abcdefghijklmnopqrstuvwxyz", "<mask>"]
    made = Tokenizer(models.Unigram([(token, -float(number)) for number, token in enumerate(tokens)], unk_id=3))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer = XLMRobertaTokenizerFast(tokenizer_object=made)
    tokenizer.save_pretrained(encoder)
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=130,
    )
    XLMRobertaModel(config).save_pretrained(encoder)
    settings = dict(
        encoder_model="XLM-RoBERTa", pretrained_model=str(encoder), layer="mix", layer_transformation="softmax",
        hidden_sizes=[8], pool="avg", dropout=0.1, train_data=[], validation_data=[],
    )
    model = RegressionMetric(**settings)
    (folder / "checkpoints").mkdir()
    (folder / "hparams.yaml").write_text(yaml.safe_dump(dict(settings, class_identifier="regression_metric")))
    torch.save(
        {"state_dict": model.state_dict(), "hyper_parameters": settings, "pytorch-lightning_version": "2.0.0"},
        folder / "checkpoints" / "model.ckpt",
    )
    """
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not PYTHON.is_file():
        pytest.skip("COMET wants older packages than ESRT: `make .venv/.comet` installs it")
    folder = tmp_path_factory.mktemp("comet")
    made = subprocess.run([PYTHON, "-c", MAKE, folder], capture_output=True, text=True, timeout=600)
    assert made.returncode == 0, made.stderr
    return folder / "checkpoints" / "model.ckpt"


def test_its_own_classes_score_in_another_python(checkpoint: Path) -> None:
    texts = [("a cat", "the cat", "a cat"), ("the dog runs", "dog", "the dog runs home"), ("a cat", "the cat", "a cat")]
    found = comet.scores(texts, str(checkpoint), str(PYTHON))
    assert len(found) == 3 and found[0] == pytest.approx(found[2]) and found[0] != pytest.approx(found[1])


def test_a_checkpoint_that_is_none(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_text("no")
    shutil.copy(checkpoint.parents[1] / "hparams.yaml", tmp_path)
    with pytest.raises(UsageError) as refused:
        comet.scores([("a", "b", "c")], str(tmp_path / "model.ckpt"), str(PYTHON))
    assert refused.value.code == "comet_failed" and "\n" not in str(refused.value)


def test_without_comet(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as missing:
        comet.scores([("a", "b", "c")])
    assert missing.value.code == "comet_missing" and ".[comet]" in str(missing.value)
    with pytest.raises(UsageError) as nowhere:
        comet.scores([("a", "b", "c")], python=str(tmp_path / "python"))
    assert nowhere.value.code == "comet_missing"
