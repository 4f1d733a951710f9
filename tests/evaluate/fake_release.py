"""A release as the paper's authors make them, with random weights: the same API, layout and remote code of its own."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, Gemma3ForCausalLM

from esrt.model.language_model import expand_tokenizer
from tests.model import tiny

QUERIES, WIDTH = 8, 24
NAME = "ESRT-fake"

CODE = textwrap.dedent(
    """
    import os
    from pathlib import Path

    import torch
    from torch import nn
    from transformers import AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig, PretrainedConfig, PreTrainedModel
    from transformers import Blip2QFormerConfig, Blip2QFormerModel, WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    Path(os.environ["FAKE_RELEASE_RAN"]).touch()


    class FakeConfig(PretrainedConfig):
        model_type = "fake_mllm"

        def __init__(self, llm=None, **kwargs):
            self.llm = llm
            super().__init__(**kwargs)


    class FakeModel(PreTrainedModel):
        config_class = FakeConfig

        def __init__(self, config, encoder_only=False, use_vllm=False):
            super().__init__(config)
            if encoder_only:
                self.encoder = WhisperEncoder(WhisperConfig(
                    num_mel_bins=128, d_model=32, encoder_layers=1, encoder_attention_heads=4, encoder_ffn_dim=64,
                ))
                self.query = nn.Parameter(torch.randn(1, QUERIES, WIDTH))
                self.qformer = Blip2QFormerModel(Blip2QFormerConfig(
                    hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
                    cross_attention_frequency=2, encoder_hidden_size=32,
                ))
            else:
                self.a_projector = nn.Sequential(nn.Linear(WIDTH, config.llm["hidden_size"]),
                                                 nn.LayerNorm(config.llm["hidden_size"], eps=1e-5))
                self.llm = Gemma3ForCausalLM(Gemma3TextConfig(**config.llm))
                self.tokenizer = None
            self.post_init()

        def translate_encode(self, mel):
            frames = self.encoder(mel).last_hidden_state
            query = self.query.expand(len(frames), -1, -1)
            return self.qformer(query_embeds=query, encoder_hidden_states=frames).last_hidden_state

        def translate_batch_embeds(self, beam, embeds, prompts, max_new_tokens=200, use_vllm=False):
            if self.tokenizer is None:
                self.tokenizer = AutoTokenizer.from_pretrained(self.config._name_or_path)
            texts = []
            for embed, prompt in zip(embeds, prompts):
                ids = self.tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
                rows = torch.cat([self.a_projector(embed[None]), self.llm.get_input_embeddings()(ids)], 1)
                out = self.llm.generate(
                    inputs_embeds=rows, attention_mask=torch.ones(rows.shape[:2], dtype=torch.long),
                    num_beams=beam, do_sample=False, max_new_tokens=max_new_tokens,
                )
                texts.append(self.tokenizer.decode(out[0], skip_special_tokens=False))
            return texts
    """
)


def save(folder: Path) -> Path:
    """Writes `ESRT-fake` and `ESRT-fake-LLM` into a folder; returns the first."""
    release, plain = folder / NAME, folder / f"{NAME}-LLM"
    torch.manual_seed(5)
    config = tiny.text_config(tiny.save_tokenizer(plain))
    expand_tokenizer(plain)
    llm = Gemma3ForCausalLM(config).eval()
    vocabulary = json.loads((plain / "tokenizer.json").read_text())["model"]["vocab"]
    letters = [number for token, number in vocabulary.items() if len(token) == 1 and token.isalpha()]
    with torch.no_grad():  # rows as large as those of a trained model; the larger a row, the more often it is said
        rows = llm.get_input_embeddings().weight.normal_(0, tiny.WIDTH**-0.5)
        rows[letters] *= 3
    llm.save_pretrained(plain)
    release.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (release / name).write_bytes((plain / name).read_bytes())
    code = CODE.replace("QUERIES", str(QUERIES)).replace("WIDTH", str(WIDTH))
    (release / "modeling_fake.py").write_text(code)
    described: dict[str, Any] = {
        "model_type": "fake_mllm",
        "auto_map": {"AutoConfig": "modeling_fake.FakeConfig", "AutoModel": "modeling_fake.FakeModel"},
        "llm": config.to_dict(),
    }
    (release / "config.json").write_text(json.dumps(described))
    state = {}
    read = AutoConfig.from_pretrained(release, trust_remote_code=True)
    for encoder_only in (True, False):
        model = AutoModel.from_config(read, trust_remote_code=True, encoder_only=encoder_only)
        state.update(model.state_dict())
    state.update({f"llm.{name}": tensor for name, tensor in llm.state_dict().items()})
    del state["llm.lm_head.weight"]  # tied
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()}, release / "model.safetensors", {"format": "pt"}
    )
    return release


def load(folder: Path, encoder_only: bool) -> Any:
    """The release's model by its own code, as its makers load it."""
    return AutoModel.from_pretrained(
        folder, trust_remote_code=True, use_vllm=False, encoder_only=encoder_only, dtype=torch.float32
    ).eval()
