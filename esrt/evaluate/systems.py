"""The ways to answer clips with ESRT itself: through both halves or a cloud, or its language model alone, on text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from esrt.errors import AudioError
from esrt.evaluate.run import Answer, Clip, System, not_read

AT_ONCE = 8  # clips under way: an engine decodes them in one batch
LONGEST = 200  # tokens of a translation, as in our service


class Translates(Protocol):
    """`esrt.translator.Translator`."""

    def translate(self, audio: str, to: Sequence[str], source: str | None = None) -> Any:
        """A pipeline.Result."""
        ...


def through(translator: Translates) -> System:
    """Through the device's half, a frame and the cloud's half, wherever that is."""

    def answer(clip: Clip) -> Answer:
        try:
            result = translator.translate(clip.audio, clip.targets, clip.told)
        except AudioError as error:
            return not_read(clip, error)
        return Answer(result.source, result.transcript, result.translations)

    def system(clips: Sequence[Clip]) -> Iterator[Answer]:
        pool = ThreadPoolExecutor(AT_ONCE)
        try:
            yield from pool.map(answer, clips)
        finally:  # also where nobody wants the rest: what has not begun does not begin
            pool.shutdown(cancel_futures=True)

    return system


def text_alone(folder: Path, circles: Callable[[Sequence[int]], int]) -> System:
    """The language model of a ready model folder as a text translator: reference transcript in, no sound (Figure 9).

    The prompt is Table II's SMT, `Text<|src|><|tgt|>`, after the beginning of sequence in place of the audio rows. It
    writes as the service does, so that both can stand side by side: the same tokens, until `circles` says of some that
    they are repetition.
    """
    import torch
    from transformers import StoppingCriteriaList

    from esrt.model import checkpoint, language_model
    from esrt.model.outputs import trim
    from esrt.model.precision import decoding_type
    from esrt.prompts import Task, parse, prompt

    tokenizer = language_model.load_tokenizer(folder / "llm")
    llm: Any = language_model.load_language_model(folder / "llm", decoding_type()).requires_grad_(False).eval()
    if (outputs := checkpoint.load_outputs(folder)) is not None:
        trim(llm, outputs)
    ends = {*language_model.tag_ids(tokenizer), tokenizer.eos_token_id, *language_model.eos_ids(llm)}

    @torch.inference_mode()
    def translate(text: str, source: str, target: str) -> str:
        asked = tokenizer.bos_token + prompt(Task.SMT, source, target, text)
        ids = torch.tensor([tokenizer(asked, add_special_tokens=False).input_ids])
        given = ids.shape[1]
        stop = StoppingCriteriaList([lambda said, *_, **__: torch.tensor([circles(said[0, given:].tolist()) > 0])])
        out = llm.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=LONGEST, do_sample=False,
            eos_token_id=sorted(ends), pad_token_id=tokenizer.pad_token_id, stopping_criteria=stop,
        )  # fmt: skip
        written = out[0, given:].tolist()
        said = tokenizer.decode(written[: len(written) - circles(written)], skip_special_tokens=True)
        return parse(Task.SMT, said, source, target).translation or ""

    def system(clips: Sequence[Clip]) -> Iterator[Answer]:
        for clip in clips:
            texts = {code: translate(clip.transcript, clip.source, code) for code in clip.targets}
            yield Answer(clip.source, clip.transcript, texts)

    return system
