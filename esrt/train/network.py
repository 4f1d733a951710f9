"""What is trained: adapter, projector, language tags, LoRA, and two CTC heads that are thrown away afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from esrt.config import ModelConfig
from esrt.model.projector import build_projector
from esrt.model.qformer import QFormer
from esrt.train.examples import Example

LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Vocabularies:
    """Token ids that occur in the training texts: a softmax over these alone is several times faster and no worse.

    `whisper` and `llm` are sorted; `tags` are the ids of the 102 language tags in the LLM's vocabulary.
    """

    whisper: Tensor
    llm: Tensor
    tags: Tensor


class WhisperCTC(nn.Module):
    """Rows [b, q, width] -> CTC logits [b, q, 1 + n] over Whisper's tokens; class 0 is the blank."""

    def __init__(self, embedding: Tensor) -> None:
        super().__init__()
        self.head = nn.Linear(embedding.shape[1], embedding.shape[0] + 1)
        with torch.no_grad():
            self.head.weight[0] = 0
            self.head.weight[1:] = embedding
            self.head.bias.zero_()

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(rows)


class TiedCTC(nn.Module):
    """Projected rows [b, q, llm] -> CTC logits [b, q, 1 + n], tied to the LLM's input embedding.

    So audio rows become rows the LLM can read. The blank is learned and starts with a bias of 2.
    """

    def __init__(self, embedding: Tensor) -> None:
        super().__init__()
        self.embedding: Tensor
        self.register_buffer("embedding", embedding, persistent=False)
        self.blank = nn.Parameter(torch.zeros(1, embedding.shape[1]))
        self.bias = nn.Parameter(torch.tensor(2.0))

    def forward(self, rows: Tensor, classes: Tensor) -> Tensor:
        """Logits [b, q, 1 + len(classes)] over the blank and `classes`, numbers of rows of the embedding."""
        words = rows @ self.embedding[classes].T / rows.shape[-1] ** 0.5
        return torch.cat([rows @ self.blank.T + self.bias, words], dim=-1)


def ctc_loss(logits: Tensor, targets: Sequence[Tensor]) -> Tensor:
    """Mean CTC loss a target token. `targets` are class numbers (0 is the blank); those that cannot fit count zero."""
    lengths = torch.tensor([len(target) for target in targets])
    log_probabilities = logits.float().log_softmax(-1).transpose(0, 1)
    inputs = torch.full((logits.shape[0],), logits.shape[1])
    losses = nn.functional.ctc_loss(
        log_probabilities, torch.cat(list(targets)), inputs, lengths, reduction="none", zero_infinity=True
    )
    return (losses / lengths.clamp(min=1)).mean()


class Network(nn.Module):
    """The trainable whole. Frozen parts (the LLM's own weights, its embedding) are held but not saved."""

    embedding: Tensor

    def __init__(
        self, config: ModelConfig, llm: PreTrainedModel, vocabularies: Vocabularies, whisper_embedding: Tensor,
        rank: int, alpha: int, dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.vocabularies = vocabularies
        self.adapter = QFormer(config.adapter, config.encoder.width)
        self.projector = build_projector(config)
        table = llm.get_input_embeddings().weight.detach().float()
        self.register_buffer("embedding", table, persistent=False)
        self.scale = table.shape[1] ** 0.5
        self.tags = nn.Parameter(table[vocabularies.tags].clone())
        # Tag id -> its row of `tags`; -1 for every other token.
        self.tag_of = torch.full((table.shape[0],), -1)
        self.tag_of[vocabularies.tags] = torch.arange(len(vocabularies.tags))
        # LLM id -> its class in the restricted softmax.
        self.class_of = torch.full((table.shape[0],), -1)
        self.class_of[vocabularies.llm] = torch.arange(len(vocabularies.llm))
        self.whisper_ctc = WhisperCTC(whisper_embedding[vocabularies.whisper])
        self.tied_ctc = TiedCTC(table[vocabularies.llm] * self.scale)
        lora = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=LORA_TARGETS, bias="none")
        self.llm = get_peft_model(llm, lora)

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [...] -> rows [..., llm.width] as the LLM sees them (times sqrt(width)), tags from `tags`."""
        rows = nn.functional.embedding(ids, self.embedding)
        place = self.tag_of[ids]
        return torch.where((place >= 0)[..., None], self.tags[place.clamp(min=0)], rows) * self.scale

    def _layout(self, queries: int, examples: Sequence[Example]) -> dict[str, object]:
        """Positions and attention masks of audio rows, trunks and branches, padded to the longest."""
        branch = nn.utils.rnn.pad_sequence(
            [torch.tensor((0,) * queries + e.branch) for e in examples], batch_first=True, padding_value=-1
        )
        positions = nn.utils.rnn.pad_sequence(
            [torch.tensor((*range(queries), *(queries + p for p in e.positions))) for e in examples], batch_first=True
        )
        order = torch.arange(branch.shape[1])
        of_row, of_column = branch[:, :, None], branch[:, None, :]
        sees = (order[:, None] >= order) & ((of_column == 0) | (of_column == of_row))
        distance = positions[:, :, None] - positions[:, None, :]
        near = sees & (distance < self.llm.config.sliding_window)
        # transformers takes masks of its own making, one for each kind of layer.
        masks = {"full_attention": sees[:, None], "sliding_attention": near[:, None]}
        return {"attention_mask": masks, "position_ids": positions}

    def answer_loss(self, audio: Tensor, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """Audio rows [b, q, llm] and their examples -> (loss of each example [b], share of tokens right).

        The logits are taken only where the loss looks, over the tokens that occur.
        """
        ids = nn.utils.rnn.pad_sequence([torch.tensor(e.ids) for e in examples], batch_first=True)
        learned = nn.utils.rnn.pad_sequence([torch.tensor(e.learned) for e in examples], batch_first=True)
        hidden = self.llm.base_model.model.model(
            inputs_embeds=torch.cat([audio, self.embed(ids)], dim=1),
            use_cache=False,
            **self._layout(audio.shape[1], examples),
        ).last_hidden_state
        # The row before a token predicts it.
        predicting = hidden[:, audio.shape[1] - 1 : -1][learned]
        table = self.embedding[self.vocabularies.llm]
        place = self.tag_of[self.vocabularies.llm]
        table = torch.where((place >= 0)[:, None], self.tags[place.clamp(min=0)], table)
        logits = (predicting @ table.T).float()
        wanted = self.class_of[ids[learned]]
        losses = nn.functional.cross_entropy(logits, wanted, reduction="none")
        owner = torch.arange(len(examples))[:, None].expand_as(ids)[learned]
        sums = torch.zeros(len(examples)).index_add(0, owner, losses)
        counts = torch.zeros(len(examples)).index_add(0, owner, torch.ones_like(losses))
        return sums / counts.clamp(min=1), (logits.argmax(-1) == wanted).float().mean()
