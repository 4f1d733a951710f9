"""The table of languages against FLEURS and Table IV of the paper, and the ways a language may be named."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from esrt.errors import UsageError
from esrt.languages import CORE, LANGUAGES, get, parse_list

# Table IV: code, language, family, tier.
TABLE_IV = """
ara Arabic Afro-Asiatic high | heb Hebrew Afro-Asiatic low | khm Khmer Austroasiatic low
vie Vietnamese Austroasiatic medium | ind Indonesian Austronesian medium | msa Malay Austronesian low
tgl Tagalog Austronesian medium | tam Tamil Dravidian medium | ben Bengali Indo-European high
bul Bulgarian Indo-European low | cat Catalan Indo-European high | ces Czech Indo-European high
dan Danish Indo-European medium | deu German Indo-European high | ell Greek Indo-European medium
eng English Indo-European high | fas Persian Indo-European low | fra French Indo-European high
hin Hindi Indo-European medium | hrv Croatian Indo-European medium | ita Italian Indo-European high
nld Dutch Indo-European high | nob Norwegian Indo-European low | pol Polish Indo-European high
por Portuguese Indo-European medium | ron Romanian Indo-European high | rus Russian Indo-European medium
slk Slovak Indo-European medium | slv Slovenian Indo-European low | spa Spanish Indo-European high
swe Swedish Indo-European low | urd Urdu Indo-European medium | jpn Japanese Japonic high
kor Korean Koreanic medium | lao Lao Kra-Dai low | tha Thai Kra-Dai medium | cmn Chinese Sino-Tibetan high
mya Burmese Sino-Tibetan low | yue Cantonese Sino-Tibetan low | azj Azerbaijani Turkic low
kaz Kazakh Turkic medium | tur Turkish Turkic medium | uzb Uzbek Turkic medium | fin Finnish Uralic high
hun Hungarian Uralic medium
"""


def test_there_are_102_languages_each_with_its_own_codes() -> None:
    languages = list(LANGUAGES.values())
    assert len(languages) == 102
    for field in ("code", "name", "tag", "bcp47", "fleurs"):
        assert len({getattr(language, field) for language in languages}) == 102, field
    whisper = [language.whisper for language in languages if language.whisper is not None]
    assert len(whisper) == len(set(whisper)) == 83


def test_the_order_is_that_of_the_codes() -> None:
    assert list(LANGUAGES) == sorted(LANGUAGES)
    assert all(code == language.code for code, language in LANGUAGES.items())


@pytest.mark.parametrize("code", LANGUAGES)
def test_every_entry_is_well_formed(code: str) -> None:
    language = LANGUAGES[code]
    assert language.tag == f"<|{code}|>"
    assert re.fullmatch(r"[a-z]{3}", code)
    assert re.fullmatch(r"[a-z]{2,3}", language.bcp47)
    assert re.fullmatch(r"[a-z]{2,3}(_[a-z]{4})?_([a-z]{2}|419)", language.fleurs)
    assert language.whisper is None or re.fullmatch(r"[a-z]{2}|yue", language.whisper)
    assert (language.family is None) == (language.tier is None) == (code not in CORE)


def test_the_45_are_those_of_table_iv() -> None:
    table = {}
    for row in re.split(r"[|\n]", TABLE_IV):
        if row.strip():
            code, name, family, tier = row.split()
            table[code] = (name, family, tier)
    core = {code: LANGUAGES[code] for code in CORE}
    assert {code: (it.name, it.family, it.tier) for code, it in core.items()} == table
    assert len(CORE) == 45
    assert len({language.family for language in core.values()}) == 11
    # The table's rows; its last line counts 13 / 17 / 15 instead.
    assert Counter(language.tier for language in core.values()) == {"low": 12, "medium": 18, "high": 15}


@pytest.mark.parametrize("code", LANGUAGES)
def test_a_language_is_found_by_each_of_its_codes(code: str) -> None:
    language = LANGUAGES[code]
    names = [code, language.bcp47, language.fleurs, *([language.whisper] if language.whisper else [])]
    for name in names:
        assert get(name) is get(name.upper()) is get(f" {name} ") is language


@pytest.mark.parametrize(
    ("name", "code"),
    [("pt-BR", "por"), ("zh-Hant-TW", "cmn"), ("zh_CN", "cmn"), ("zh-yue", "yue"), ("no", "nob"), ("fil", "tgl")],
)
def test_a_region_does_not_matter(name: str, code: str) -> None:
    assert get(name).code == code


@pytest.mark.parametrize(
    ("name", "hint"), [("german", "did you mean deu (German)?"), ("dwu", "deu"), ("frech", "fra (French)")]
)
def test_a_near_miss_gets_a_suggestion(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(hint)) as caught:
        get(name)
    assert caught.value.code == "unknown_language"
    assert "`esrt languages` lists all." in str(caught.value)


@pytest.mark.parametrize("name", ["", "-", "xx", "q" * 10_000, "\n", "\ud800", "<|deu|>"])
def test_nonsense_gets_one_short_line(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        get(name)
    assert caught.value.code == "unknown_language"
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)
    str(caught.value).encode("utf-8")


def test_lists() -> None:
    assert parse_list("fra,deu") == ["fra", "deu"]
    assert parse_list(" de , fra,deu,,FR,pt-BR ") == ["deu", "fra", "por"]
    with pytest.raises(UsageError) as caught:
        parse_list(" , ")
    assert caught.value.code == "no_language"
    with pytest.raises(UsageError) as caught:
        parse_list("fra,xx")
    assert caught.value.code == "unknown_language"
