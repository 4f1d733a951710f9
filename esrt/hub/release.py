"""Models as the paper's authors release them (`yxdu/ESRT-4B`) -> folders of ours that are ready to run.

Such a release brings code of its own. It runs here, once, when somebody who trusts it pulls the model: its public
`translate_encode` is traced into the edge graph, and its public `translate_batch_embeds` is followed up to the rows
that it hands to its language model, which gives the projector and proves that ours puts the same rows together. The
language model itself is the plain one that lies beside (`yxdu/ESRT-4B-LLM`). Neither a device nor a server runs the
release's code.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from esrt.config import AdapterConfig, EncoderConfig, ModelConfig
from esrt.errors import ModelError
from esrt.hub import huggingface

Progress = Callable[[str, float], None]

BUILD = 1  # part of each cache's name: raise it when what is built from the same release changes
DESCRIPTION = ["*.json", "*.py"]  # what tells that it is a release, and what its code does
LLM_FILES = ["*.json", "*.safetensors"]


def is_release(folder: Path) -> bool:
    """Whether a folder brings a model's code: its config.json says which class loads it."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return "AutoModel" in config.get("auto_map", {})
    except (OSError, ValueError, AttributeError):
        return False


def key(folder: Path) -> str:
    """Names a release in the cache: its code and configuration, and the revision, which names a Hub's folder."""
    digest = hashlib.sha256(f"{BUILD} {folder.name}\n".encode())
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".json")):
        digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def untrusted(name: str) -> ModelError:
    """The error where nobody said that the release's code may run."""
    return ModelError(
        "remote_code",
        f"{name} brings code of its own, which would run on this machine: read it, then type `esrt models pull {name} "
        "--trust-remote-code`, once.",
    )


def make_ready(name: str, source: Path, folder: Path, progress: Progress) -> None:
    """Writes all of a ready folder into `folder` (empty, but there). Runs the code that `source` brings.

    Raises ModelError `release_differs` where it does not do what docs/evaluation.md says of such releases.
    """
    import torch
    from safetensors.torch import save_file

    from esrt.model import checkpoint, language_model, release

    progress(f"listening with the encoder of {name}", 0.0)
    rows = release.rows_of(release.Edge(release.load(source, torch.float32, encoder_only=True)))
    queries, width = rows.shape[1:]
    progress(f"following {name} to its language model", 0.2)
    caught = release.follow(release.load(source, torch.bfloat16), rows[:1])
    progress("copying the language model", 0.4)
    llm_source = source.with_name(f"{source.name}-LLM")
    if not llm_source.is_dir():
        llm_source = huggingface.fetch(f"{name}-LLM", LLM_FILES)
    (folder / "llm").mkdir()
    for path in llm_source.iterdir():
        if path.suffix in (".json", ".safetensors"):
            shutil.copyfile(path, folder / "llm" / path.name)
    llm = release.llm_config(folder / "llm", f"{name}-LLM")
    config = ModelConfig(
        name=Path(name).name,
        # Within the graph; nothing asks for more than where it came from.
        encoder=EncoderConfig(name, release.MEL_BINS, width=0, layers=0, heads=0),
        adapter=AdapterConfig("blip2", queries, width, layers=0, heads=0, ffn=0, cross_every=2),
        llm=llm,
        context="full",
        branch="srt",
    )
    config.save(folder / "config.json")
    save_file(release.projector(config, caught, rows[:1]), folder / "projector.safetensors")
    progress("comparing the language model", 0.6)
    own = language_model.load_language_model(folder / "llm", torch.bfloat16)
    release.check_prompt(own, language_model.load_tokenizer(folder / "llm"), caught.rows[queries:])
    del own
    progress("writing the edge model", 0.7)
    # Once more from its files: both halves at once would not fit into many a machine.
    graph = release.export(release.Edge(release.load(source, torch.float32, encoder_only=True)), folder)
    checkpoint.save_codec({"int8_scale": release.scales(rows)}, folder)
    # What a frame's fingerprint is made of: the graph, in place of the adapter's weights, which lie in it.
    save_file({"edge_graph": torch.tensor(list(graph), dtype=torch.uint8)}, folder / "adapter.safetensors")
    (folder / "whisper").mkdir()
    (folder / "whisper" / "origin.json").write_text(json.dumps({"weights": name, "from": "edge.onnx"}) + "\n")
    _describe(folder)
    progress("ready", 1.0)


def _describe(folder: Path) -> None:
    """Writes into the edge graph what a device must know of the model."""
    import onnx

    from esrt.model import export

    path = folder / "edge.onnx"
    graph = onnx.load(path, load_external_data=False)
    entry = graph.metadata_props.add()
    entry.key, entry.value = export.METADATA_KEY, json.dumps(export.metadata(folder))
    path.write_bytes(graph.SerializeToString())
