"""What is trained: adapter, projector, language tags, LoRA, and two CTC heads that are thrown away afterwards."""

from __future__ import annotations

from typing import NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from esrt.config import ModelConfig
from esrt.model.projector import build_projector
from esrt.model.qformer import QFormer
from esrt.train.adversary import Adversary
from esrt.train.batches import Answers, Batch, Targets, Vocabularies

LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Losses(NamedTuple):
    """Of each sample, float32 [b]: its answer's loss a token, the share of its tokens right, how many they are; CTC,
    or how far its rows have moved; what an adversary knows of its voice; how hard its captions are to tell apart.
    """

    answer: Tensor
    right: Tensor
    tokens: Tensor
    ctc: Tensor
    leak: Tensor
    told: Tensor


class WhisperCTC(nn.Module):
    """Rows [b, q, width] -> CTC logits [b, q, 1 + n] over Whisper's tokens; class 0 is the blank.

    The head starts as Whisper's own embedding [n, width], or at random where an adapter has another width.
    """

    def __init__(self, embedding: Tensor, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, embedding.shape[0] + 1)
        if embedding.shape[1] == width:
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

    def __init__(self, width: int) -> None:
        super().__init__()
        self.blank = nn.Parameter(torch.zeros(1, width))
        self.bias = nn.Parameter(torch.tensor([2.0]))  # FSDP shares out no scalars

    def forward(self, rows: Tensor, words: Tensor) -> Tensor:
        """Logits [b, q, 1 + n] over the blank and `words` [n, llm], rows as the LLM sees them."""
        return torch.cat([rows @ self.blank.T + self.bias, rows @ words.T / rows.shape[-1] ** 0.5], dim=-1)


def ctc_loss(logits: Tensor, targets: Targets) -> Tensor:
    """CTC loss a target token, of each clip [b]; a target that cannot fit counts zero."""
    log_probabilities = logits.float().log_softmax(-1).transpose(0, 1)
    tokens, lengths = targets.tokens, targets.lengths
    if logits.device.type == "mps":  # PyTorch has no CTC there
        log_probabilities, tokens, lengths = log_probabilities.cpu(), tokens.cpu(), lengths.cpu()
    inputs = torch.full_like(lengths, logits.shape[1])
    losses = nn.functional.ctc_loss(log_probabilities, tokens, inputs, lengths, reduction="none", zero_infinity=True)
    return (losses / lengths.clamp(min=1)).to(logits.device)


def told_loss(rows: Tensor, captions: Tensor, words: Tensor) -> Tensor:
    """How hard it is to find each clip's own captions among the batch's by the mean of its rows [b, q, llm]: [b].

    `captions` [b, n] say which of `words` [n, llm] they have, none for a clip without captions, whose loss is zero.
    """
    loss, has = rows.new_zeros(len(rows), dtype=torch.float32), captions.any(1)
    said = captions[has]
    told = said.to(words.dtype) @ words
    logits = rows[has].mean(1) @ told.T.to(rows.dtype) / rows.shape[-1] ** 0.5
    other = (said[:, None] != said).any(-1)  # not those of whom the same is said
    loss[has] = logits.float().logsumexp(1) - logits.float().masked_fill(other, -torch.inf).logsumexp(1)
    return loss


class Network(nn.Module):
    """The trainable whole. Frozen parts (the LLM's own weights, its embedding) are held but not saved.

    `whisper_embedding` [n, w] has a row for each of `vocabularies.whisper`.
    """

    embedding: Tensor
    tag_of: Tensor
    class_of: Tensor
    output: Tensor

    def __init__(
        self, config: ModelConfig, llm: PreTrainedModel, vocabularies: Vocabularies, whisper_embedding: Tensor,
        rank: int, alpha: int, dropout: float, checkpointing: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.adapter = QFormer(config.adapter, config.encoder.width)
        self.projector = build_projector(config)
        table = llm.get_input_embeddings().weight.detach()
        # The one copy of the table: the LLM is given rows, and its logits are taken here.
        llm.set_input_embeddings(nn.Embedding(0, table.shape[1]))
        llm.lm_head = nn.Identity()
        self.register_buffer("embedding", table, persistent=False)
        self.scale = table.shape[1] ** 0.5
        self.tags = nn.Parameter(table[vocabularies.tags].float())
        # Of the output layer's rows only the tags' change: they are the last classes of the restricted softmax, and no
        # gradient is taken of the others.
        self.register_buffer("output", table[vocabularies.llm], persistent=False)
        # Tag id -> its row of `tags`; LLM id -> its class; -1 for every other token.
        self.register_buffer("tag_of", _places(vocabularies.tags, len(table)), persistent=False)
        classes = torch.cat([vocabularies.llm, vocabularies.tags])
        self.register_buffer("class_of", _places(classes, len(table)), persistent=False)
        self.adversary: Adversary | None = None  # a recipe may turn the adapter against one
        self.whisper_ctc = WhisperCTC(whisper_embedding, config.adapter.width)
        self.tied_ctc = TiedCTC(table.shape[1])
        lora = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=LORA_TARGETS, bias="none")
        self.llm = get_peft_model(llm, lora)
        if checkpointing:
            llm.gradient_checkpointing_enable({"use_reentrant": False})

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Everything that may change, by the rate it follows."""
        lora = [parameter for name, parameter in self.llm.named_parameters() if "lora_" in name]
        return {
            "adapter": [*self.adapter.parameters(), *self.whisper_ctc.parameters()],
            "projector": [*self.projector.parameters(), *self.tied_ctc.parameters()],
            "tags": [self.tags],
            "lora": lora,
        }

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [...] -> rows [..., llm.width] as the LLM sees them (times sqrt(width)), tags from `tags`."""
        place = self.tag_of[ids]
        rows = nn.functional.embedding(ids, self.embedding)
        return torch.where((place >= 0)[..., None], self.tags[place.clamp(min=0)], rows) * self.scale

    def forward(self, objective: str, batch: Batch) -> Losses:
        """What a stage of `objective` asks of a batch; a loss that it does not ask for is zero."""
        rows = self.adapter(batch.frames, batch.lengths)
        nothing = Losses(*torch.zeros(len(Losses._fields), len(rows), device=rows.device))
        if objective == "hide":
            assert self.adversary is not None and batch.voices is not None
            leak = self.adversary.leak(rows, batch.voices)
            with torch.no_grad():
                wanted = self.projector(self.adversary.before(batch.frames, batch.lengths))
            moved = (self.projector(rows) - wanted).square().mean((1, 2)) / wanted.square().mean((1, 2))
            return nothing._replace(tokens=nothing.tokens + rows.shape[1], ctc=moved, leak=leak)
        if objective == "ctc-whisper":
            assert batch.targets is not None
            ctc = ctc_loss(self.whisper_ctc(rows), batch.targets)
            return nothing._replace(tokens=batch.targets.lengths.float(), ctc=ctc)
        audio, found = self.projector(rows), nothing
        if batch.targets is not None:
            words = nn.functional.embedding(batch.targets.classes, self.embedding) * self.scale
            found = found._replace(ctc=ctc_loss(self.tied_ctc(audio, words), batch.targets))
            if batch.targets.captions is not None:
                found = found._replace(told=told_loss(audio, batch.targets.captions, words))
        if batch.answers is None:
            assert batch.targets is not None
            return found._replace(tokens=batch.targets.lengths.float())
        answer, right, tokens = self.answer_loss(audio, batch.answers)
        return found._replace(answer=answer, right=right, tokens=tokens)

    def answer_loss(self, audio: Tensor, answers: Answers) -> tuple[Tensor, Tensor, Tensor]:
        """Audio rows [b, q, llm] and what follows them -> loss of each example, share right, tokens; all [b].

        The logits are taken only where the loss looks, over the tokens that occur.
        """
        ids, learned, queries = answers.ids, answers.learned, audio.shape[1]
        hidden = self.llm.base_model.model.model(
            inputs_embeds=torch.cat([audio, self.embed(ids)], dim=1),
            use_cache=False,
            **layout(queries, answers, self.llm.config.sliding_window),
        ).last_hidden_state
        # The row before a token predicts it.
        predicting = hidden[:, queries - 1 : -1][learned]
        fixed = predicting.to(self.output.dtype) @ self.output.T
        logits = torch.cat([fixed.float(), (predicting @ self.tags.T).float()], dim=1)
        wanted = self.class_of[ids[learned]]
        losses = nn.functional.cross_entropy(logits, wanted, reduction="none")
        right = (logits.argmax(-1) == wanted).float()
        owner = learned.nonzero()[:, 0]
        sums = torch.zeros(2, len(ids), device=ids.device).index_add(1, owner, torch.stack([losses, right]))
        tokens = learned.sum(1)
        answer, share = sums / tokens.clamp(min=1)
        return answer, share, tokens.float()


def layout(queries: int, answers: Answers, window: int) -> dict[str, object]:
    """Positions and attention masks of audio rows, trunks and branches, padded to the longest; `window` slides."""
    order = torch.arange(queries + answers.ids.shape[1], device=answers.ids.device)
    branch = nn.functional.pad(answers.branch, (queries, 0))
    heard = order[:queries].expand(len(branch), -1)
    positions = torch.cat([heard, queries + answers.positions], dim=1)
    of_row, of_column = branch[:, :, None], branch[:, None, :]
    sees = (order[:, None] >= order) & ((of_column == 0) | (of_column == of_row))
    distance = positions[:, :, None] - positions[:, None, :]
    near = sees & (distance < window)
    # transformers takes masks of its own making, one for each kind of layer.
    masks = {"full_attention": sees[:, None], "sliding_attention": near[:, None]}
    return {"attention_mask": masks, "position_ids": positions}


def _places(ids: Tensor, size: int) -> Tensor:
    """[size] with 0, 1, ... at `ids` and -1 elsewhere."""
    places = torch.full((size,), -1)
    places[ids] = torch.arange(len(ids))
    return places
