"""What memory a recipe needs, stage by stage, found without any weights: what `esrt train RECIPE --dry-run` prints.

The network is the real one, of tensors that have a shape and no bytes; activations are what autograd would keep of its
real forward pass. Logits and the softmax over them, whose number the data decides, are reckoned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

from esrt.config import PRESETS, LLMConfig
from esrt.languages import LANGUAGES
from esrt.model.language_model import quiet
from esrt.model.whisper_encoder import WhisperEncoder
from esrt.train.batches import OTHERS, Answers, Vocabularies
from esrt.train.network import Network, layout
from esrt.train.recipes import Recipe, Stage

FLOAT, HALF = 4, 2
FRAMES = 50  # of the encoder, a second
DEVICES = 8


@dataclass(frozen=True)
class Clips:
    """What is assumed of the data. The batch with the longest clips sets the peak: these are long ones.

    `tokens` follow the audio rows, all texts of a sample together; `words` and `spoken` are how many of the LLM's and
    of Whisper's tokens occur in the texts of all manifests.
    """

    seconds: float = 12.0
    tokens: int = 120
    words: int = 40_000
    spoken: int = 15_000


@dataclass(frozen=True)
class Need:
    """Bytes of one stage on one device. What libraries and a CUDA context take is not in it.

    `activations` is (all kept, with gradient checkpointing).
    """

    weights: float
    gradients: float
    moments: float
    activations: tuple[float, float]
    logits: float

    def total(self, checkpointing: bool) -> float:
        """All of it together."""
        return self.weights + self.gradients + self.moments + self.activations[checkpointing] + self.logits


def language_model(config: LLMConfig, dtype: torch.dtype = torch.float32) -> Gemma3ForCausalLM:
    """A Gemma 3 of the right shape, with random weights."""
    shape = Gemma3TextConfig(
        vocab_size=config.vocabulary, hidden_size=config.width, intermediate_size=config.ffn,
        num_hidden_layers=config.layers, num_attention_heads=config.heads, num_key_value_heads=config.kv_heads,
        head_dim=config.head_dim, sliding_window=config.sliding_window,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(shape, dtype=dtype)


def build(recipe: Recipe, clips: Clips, bf16: bool) -> Network:
    """The recipe's network, as esrt.train.setup builds it but with random weights, on the default device."""
    config = PRESETS[recipe.model]
    known = Vocabularies(*(torch.zeros(count).long() for count in (clips.spoken, clips.words, len(LANGUAGES), 0)))
    return Network(
        config, language_model(config.llm, torch.bfloat16 if bf16 else torch.float32), known,
        torch.zeros(clips.spoken, config.encoder.width), recipe.lora_rank, recipe.lora_alpha, recipe.lora_dropout,
    )  # fmt: skip


def shapes(recipe: Recipe, clips: Clips, bf16: bool) -> Network:
    """The same without any weights. To be called, and used, under FakeTensorMode: a processor's tensors without bytes.

    peft cannot build there, and on the meta device, where it can, there is no autocast.
    """
    with unset_fake_temporarily(), torch.device("meta"):
        network = build(recipe, clips, bf16)
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            empty = torch.empty(parameter.shape, dtype=parameter.dtype)
            module.register_parameter(name, nn.Parameter(empty, parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, torch.empty(buffer.shape, dtype=buffer.dtype), persistent=False)
    return network


def size(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def count(tensors: Iterable[Tensor]) -> int:
    """Elements of tensors."""
    return sum(tensor.numel() for tensor in tensors)


def trained(network: Network, stages: Sequence[Stage]) -> list[nn.Parameter]:
    """The parameters that have had a gradient when `stages` are done."""
    names: set[str] = set()
    for stage in stages:
        names |= {"adapter"}
        names |= {"whisper_ctc"} if stage.objective == "ctc-whisper" else {"projector"}
        names |= {"tied_ctc"} if stage.objective == "ctc-llm" or stage.ctc_weight else set()
        if stage.objective == "llm":
            names |= {"tags"} | ({"lora"} if stage.lora_rate else set())
    return [
        parameter
        for name, parameter in network.named_parameters()
        if ("lora" if "lora_" in name else name.partition(".")[0]) in names
    ]


def kept(network: Network, run: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps of `run` until its backward pass, besides the network's own weights."""
    own = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
    found: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        found.setdefault(tensor.untyped_storage()._cdata, tensor)  # a tensor that lives keeps its place in memory
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(tensor.untyped_storage().nbytes() for place, tensor in found.items() if place not in own)


def activations(
    network: Network, recipe: Recipe, stage: Stage, clips: Clips, bf16: bool, batch: int
) -> tuple[int, int]:
    """Bytes that `batch` clips keep from forward to backward: all of them, and with the LLM's checkpointing."""
    config = PRESETS[recipe.model]
    seconds = 30.0 if config.context == "full" else clips.seconds
    frames = torch.zeros(batch, round(seconds * FRAMES), config.encoder.width)
    lengths = torch.zeros(batch).long()
    ids = torch.zeros(batch, clips.tokens).long()
    model = network.llm.base_model.model.model

    def hear() -> Tensor:
        rows = network.adapter(frames, lengths)
        return rows if stage.objective == "ctc-whisper" else network.projector(rows)

    def read() -> Tensor:
        rows = torch.cat([hear(), network.embed(ids)], dim=1)
        own = layout(config.adapter.queries, Answers(ids, ids.bool(), ids, ids), config.llm.sliding_window)
        return model(inputs_embeds=rows, use_cache=False, **own).last_hidden_state

    for name, parameter in network.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_(stage.lora_rate > 0)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        heard = kept(network, hear)
        if stage.objective != "llm":
            return heard, heard
        whole = kept(network, read)
        with quiet():
            model.gradient_checkpointing_enable({"use_reentrant": False})
            few = kept(network, read)
            model.gradient_checkpointing_disable()
    # One layer at a time is computed again and kept whole.
    return whole, few + (whole - heard) // config.llm.layers


def logits(recipe: Recipe, stage: Stage, clips: Clips, batch: int) -> int:
    """Bytes of logits, their softmax and their gradients, and of the tables that are multiplied with."""
    config = PRESETS[recipe.model]
    each = 3 * FLOAT + HALF  # the product; then as float32, its softmax, its gradient
    if stage.objective == "ctc-whisper":
        return each * batch * config.adapter.queries * (clips.spoken + 1)
    found = 0
    if stage.objective == "ctc-llm" or stage.ctc_weight:
        found += (each * batch * config.adapter.queries + FLOAT * config.llm.width) * OTHERS
    if stage.objective == "llm":
        # The table with the tags in their places and its gradient, as float32 and once more for the product.
        found += (each * batch * clips.tokens + 2 * (FLOAT + HALF) * config.llm.width) * clips.words
    return found


def need(recipe: Recipe, stage: Stage, devices: int, clips: Clips, bf16: bool, network: Network) -> Need:
    """What one of `devices` needs in a stage of a recipe, all parameters shared out by FSDP where there are several."""
    stages = recipe.stages[: recipe.stages.index(stage) + 1]
    batch = _batch(recipe, stage, devices)
    parameters, buffers = size(network.parameters()), size(network.buffers())
    moving, moved = count(trained(network, [stage])), count(trained(network, stages))
    gathered = 0
    if devices > 1:
        # Two of the LLM's layers at a time, and all that is outside of them.
        layers = network.llm.base_model.model.model.layers
        outside = count(network.parameters()) - count(layers.parameters())
        gathered = (2 * count(layers[0].parameters()) + outside) * (HALF if bf16 else FLOAT)
    return Need(
        weights=parameters / devices + buffers + gathered,
        gradients=moving * FLOAT / devices,
        moments=2 * moved * FLOAT / devices,
        activations=activations(network, recipe, stage, clips, bf16, batch),
        logits=logits(recipe, stage, clips, batch),
    )


def needs(recipe: Recipe, devices: int, clips: Clips, bf16: bool) -> list[Need]:
    """What each stage needs on each of `devices`. No weights are read, no memory is taken."""
    with FakeTensorMode():
        network = shapes(recipe, clips, bf16)
        return [need(recipe, stage, devices, clips, bf16, network) for stage in recipe.stages]


def table(recipe: Recipe, clips: Clips | None = None) -> str:
    """What a recipe trains and the memory it needs on one device and on eight, as Markdown."""
    clips = clips or Clips()
    bf16 = recipe.bf16 is not False
    with FakeTensorMode():
        network = shapes(recipe, clips, bf16)
        encoder = count(WhisperEncoder(PRESETS[recipe.model].encoder).parameters())
        parts = {
            "adapter": count(network.adapter.parameters()),
            "projector": count(network.projector.parameters()),
            "tags": count([network.tags]),
            "LoRA": 0 if recipe.frozen_llm else count(p for name, p in network.named_parameters() if "lora_" in name),
            "CTC heads": count([*network.whisper_ctc.parameters(), *network.tied_ctc.parameters()]),
        }
        frozen = count(p for name, p in network.named_parameters() if name.startswith("llm.") and "lora_" not in name)
        frozen += count([network.embedding])
        rows = []
        for devices in (1, DEVICES):
            for _, alike in groupby(recipe.stages, _kind):
                stages = list(alike)
                found = need(recipe, stages[0], devices, clips, bf16, network)
                names = ", ".join(stage.name for stage in stages)
                rows.append([names, str(devices), str(_batch(recipe, stages[0], devices)), *_cells(found, recipe)])
    head = [
        "stage",
        "devices",
        "clips at once",
        "weights",
        "gradients",
        "AdamW",
        "activations",
        "checkpointed",
        "logits",
    ]
    lines = [[*head, "total"], ["---", *["---:"] * len(head)], *rows]
    of = ", ".join(f"{name} {millions(number)}" for name, number in parts.items())
    seconds = "30" if PRESETS[recipe.model].context == "full" else f"{clips.seconds:g}"
    return "\n".join(
        [
            f"{recipe.name}: {recipe.model}, {'bfloat16 autocast' if bf16 else 'float32'}, batches in "
            f"{recipe.accumulate} part(s), gradient checkpointing {'on' if recipe.checkpointing else 'off'}.",
            f"Frozen: language model {millions(frozen)}, Whisper's encoder {millions(encoder)} (encodes once, before).",
            f"Trained: {millions(sum(parts.values()))} ({of}).",
            "",
            *("| " + " | ".join(line) + " |" for line in lines),
            "",
            f"GB on each device; {DEVICES} devices share the parameters out by FSDP. Assumed: clips of {seconds} s, "
            f"{clips.tokens} tokens a sample, {clips.words:,} different in all texts, {clips.spoken:,} of Whisper's. "
            "Libraries, tokenizers and what an allocator keeps, or a CUDA context, take about 1 GB more.",
        ]
    )


def _kind(stage: Stage) -> tuple[object, ...]:
    """Equal for stages that need the same, as long as they follow each other."""
    return stage.objective, stage.batch, stage.lora_rate > 0, stage.ctc_weight > 0


def _batch(recipe: Recipe, stage: Stage, devices: int) -> int:
    """Clips that a device has in memory at once."""
    return max(1, stage.batch // (devices * recipe.accumulate))


def _cells(found: Need, recipe: Recipe) -> list[str]:
    numbers = [found.weights, found.gradients, found.moments, *found.activations, found.logits]
    return [f"{number / 1e9:.2f}" for number in (*numbers, found.total(recipe.checkpointing))]


def millions(number: int) -> str:
    """`25.1 M`."""
    return f"{number / 1e6:,.1f} M"
