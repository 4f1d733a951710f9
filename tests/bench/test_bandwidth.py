"""What measures bytes and their quality: real encoders, a real socket with and without TLS, the real model."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from esrt.audio import formats
from esrt.audio.io import load
from esrt.bench.bandwidth import quality, sizes
from esrt.bench.bandwidth.__main__ import PAGE, SECTIONS, main
from esrt.bench.bandwidth.clips import rows_of
from esrt.bench.bandwidth.line import Device, cloud
from esrt.bench.edge.sounds import speech
from esrt.config import SAMPLE_RATE
from esrt.edge.encoder import Encoder
from esrt.errors import UsageError
from esrt.evaluate.results import Result
from esrt.wire.codecs import CODECS
from esrt.wire.frame import RVQ32, Frame, size
from tests.edge.conftest import describe, write_edge

ROOT = Path(__file__).parent.parent.parent
CLIPS = sorted((ROOT / "examples").glob("*.flac"))
SEEN = iter(range(1 << 32))


@pytest.fixture(autouse=True)
def checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def plain() -> Iterator[Device]:
    with cloud(tls=False) as connect:
        yield connect()


@pytest.fixture(scope="module")
def encoder(model: Path) -> Encoder:
    return Encoder(model / "edge.onnx")


def new_frame() -> bytes:
    """One that no device has sent yet."""
    return Frame(RVQ32, 80, 512, bytes(8), next(SEEN).to_bytes(4, "little") * 800).to_bytes()


def data_folder(folder: Path, **changes: str) -> Path:
    """With a manifest of one clip."""
    row = {"id": "one", "audio": str(CLIPS[0]), "src": "fra", "tgt": "eng", "asr": "un deux trois", "s2tt": "one two"}
    (folder / "test.jsonl").write_text(json.dumps(row | changes) + "\n", encoding="utf-8")
    return folder


def test_the_page_has_every_section() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for section in SECTIONS:
        assert f"<!-- {section.__name__} -->\n" in text and f"<!-- /{section.__name__} -->" in text
        assert f"esrt bench bandwidth {section.__name__}" in text


def test_the_repositorys_own_clips() -> None:
    rows = rows_of(Path("examples/test.jsonl"), 25)
    assert {row.src for row in rows} == {"eng", "fra", "rus", "spa"} and len(rows) == 6


@pytest.mark.parametrize(
    ("changes", "clips", "code"),
    [({}, "0", "too_few_clips"), ({"tgt": "deu"}, "1", "no_rows"), ({"audio": "no.wav"}, "1", "manifest_no_audio")],
)
def test_bad_input(
    changes: dict[str, str], clips: str, code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = data_folder(tmp_path, **changes)
    for section in ("bytes", "quality"):
        assert main([section, "--data", str(data), "--clips", clips]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"[{code}]" in error


def test_no_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bytes", "--data", str(tmp_path / "none")]) == 2
    assert "[manifest_not_readable]" in capsys.readouterr().err


def test_a_model_without_codebooks(tmp_path: Path) -> None:
    write_edge(tmp_path / "edge.onnx", json.dumps(describe()))
    with pytest.raises(UsageError) as caught:
        sizes.edge(tmp_path)
    assert caught.value.code == "codec_not_in_model"


def test_wav_and_flac_lose_nothing() -> None:
    samples = formats.rounded(speech(2.0))
    for data in (formats.wav(samples), formats.flac(samples)):
        assert np.array_equal(load(io.BytesIO(data)), samples)
    assert len(formats.wav(samples)) == 44 + 2 * len(samples)
    loud = np.array([-1.0, 1.0, 0.0], np.float32)
    assert formats.rounded(loud).tolist() == [-1.0, 32767 / 32768, 0.0]


def test_opus_is_opus() -> None:
    samples = speech(10.0)
    found = {rate: formats.opus(samples, rate) for rate in formats.OPUS}
    for rate, data in found.items():
        assert data.startswith(b"OggS") and b"OpusHead" in data[:64]
        assert 0.7 < len(data) / (rate * 1000 / 8 * 10) < 1.4, rate
        heard = load(io.BytesIO(data))
        assert abs(len(heard) - len(samples)) <= SAMPLE_RATE // 10
        n = min(len(heard), len(samples))
        assert np.corrcoef(heard[:n], samples[:n])[0, 1] > 0.5, "the sound is the same, not shifted"
        assert len(formats.opus(samples, rate, live=True)) > len(data)
    lengths = [len(data) for data in found.values()]
    assert lengths == sorted(lengths, reverse=True)


@settings(max_examples=25, deadline=None)
@given(st.binary(min_size=1, max_size=40_000), st.integers(1, 4))
def test_what_is_counted_is_what_was_sent(plain: Device, data: bytes, targets: int) -> None:
    """The counter at the socket and the client's own account of its HTTP agree to the byte."""
    to = ["deu", "fra", "spa", "ita"][:targets]
    sends: list[Callable[[], int]] = [
        lambda: plain.sound(data, "audio/ogg", to),
        lambda: plain.base64(data, to),
        lambda: plain.frames([new_frame()], to),
    ]
    for send in sends:
        before = plain.bytes_sent
        assert send() == plain.bytes_sent - before
    assert plain.handshake == 0


def test_what_each_target_costs(plain: Device) -> None:
    """A frame and a sound go once, and a target is seven bytes of a query; the baseline sends everything again."""
    one, two = plain.frames([new_frame()], ["deu"]), plain.frames([new_frame()], ["deu", "fra"])
    assert two - one == len("&to=fra") and one > size(RVQ32, 80, 512)
    sound = formats.wav(speech(1.0))
    assert plain.sound(sound, "audio/wav", ["deu", "fra"]) - plain.sound(sound, "audio/wav", ["deu"]) == len("&to=fra")
    assert plain.base64(sound, ["deu", "fra"]) == 2 * plain.base64(sound, ["deu"]) > 2 * 4 / 3 * len(sound)


def test_tls() -> None:
    frames = [new_frame() for _ in range(3)]
    with cloud(tls=False) as connect:
        without = connect().frames(frames[:1], ["deu"])
    with cloud(tls=True) as connect:
        device = connect()
        found = [device.frames([frame], ["deu"]) for frame in frames]
        assert device.handshake > 200, "a client's hello and its last word"
        assert abs(connect().handshake - device.handshake) < 64
        assert set(found) == {found[0]} and 0 < found[0] - without < 100, "records, not handshakes"
        url = str(device._base)
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(url, trust_env=False)


def test_without_openssl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError) as caught, cloud(tls=True):
        pass
    assert caught.value.code == "openssl_missing"


def test_every_frame_of_a_codec_has_one_size(encoder: Encoder, plain: Device) -> None:
    assert set(encoder.codecs) == set(CODECS)
    whole = [sizes.utterance(load(path), encoder, "eng") for path in CLIPS]
    assert len({clip.seconds for clip in whole}) == len(whole)
    found = [sizes.sent(plain, clip, 1) for clip in whole]
    for name, number in CODECS.items():
        expected = size(number, encoder.info.queries, encoder.info.width)
        assert all(len(clip.frames[name][0]) == expected for clip in whole)
        assert len({one[name] for one in found}) == 1 and found[0][name] > expected
    for name in (*sizes.MEDIA, sizes.BASE64):
        assert len({one[name] for one in found}) == len(whole), f"{name} tells how long a clip is"
    assert list(found[0]) == [sizes.BASE64, *sizes.MEDIA, *encoder.codecs]


def test_where_opus_becomes_larger(plain: Device) -> None:
    wave = speech(12.0)
    limit = plain.sound(formats.opus(wave[: 5 * SAMPLE_RATE], 6), "audio/ogg", ["eng"])
    seconds = sizes.break_even(plain, wave, limit, live=False)
    assert 4.9 < seconds <= 5.1 + sizes.STEP / SAMPLE_RATE
    at = round(seconds * SAMPLE_RATE)
    assert plain.sound(formats.opus(wave[:at], 6), "audio/ogg", ["eng"]) > limit
    assert sizes.break_even(plain, wave, limit, live=True) < seconds


def test_the_section_of_bytes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, smaller in {"TARGETS": (1, 2), "LENGTHS": (1, 20, 30), "PAPER_SECONDS": 4.0}.items():
        monkeypatch.setattr(sizes, name, smaller)
    page = tmp_path / "page.md"
    page.write_text("<!-- bytes -->\n<!-- /bytes -->\n", encoding="utf-8")
    arguments = ["bytes", "--model", str(model), "--data", str(data_folder(tmp_path)), "--page", str(page)]
    assert main(arguments) == 0, capsys.readouterr().err
    text = page.read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    means = {row[0]: [float(cell.replace(",", "")) for cell in row[1:]] for row in rows[2:15]}
    assert set(means) == {sizes.title(name) for name in (sizes.BASE64, *sizes.MEDIA, *CODECS)}
    for name, (bare, one, two, *seconds) in means.items():
        assert bare < one < two, name
        assert seconds[0] == pytest.approx(one * 8 / 1e5, abs=1e-3)
    assert 1.9 < means["WAV in Base64"][2] / means["WAV in Base64"][1] < 2.1
    table = next(number for number, row in enumerate(rows) if row[0] == "frames")
    frames, int8 = ([int(cell.replace(",", "")) for cell in rows[table + row][1:]] for row in (0, 2))
    assert frames[0] == 1 and 3 <= frames[1] < frames[2] < 9, "no more than 8 s in one"
    assert all(count * 41_000 < sent < count * 41_500 for count, sent in zip(frames, int8, strict=True)), "all are sent"
    assert "Goal over 300: met." in text, "from a real 30 s of speech over a real socket"
    assert [row[0] for row in rows if "paper" in row[0]] == [f"{name}, in the paper" for name in sizes.PAPER]


def result(number: int, said: str, wanted: str = "the quick brown fox jumps over the lazy dog") -> Result:
    return Result(
        str(number), f"{number}.wav", "<|eng|>", "fra", "eng", "le renard", wanted, "le renard", said,
        f"le renard<|fra|><|eng|>{said}",
    )  # fmt: skip


def test_a_difference_has_an_interval() -> None:
    good = [result(n, "the quick brown fox jumps over a lazy dog") for n in range(40)]
    bad = [result(n, "a fox" if n % 2 else one.s2tt_r) for n, one in enumerate(good)]
    change, low, high = quality.difference(bad, good)
    wanted = [[one.s2tt for one in good]]
    scores = [sacrebleu.corpus_chrf([one.s2tt_r for one in said], wanted).score for said in (bad, good)]
    assert change == pytest.approx(scores[0] - scores[1]) and low < change < high < 0
    assert quality.difference(good, good) == (0.0, 0.0, 0.0)


def test_a_goal_that_is_missed_is_said_to_be() -> None:
    good = [result(n, "the quick brown fox jumps over a lazy dog") for n in range(10)]
    bad = [result(n, "a fox") for n in range(10)]
    assert "below: met." in quality._goal({sizes.SMALL: quality.score(good, good)})
    assert "missed" in quality._goal({sizes.SMALL: quality.score(bad, good)})


def test_the_section_of_quality(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One clip through the whole model in every codec and by Opus; a second run makes nothing anew."""
    monkeypatch.setattr(formats, "OPUS", (6,))
    page, texts = tmp_path / "page.md", tmp_path / "texts"
    page.write_text("<!-- quality -->\n<!-- /quality -->\n", encoding="utf-8")
    wanted = {"asr": "Personne n'est en mesure de prendre votre appel en ce moment.",
              "s2tt": "Nobody is available to take your call at the moment."}  # fmt: skip
    arguments = ["quality", "--model", str(model), "--data", str(data_folder(tmp_path, **wanted))]
    assert main([*arguments, "--page", str(page), "--run", str(texts)]) == 0, capsys.readouterr().err
    names = [f"opus{rate}" for rate in formats.OPUS] + list(CODECS)
    made = {name: (texts / f"{name}.jsonl").read_bytes() for name in names}
    assert all(len(lines.splitlines()) == 1 for lines in made.values())
    text = page.read_text(encoding="utf-8")
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in text.splitlines() if line[:1] == "|"}
    assert rows["WAV"][2:] == rows["ESRT bf16"][2:] and float(rows["ESRT bf16"][5]) < 0.9
    drawn = ET.parse(tmp_path / "page.svg")
    written = {element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert {"rvq32", "6 kb/s", "FLAC", "chrF"} <= written
    assert main([*arguments, "--page", str(page), "--run", str(texts)]) == 0
    assert made == {name: (texts / f"{name}.jsonl").read_bytes() for name in names}
