"""What trains: the decoder, KVSPN and Medusa, a text encoder that only training has, and the joint loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.whisper.modeling_whisper import WhisperDecoder

from esrt.m2m.batches import IGNORED, Batch
from esrt.m2m.forward import Decoded, decode, memories, padding
from esrt.m2m.model import M2M, PROMPT
from esrt.m2m.recipes import Recipe, Weights
from esrt.model.whisper_encoder import Attention, WhisperEncoder


class TextLayer(nn.Module):
    """Self-attention (both ways) and feed-forward, with the names that Whisper's decoder layers have."""

    def __init__(self, width: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.self_attn = Attention(width, heads)
        self.final_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, ffn)
        self.fc2 = nn.Linear(ffn, width)

    def forward(self, x: Tensor, inside: Tensor | None) -> Tensor:
        """[b, s, width] -> [b, s, width]."""
        normed = self.self_attn_layer_norm(x)
        x = x + self.self_attn(normed, normed, inside)
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))


class TextEncoder(nn.Module):
    """Embeddings of a transcript [b, s, width] -> what the decoder attends to in place of the speech encoder's frames.

    Layer n begins with the self-attention and feed-forward of decoder layer n.
    """

    def __init__(self, model: M2M, layers: int) -> None:
        super().__init__()
        config, decoder = model.whisper.config, model.decoder
        self.layers = nn.ModuleList(
            TextLayer(config.d_model, config.decoder_attention_heads, config.decoder_ffn_dim) for _ in range(layers)
        )
        self.layer_norm = nn.LayerNorm(config.d_model)
        for mine, its in zip(self.layers, decoder.layers, strict=False):
            mine.load_state_dict({k: v for k, v in its.state_dict().items() if not k.startswith("encoder_attn")})
        self.layer_norm.load_state_dict(decoder.layer_norm.state_dict())

    def forward(self, x: Tensor, inside: Tensor | None) -> Tensor:
        """`inside` [b, 1, 1, s] is False where padding stands."""
        for layer in self.layers:
            x = layer(x, inside)
        return self.layer_norm(x)


class Losses(NamedTuple):
    """Means over the tokens of a batch, each a scalar; `right` is the share of tokens that the base would choose.

    `draft` is KVSPN's whole loss; `guessed` and `medusa` the shares of what the base chose that the drafters foresaw.
    """

    total: Tensor
    speech: Tensor
    text: Tensor
    teach: Tensor
    draft: Tensor
    right: Tensor
    guessed: Tensor
    medusa: Tensor


class Parts(NamedTuple):
    """One branch, speech or text: its losses, and log-probabilities over what may be written or drafted."""

    loss: Tensor
    draft: Tensor
    logits: Tensor
    guesses: Tensor | None


class Network(nn.Module):
    """The trained parts of a model, under names that checkpoints keep."""

    draft: Tensor

    def __init__(self, model: M2M, recipe: Recipe, teacher: WhisperDecoder | None = None) -> None:
        """`teacher` is the unpruned decoder, where a pruned one learns from it."""
        super().__init__()
        self._teacher = (teacher,)  # no part of the network: it neither learns nor is kept
        self.decoder, self.kvspn, self.medusa = model.decoder, model.kvspn, model.medusa
        self.encoder = _lora_encoder(model, recipe) if recipe.encoder == "lora" else None
        text = any(stage.trains == "all" and stage.losses.text for stage in recipe.stages)
        self.text = TextEncoder(model, recipe.text_layers) if text else None
        if recipe.encoder == "frozen":
            # Half of what a small machine would have to update, for words that Whisper knows already.
            self.decoder.embed_tokens.requires_grad_(False)
        self.register_buffer("draft", model.draft, persistent=False)

    def frames(self, batch: Batch) -> Tensor:
        """What the encoder says [b, t, width]: cached already, or computed here."""
        return batch.sound if self.encoder is None else self.encoder(batch.sound, batch.lengths)

    def head(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """The shared output head on rows [n, width], for some tokens only: logits [n, ids]."""
        return hidden @ self.decoder.embed_tokens.weight[ids].T

    def forward(self, batch: Batch, weights: Weights, drafting: bool) -> Losses:
        """The joint loss; or with `drafting` that of the drafters on a frozen base, whose outputs the labels are."""
        if drafting:
            return self._foresee(batch)
        forks = len(batch.ids) // len(batch.lengths)
        frames = self.frames(batch)
        seen = padding(batch.lengths, frames.shape[1])
        st = self._branch(batch, frames, seen, forks, weights)
        zero = st.loss.new_zeros(())
        mt_loss = mt_draft = teach = teach_draft = zero
        if self.text is not None and weights.text:
            inside = padding(batch.source_lengths, batch.source.shape[1])
            positions = self.decoder.embed_positions.weight[: batch.source.shape[1]]
            written = self.text(self.decoder.embed_tokens(batch.source) + positions, inside)
            mt = self._branch(batch, written, inside, forks, weights)
            mt_loss, mt_draft = mt.loss, mt.draft
            # The gate: who reads the text teaches who hears it, once it is the better of the two.
            if mt.loss < st.loss:
                teach = _teach(mt.logits, st.logits)
            if mt.guesses is not None and st.guesses is not None and mt.draft < st.draft:
                teach_draft = _teach(mt.guesses, st.guesses)
        if self._teacher[0] is not None:
            with torch.no_grad():
                its = decode(self._teacher[0], batch.ids, memories(self._teacher[0], frames), seen, forks).hidden
                taught = self.head(its[batch.labels != IGNORED], batch.known()).float()
            teach = _teach(taught, st.logits)
        draft = weights.speech * st.draft + weights.text * mt_draft + weights.teach * teach_draft
        total = weights.speech * st.loss + weights.text * mt_loss + weights.teach * teach + weights.draft * draft
        right = (batch.known()[st.logits.argmax(-1)] == batch.labels[batch.labels != IGNORED]).float().mean()
        return Losses(total, st.loss, mt_loss, teach, draft, right, zero, zero)

    def _branch(self, batch: Batch, frames: Tensor, inside: Tensor | None, forks: int, weights: Weights) -> Parts:
        out = decode(self.decoder, batch.ids, memories(self.decoder, frames), inside, forks)
        learned = batch.labels != IGNORED
        ids = batch.known()
        logits = self.head(out.hidden[learned], ids).float()
        loss = F.cross_entropy(logits, torch.searchsorted(ids, batch.labels[learned]))
        if not weights.draft or self.kvspn is None:
            return Parts(loss, loss.new_zeros(()), logits, None)
        first = self._draft(out.embedded, out, self.kvspn.memories(frames), 0, inside, forks)
        guesses, wanted = self._guesses(first, batch.labels, self._known(batch.labels, PROMPT))
        return Parts(loss, F.cross_entropy(guesses, wanted), logits, guesses)

    def _draft(
        self, x: Tensor, out: Decoded, kept: list[tuple[Tensor, Tensor]], lag: int, inside: Tensor | None, forks: int
    ) -> Tensor:  # fmt: skip
        assert self.kvspn is not None
        return self.decoder.layer_norm(self.kvspn(x, out.caches, kept, lag, inside, forks))

    def _known(self, labels: Tensor, first: int) -> Tensor:
        """Where [b, s] the label may be drafted, from position `first` on."""
        place = torch.searchsorted(self.draft, labels).clamp(max=len(self.draft) - 1)
        return (self.draft[place] == labels) & (torch.arange(labels.shape[1], device=labels.device) >= first)

    def _guesses(self, rows: Tensor, labels: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [n, draft] and classes [n] where `known` is true."""
        return self.head(rows[known], self.draft).float(), torch.searchsorted(self.draft, labels[known])

    def _foresee(self, batch: Batch) -> Losses:
        """The first draft's loss, half of the second's and Medusa's, on what the base itself wrote.

        They learn the base's whole distribution over what may be drafted: it says more than the one token it chose.
        """
        assert self.kvspn is not None
        forks, frames = len(batch.ids) // len(batch.lengths), batch.sound
        inside = padding(batch.lengths, frames.shape[1])
        with torch.no_grad():
            out = decode(self.decoder, batch.ids, memories(self.decoder, frames), inside, forks)
        kept = self.kvspn.memories(frames)
        first = self._draft(out.embedded, out, kept, 0, inside, forks)
        # The draft after a draft knows one position of the cache less, and what the first has handed on.
        ahead = out.embedded + F.pad(self.kvspn.carry * first, (0, 0, 1, 0))[:, :-1]
        second = self._draft(ahead, out, kept, 1, inside, forks)
        known, later = (self._known(batch.labels, PROMPT + n) for n in (0, 1))
        one, wanted = self._guesses(first, batch.labels, known)
        two, _ = self._guesses(second, batch.labels, later)
        with torch.no_grad():
            its = self._guesses(out.hidden, batch.labels, known)[0].softmax(-1)
        draft = F.cross_entropy(one, its) + 0.5 * F.cross_entropy(two, its[later[known]])
        every = (batch.labels[:, PROMPT:] != IGNORED).sum()
        guessed = (one.argmax(-1) == wanted).sum() / every
        total, zero, medusa = draft, draft.new_zeros(()), draft.new_zeros(())
        if self.medusa is not None:
            # The row that chose the newest token guesses the next.
            rows = F.pad(self.medusa(out.hidden), (0, 0, 1, 0))[:, :-1]
            three, _ = self._guesses(rows, batch.labels, known)
            total = total + F.cross_entropy(three, its)
            medusa = (three.argmax(-1) == wanted).sum() / every
        return Losses(total, zero, zero, zero, draft, zero, guessed, medusa)


def _teach(teacher: Tensor, pupil: Tensor) -> Tensor:
    """KL divergence of the pupil from the teacher, which learns nothing from it: logits [n, classes] -> mean."""
    return F.kl_div(pupil.log_softmax(-1), teacher.detach().log_softmax(-1), log_target=True, reduction="batchmean")


def _lora_encoder(model: M2M, recipe: Recipe) -> WhisperEncoder:
    """The encoder with LoRA on all of its layers but the last `recipe.free`, which train as they are."""
    from esrt.m2m.offline import speech_encoder

    encoder = speech_encoder(model)
    layers = len(encoder.layers)
    bound = range(layers - recipe.free)
    names = "q_proj|k_proj|v_proj|out_proj|fc1|fc2"
    targets = "|".join(map(str, bound))
    lora = LoraConfig(
        r=recipe.lora_rank, lora_alpha=recipe.lora_alpha, target_modules=rf"layers\.({targets})\..*({names})"
    )
    encoder.requires_grad_(False)
    inject_adapter_in_model(lora, encoder)
    encoder.layers[layers - recipe.free :].requires_grad_(True)
    return encoder
