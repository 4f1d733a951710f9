"""The audit: the same clips as an attacker holds them, view by view, and what trained attackers make of each."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from esrt.audio.samples import Samples
from esrt.config import SAMPLE_RATE, ModelConfig
from esrt.errors import UsageError
from esrt.evaluate.baselines.whisper import Whisper
from esrt.languages import words
from esrt.model import voiceprint
from esrt.model.voiceprint import Voiceprint
from esrt.privacy import clips as voices
from esrt.privacy import kept
from esrt.privacy.clips import SYNTHETIC, Clip
from esrt.privacy.figures import Figure, bootstrap, r2, stronger
from esrt.privacy.pitch import pitch
from esrt.privacy.probes import inversion, linear, speaker, traits
from esrt.privacy.probes.fit import Array, ask
from esrt.privacy.views import AUDIO, View, Views
from esrt.train.examples import plain
from esrt.train.manifest import read_manifest
from esrt.train.sources.synth import write_wav

Embed = Callable[[Array], npt.NDArray[np.float32]]
"""A trained attacker: rows [clips, t, width] -> [clips, n], near to each other where voices are alike."""


@dataclass(frozen=True)
class Settings:
    """How much is attacked, and how hard.

    Of each language `speakers` synthetic voices are trained on and `scored` others tested, `each` clips of every voice,
    real ones too. `heard` clips of each view in `inverted` are turned back to sound.
    """

    views: Sequence[View]
    inverted: Sequence[View] = ()
    speakers: int = 14
    scored: int = 6
    each: int = 6
    epochs: int = 12
    heard: int = 24
    seed: int = 0


@dataclass(frozen=True)
class Known:
    """The clips, their sound, and what is true of it."""

    clips: list[Clip]
    sounds: list[Samples]
    heard: list[traits.Heard]


@dataclass
class Findings:
    """Figures by view's name and question; `data` says of how many clips and voices."""

    data: dict[str, Any]
    figures: dict[str, dict[str, Figure]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For the file beside the page."""
        return {
            "data": self.data,
            "views": {
                view: {name: figure.to_json() for name, figure in found.items()} for view, found in self.figures.items()
            },
        }


def collect(data: Path, train: Sequence[str], test: Sequence[str], settings: Settings) -> Known:
    """The clips: real voices of the manifests `test` (scored) and `train`, and synthetic ones that speak their texts.

    Raises UsageError: what manifests and espeak-ng raise.
    """
    scored = voices.real(data, test, 3 * settings.each, scored=True)
    there = {clip.speaker for clip in scored}
    trained = [clip for clip in voices.real(data, train, settings.each * 2, scored=False) if clip.speaker not in there]
    languages = {clip.language for clip in scored}
    rows = [row for name in train for row in read_manifest(data / f"{name}.jsonl") if row.src in languages or not test]
    spoken = voices.synthetic(rows, settings.speakers, settings.scored, settings.each, settings.seed)
    clips, sounds = [], []
    for clip in tqdm([*spoken, *trained, *scored], desc="speaking", unit="clip", disable=None):
        sound = clip.samples()
        if voices.fits(sound):
            clips.append(clip)
            sounds.append(sound)
    if not any(clip.scored for clip in clips) or all(clip.scored for clip in clips):
        raise UsageError("too_few_clips", "There is nothing left to train an attacker on, or to test it: name others.")
    heard = [traits.Heard(len(sound) / SAMPLE_RATE, pitch(sound)) for sound in sounds]
    return Known(clips, sounds, heard)


def run(
    data: Path, train: Sequence[str], test: Sequence[str], model: Path, adversary: Path | None, work: Path,
    settings: Settings,
) -> Findings:  # fmt: skip
    """All attacks on all views. Rows and the sounds that were turned back are kept in `work`.

    Raises UsageError and whatever the model's files raise.
    """
    encoder = voiceprint.load()
    known = collect(data, train, test, settings)
    views = Views(known.sounds, model, adversary, work, settings.seed)
    prints: npt.NDArray[np.float32] = kept.array(
        work / f"voiceprints-{views.key}.npy", lambda: _prints(encoder, known.sounds)
    )
    found = Findings(_about(known))
    found.figures["text"] = {"duration": _from_text(known)}
    scored = np.array([clip.scored for clip in known.clips])
    speakers = np.array([clip.voice for clip in known.clips], str)
    labels = hashlib.sha256(repr(known.clips).encode()).hexdigest()[:16]

    @cache
    def network(view: View) -> Embed:
        return partial(ask, speaker.train(views(view), prints, known.clips, settings.epochs))

    @cache
    def least_squares(view: View) -> Embed:
        centred = prints - prints[~scored].mean(0)
        return linear.fit(views(view), np.flatnonzero(~scored), centred, speakers)

    def attack(view: View) -> dict[str, Figure]:
        print(f"attacking {view.name}: {len(scored)} clips", file=sys.stderr, flush=True)
        rows = views(view)
        return {**traits.attack(rows, known.clips, known.heard, settings.epochs), **verify(view, rows, network)}

    def attack_linearly(view: View) -> dict[str, Figure]:
        rows = views(view)
        return {**traits.attack_linearly(rows, known.clips, known.heard), **verify(view, rows, least_squares)}

    def verify(view: View, rows: Array, train: Callable[[View], Embed]) -> dict[str, Figure]:
        semi = train(view)(rows)
        if view.is_sound:
            # The speaker encoder itself: nobody need train one who has the sound.
            first, own = prints, _prints(encoder, views.sounds(view)) if view.codec != AUDIO else prints
        else:
            plain = views(view.plain)
            first, own = train(view.plain)(plain), train(view.plain)(rows)
        return speaker.figures(first, own, semi, known.clips)

    for view in settings.views:
        made_by = f"{views.made_by(view)}-{labels}-{settings.epochs}.json"
        one = kept.figures(work / f"figures-{made_by}", partial(attack, view))
        other = kept.figures(work / f"linear-{made_by}", partial(attack_linearly, view))
        errors = {name for name in one if name.startswith(("ignorant", "lazy", "semi"))}
        found.figures[view.name] = {name: stronger(one[name], other[name], name in errors) for name in one}
        if view.is_sound:  # whose length anybody can count
            found.figures[view.name]["duration"] = _length(known, views.sounds(view))
    if settings.inverted:
        config = ModelConfig.load(model / "config.json")
        whisper = cache(lambda: Whisper(config.encoder.weights))
        for view in settings.inverted:
            path = work / f"sound-{views.made_by(view)}-{labels}-{settings.epochs}-{settings.heard}.json"
            heard = partial(_invert, view, known, prints, views, whisper, encoder, work, settings)
            made = kept.figures(path, heard)
            found.figures.setdefault(view.name, {}).update(made)
    return found


def _invert(
    view: View, known: Known, prints: Array, views: Views, whisper: Callable[[], Whisper], encoder: Voiceprint,
    work: Path, settings: Settings,
) -> dict[str, Figure]:  # fmt: skip
    trained = np.flatnonzero([not clip.scored for clip in known.clips])
    scored = np.flatnonzero([clip.scored and words(clip.transcript, clip.language) > 2 for clip in known.clips])
    if not len(scored):
        raise UsageError("no_clips", "No real voice says three words or more: there is nothing to turn back to sound.")
    some = np.random.default_rng(settings.seed).permutation(scored)[: settings.heard]
    print(f"turning {view.name} back to sound", file=sys.stderr, flush=True)
    if view.is_sound:
        sounds = [views.sounds(view)[place] for place in some]
    else:
        rows = views(view)
        inverter = inversion.train(rows, known.sounds, trained, settings.epochs)
        # How long a clip is, an attacker reads off the rows too; here it is told.
        sounds = [inversion.invert(inverter, rows[place], known.heard[place].seconds) for place in some]
    made, speakers = _prints(encoder, sounds), np.array([known.clips[place].speaker for place in some], str)
    cosines = (made * prints[some]).sum(1)
    strangers = [_stranger(known, int(place)) for place in some]
    chance = float(np.mean((prints[strangers] * prints[some]).sum(1)))
    likeness = bootstrap(speakers, lambda drawn: float(np.mean(cosines[drawn])), chance)
    errors = np.array(_character_errors(whisper(), [known.clips[place] for place in some], sounds))
    cer = bootstrap(speakers, lambda drawn: float(np.mean(errors[drawn])), 1.0)
    for place, sound in list(zip(some, sounds, strict=True))[:6]:
        clip = known.clips[place]
        name = f"{clip.language}-{place}"
        write_wav(work / "sounds" / f"{name}-{view.name}.wav", sound)
        write_wav(work / "sounds" / f"{name}-original.wav", known.sounds[place])
    return {"likeness": likeness, "cer": cer}


def _stranger(known: Known, place: int) -> int:
    """A scored clip of the same language, corpus and sex by another voice (any other clip where there is none)."""
    own = known.clips[place]
    others = [n for n, clip in enumerate(known.clips) if clip.scored and clip.speaker != own.speaker]
    like = [n for n in others if (c := known.clips[n]).language == own.language and c.sex == own.sex]
    near = [n for n in like if known.clips[n].corpus == own.corpus] or like or others or [place]
    return near[place % len(near)]


def _character_errors(whisper: Whisper, clips: Sequence[Clip], sounds: Sequence[Samples]) -> list[float]:
    """Whisper's character error rate of each clip, at most 1; it is told the language, where it knows that."""
    errors: list[float] = []
    for first in range(0, len(sounds), 8):
        part = slice(first, first + 8)
        told = [clip.language if clip.language in whisper.named else None for clip in clips[part]]
        said = whisper.hear(sounds[part], "transcribe", told)
        errors += [
            min(1.0, float(jiwer.cer(plain(clip.transcript) or "-", plain(text.text) or "-")))
            for clip, text in zip(clips[part], said, strict=True)
        ]
    return errors


def _prints(encoder: Voiceprint, sounds: Sequence[Samples]) -> npt.NDArray[np.float32]:
    return np.stack([encoder.of(sound) for sound in tqdm(sounds, desc="voiceprints", unit="clip", disable=None)])


def _length(known: Known, sounds: Sequence[Samples]) -> Figure:
    places = [place for place, clip in enumerate(known.clips) if clip.scored]
    wanted = np.log([known.heard[place].seconds for place in places])
    found = np.log([len(sounds[place]) / SAMPLE_RATE for place in places])
    speakers = np.array([known.clips[place].speaker for place in places], str)
    return bootstrap(speakers, lambda drawn: r2(wanted[drawn], found[drawn]), 0.0)


def _from_text(known: Known) -> Figure:
    """How well a clip's length is told by who reads the transcript alone: letters, of each language its own slope."""
    seconds = np.log([heard.seconds for heard in known.heard])
    languages = sorted({clip.language for clip in known.clips})
    letters = np.log([max(1, len(clip.transcript)) for clip in known.clips])
    one = np.array([[clip.language == language for language in languages] for clip in known.clips], float)
    rows = np.concatenate([one, one * letters[:, None]], axis=1)
    trained = np.array([not clip.scored for clip in known.clips])
    slopes = np.linalg.lstsq(rows[trained], seconds[trained], rcond=None)[0]
    found, wanted = (rows @ slopes)[~trained], seconds[~trained]
    speakers = np.array([clip.speaker for clip in known.clips], str)[~trained]
    return bootstrap(speakers, lambda drawn: r2(wanted[drawn], found[drawn]), 0.0)


def _about(known: Known) -> dict[str, Any]:
    def part(scored: bool, synthetic: bool) -> dict[str, int]:
        these = [c for c in known.clips if c.scored is scored and (c.corpus == SYNTHETIC) is synthetic]
        names = {c.voice for c in these}
        return {"clips": len(these), "voices": len(names), "languages": len({c.language for c in these})}

    return {
        "synthetic, trained": part(False, True), "synthetic, scored": part(True, True),
        "real, trained": part(False, False), "real, scored": part(True, False),
        "seconds": round(float(np.mean([heard.seconds for heard in known.heard])), 2),
    }  # fmt: skip
