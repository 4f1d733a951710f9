"""The languages: the 102 of FLEURS, each with its tag, and what Table IV of the paper says of the 45 it trains on."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from esrt.errors import UsageError


@dataclass(frozen=True)
class Language:
    """One language.

    `code` is the ISO 639-3 code as FLEURS and the paper's tags use it; `family` and `tier` (high, medium or low) stand
    for the 45 languages of Table IV only. `whisper` is Whisper's code, None where Whisper has no such language (`yue`
    came with large-v3). `bcp47` is the shortest BCP 47 tag, `fleurs` the name of the FLEURS configuration.
    """

    code: str
    name: str
    family: str | None
    tier: str | None
    whisper: str | None
    bcp47: str
    fleurs: str

    @property
    def tag(self) -> str:
        """The one token that names the language in prompts and answers: `<|deu|>`."""
        return f"<|{self.code}|>"


# In the order of the codes, which is the order of the tags' rows in the embedding table: never reorder, never insert.
LANGUAGES: dict[str, Language] = {
    language.code: language
    for language in (
        Language("afr", "Afrikaans", None, None, "af", "af", "af_za"),
        Language("amh", "Amharic", None, None, "am", "am", "am_et"),
        Language("ara", "Arabic", "Afro-Asiatic", "high", "ar", "ar", "ar_eg"),
        Language("asm", "Assamese", None, None, "as", "as", "as_in"),
        Language("ast", "Asturian", None, None, None, "ast", "ast_es"),
        Language("azj", "Azerbaijani", "Turkic", "low", "az", "az", "az_az"),
        Language("bel", "Belarusian", None, None, "be", "be", "be_by"),
        Language("ben", "Bengali", "Indo-European", "high", "bn", "bn", "bn_in"),
        Language("bos", "Bosnian", None, None, "bs", "bs", "bs_ba"),
        Language("bul", "Bulgarian", "Indo-European", "low", "bg", "bg", "bg_bg"),
        Language("cat", "Catalan", "Indo-European", "high", "ca", "ca", "ca_es"),
        Language("ceb", "Cebuano", None, None, None, "ceb", "ceb_ph"),
        Language("ces", "Czech", "Indo-European", "high", "cs", "cs", "cs_cz"),
        Language("ckb", "Central Kurdish", None, None, None, "ckb", "ckb_iq"),
        Language("cmn", "Chinese", "Sino-Tibetan", "high", "zh", "zh", "cmn_hans_cn"),
        Language("cym", "Welsh", None, None, "cy", "cy", "cy_gb"),
        Language("dan", "Danish", "Indo-European", "medium", "da", "da", "da_dk"),
        Language("deu", "German", "Indo-European", "high", "de", "de", "de_de"),
        Language("ell", "Greek", "Indo-European", "medium", "el", "el", "el_gr"),
        Language("eng", "English", "Indo-European", "high", "en", "en", "en_us"),
        Language("est", "Estonian", None, None, "et", "et", "et_ee"),
        Language("fas", "Persian", "Indo-European", "low", "fa", "fa", "fa_ir"),
        Language("fin", "Finnish", "Uralic", "high", "fi", "fi", "fi_fi"),
        Language("fra", "French", "Indo-European", "high", "fr", "fr", "fr_fr"),
        Language("ful", "Fula", None, None, None, "ff", "ff_sn"),
        Language("gle", "Irish", None, None, None, "ga", "ga_ie"),
        Language("glg", "Galician", None, None, "gl", "gl", "gl_es"),
        Language("guj", "Gujarati", None, None, "gu", "gu", "gu_in"),
        Language("hau", "Hausa", None, None, "ha", "ha", "ha_ng"),
        Language("heb", "Hebrew", "Afro-Asiatic", "low", "he", "he", "he_il"),
        Language("hin", "Hindi", "Indo-European", "medium", "hi", "hi", "hi_in"),
        Language("hrv", "Croatian", "Indo-European", "medium", "hr", "hr", "hr_hr"),
        Language("hun", "Hungarian", "Uralic", "medium", "hu", "hu", "hu_hu"),
        Language("hye", "Armenian", None, None, "hy", "hy", "hy_am"),
        Language("ibo", "Igbo", None, None, None, "ig", "ig_ng"),
        Language("ind", "Indonesian", "Austronesian", "medium", "id", "id", "id_id"),
        Language("isl", "Icelandic", None, None, "is", "is", "is_is"),
        Language("ita", "Italian", "Indo-European", "high", "it", "it", "it_it"),
        Language("jav", "Javanese", None, None, "jw", "jv", "jv_id"),
        Language("jpn", "Japanese", "Japonic", "high", "ja", "ja", "ja_jp"),
        Language("kam", "Kamba", None, None, None, "kam", "kam_ke"),
        Language("kan", "Kannada", None, None, "kn", "kn", "kn_in"),
        Language("kat", "Georgian", None, None, "ka", "ka", "ka_ge"),
        Language("kaz", "Kazakh", "Turkic", "medium", "kk", "kk", "kk_kz"),
        Language("kea", "Kabuverdianu", None, None, None, "kea", "kea_cv"),
        Language("khm", "Khmer", "Austroasiatic", "low", "km", "km", "km_kh"),
        Language("kir", "Kyrgyz", None, None, None, "ky", "ky_kg"),
        Language("kor", "Korean", "Koreanic", "medium", "ko", "ko", "ko_kr"),
        Language("lao", "Lao", "Kra-Dai", "low", "lo", "lo", "lo_la"),
        Language("lav", "Latvian", None, None, "lv", "lv", "lv_lv"),
        Language("lin", "Lingala", None, None, "ln", "ln", "ln_cd"),
        Language("lit", "Lithuanian", None, None, "lt", "lt", "lt_lt"),
        Language("ltz", "Luxembourgish", None, None, "lb", "lb", "lb_lu"),
        Language("lug", "Ganda", None, None, None, "lg", "lg_ug"),
        Language("luo", "Luo", None, None, None, "luo", "luo_ke"),
        Language("mal", "Malayalam", None, None, "ml", "ml", "ml_in"),
        Language("mar", "Marathi", None, None, "mr", "mr", "mr_in"),
        Language("mkd", "Macedonian", None, None, "mk", "mk", "mk_mk"),
        Language("mlt", "Maltese", None, None, "mt", "mt", "mt_mt"),
        Language("mon", "Mongolian", None, None, "mn", "mn", "mn_mn"),
        Language("mri", "Maori", None, None, "mi", "mi", "mi_nz"),
        Language("msa", "Malay", "Austronesian", "low", "ms", "ms", "ms_my"),
        Language("mya", "Burmese", "Sino-Tibetan", "low", "my", "my", "my_mm"),
        Language("nld", "Dutch", "Indo-European", "high", "nl", "nl", "nl_nl"),
        Language("nob", "Norwegian", "Indo-European", "low", "no", "nb", "nb_no"),
        Language("npi", "Nepali", None, None, "ne", "ne", "ne_np"),
        Language("nso", "Northern Sotho", None, None, None, "nso", "nso_za"),
        Language("nya", "Nyanja", None, None, None, "ny", "ny_mw"),
        Language("oci", "Occitan", None, None, "oc", "oc", "oc_fr"),
        Language("orm", "Oromo", None, None, None, "om", "om_et"),
        Language("ory", "Odia", None, None, None, "or", "or_in"),
        Language("pan", "Punjabi", None, None, "pa", "pa", "pa_in"),
        Language("pol", "Polish", "Indo-European", "high", "pl", "pl", "pl_pl"),
        Language("por", "Portuguese", "Indo-European", "medium", "pt", "pt", "pt_br"),
        Language("pus", "Pashto", None, None, "ps", "ps", "ps_af"),
        Language("ron", "Romanian", "Indo-European", "high", "ro", "ro", "ro_ro"),
        Language("rus", "Russian", "Indo-European", "medium", "ru", "ru", "ru_ru"),
        Language("slk", "Slovak", "Indo-European", "medium", "sk", "sk", "sk_sk"),
        Language("slv", "Slovenian", "Indo-European", "low", "sl", "sl", "sl_si"),
        Language("sna", "Shona", None, None, "sn", "sn", "sn_zw"),
        Language("snd", "Sindhi", None, None, "sd", "sd", "sd_in"),
        Language("som", "Somali", None, None, "so", "so", "so_so"),
        Language("spa", "Spanish", "Indo-European", "high", "es", "es", "es_419"),
        Language("srp", "Serbian", None, None, "sr", "sr", "sr_rs"),
        Language("swe", "Swedish", "Indo-European", "low", "sv", "sv", "sv_se"),
        Language("swh", "Swahili", None, None, "sw", "sw", "sw_ke"),
        Language("tam", "Tamil", "Dravidian", "medium", "ta", "ta", "ta_in"),
        Language("tel", "Telugu", None, None, "te", "te", "te_in"),
        Language("tgk", "Tajik", None, None, "tg", "tg", "tg_tj"),
        Language("tgl", "Tagalog", "Austronesian", "medium", "tl", "tl", "fil_ph"),
        Language("tha", "Thai", "Kra-Dai", "medium", "th", "th", "th_th"),
        Language("tur", "Turkish", "Turkic", "medium", "tr", "tr", "tr_tr"),
        Language("ukr", "Ukrainian", None, None, "uk", "uk", "uk_ua"),
        Language("umb", "Umbundu", None, None, None, "umb", "umb_ao"),
        Language("urd", "Urdu", "Indo-European", "medium", "ur", "ur", "ur_pk"),
        Language("uzb", "Uzbek", "Turkic", "medium", "uz", "uz", "uz_uz"),
        Language("vie", "Vietnamese", "Austroasiatic", "medium", "vi", "vi", "vi_vn"),
        Language("wol", "Wolof", None, None, None, "wo", "wo_sn"),
        Language("xho", "Xhosa", None, None, None, "xh", "xh_za"),
        Language("yor", "Yoruba", None, None, "yo", "yo", "yo_ng"),
        Language("yue", "Cantonese", "Sino-Tibetan", "low", "yue", "yue", "yue_hant_hk"),
        Language("zul", "Zulu", None, None, None, "zu", "zu_za"),
    )
}

CORE: tuple[str, ...] = tuple(code for code, language in LANGUAGES.items() if language.tier is not None)

# Codes that people and other programs use for these languages beside the ISO 639-3, BCP 47 and Whisper ones.
_OTHER_NAMES = {
    "arb": "ara",
    "aze": "azj",
    "fil": "tgl",
    "khk": "mon",
    "lvs": "lav",
    "nep": "npi",
    "nor": "nob",
    "ori": "ory",
    "pes": "fas",
    "swa": "swh",
    "uzn": "uzb",
    "zh-yue": "yue",
    "zho": "cmn",
    "zsm": "msa",
}


def _index() -> dict[str, str]:
    index = dict(_OTHER_NAMES)
    for language in LANGUAGES.values():
        for name in (language.bcp47, language.whisper, language.fleurs.replace("_", "-"), language.code):
            if name is not None:
                index[name] = language.code
    return index


_CODES = _index()


def get(code: str) -> Language:
    """The language of an ISO 639-3, ISO 639-1, BCP 47, Whisper or FLEURS code: `deu`, `de`, `pt-BR`, `no`, `en_us`.

    Upper and lower case are the same. Raises UsageError `unknown_language`, with the nearest codes where there are any.
    """
    wanted = code.strip().lower().replace("_", "-")
    # A region or script after the language (pt-BR, zh-Hant-TW) does not change which of our languages it is.
    found = _CODES.get(wanted) or _CODES.get(wanted.split("-", 1)[0])
    if found is None:
        sentence = f"Unknown language {code[:40]!r}{_hint(wanted)} `esrt languages` lists all."
        raise UsageError("unknown_language", sentence)
    return LANGUAGES[found]


def _hint(wanted: str) -> str:
    """`: did you mean deu (German)?`, or a full stop when no code or name is near."""
    names = {language.name.lower(): language.code for language in LANGUAGES.values()}
    near = [wanted] if wanted in names else difflib.get_close_matches(wanted[:40], [*names, *LANGUAGES], n=3)
    codes = list(dict.fromkeys(names.get(name, name) for name in near))
    return ": did you mean " + " or ".join(f"{c} ({LANGUAGES[c].name})" for c in codes) + "?" if codes else "."


def parse_list(text: str) -> list[str]:
    """`"fra, de"` -> `["fra", "deu"]`: ISO 639-3 codes in the order given, each once.

    Raises UsageError `unknown_language`, or `no_language` when nothing is named.
    """
    codes = list(dict.fromkeys(get(part).code for part in text.split(",") if part.strip()))
    if not codes:
        raise UsageError("no_language", "No language is named: give codes with commas between them, such as fra,deu.")
    return codes


WITHOUT_SPACES = frozenset({"cmn", "jpn", "khm", "lao", "mya", "tha", "yue"})


def words(text: str, code: str) -> int:
    """How many words a text has; about: two characters for one where no spaces part them."""
    return len("".join(text.split())) // 2 if code in WITHOUT_SPACES else len(text.split())
