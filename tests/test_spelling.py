"""What the normaliser does to transcripts of many scripts, and what it leaves alone."""

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hf_transfer.targets.transcripts.letters import build_tokenizer, covers, letters_of, new_letters, normalise, spells
from hf_transfer.targets.transcripts.tags import without_tags

LOWER = set("abcdefghijklmnopqrstuvwxyz' ")
UPPER = {letter.upper() for letter in LOWER}
TURKISH = set("abcçdefgğhıijklmnoöprsştuüvyz ")
FORMS = (None, "NFC", "NFD", "NFKC", "NFKD")
SAMPLES = {
    "Arabic": "الكتاب على الطاولة وأنا أقرأ آية عن سؤال",
    "Arabic, vocalised": "كِتَابٌ جَدِيدٌ وَمُعَلِّمٌ قَدِيمٌ",
    "Arabic, stretched": "كـــتاب جـديد",
    "Persian": "می‌خواهم به خانه بروم",
    "Hebrew": "הילד הלך אל הגן",
    "Hebrew, pointed": "שָׁלוֹם עֲלֵיכֶם בְּרֵאשִׁית",
    "Bengali": "বা\u09dcি গা\u09dcি আষা\u09dd হ\u09df প\u09dcা",  # as one character each: NFC takes them apart
    "Devanagari": "ल\u095cका प\u095dता है \u095bरूर \u0958लम हिन्दी",
    "Thai": "น้ำ ทำงาน คำถาม ที่นี่ ผู้ใหญ่",
    "Lao": "ນ້ຳ ຄຳ ໝາ ໜູ ຢູ່",
    "Tamil": "தமிழ் மொழி கொடு",
    "Turkish": "ışık açık kaldı istanbul güzel iğne",
    "Vietnamese": "tiếng việt rất đẹp người nghĩ",
    "Yoruba": "ọjọ́ dára ẹ̀kọ́ ṣé ọmọ",
    "Korean": "한국어 값 안녕하세요",
    "Korean letters": "ㄱ ㄴ ㅏ ㅋㅋ",
    "Greek": "καλημέρα σας ο δρόμος ΐ ϋ",
    "Georgian": "ბათუმი თბილისი ქართული",
    "German": "schöne grüße straße über",
    "French": "garçon œuvre l'été naïf où",
    "Japanese": "がぎぐ カタカナ 東京",
}


def recast(text, form):
    return unicodedata.normalize(form, text) if form else text


def vocabulary_of(text):
    return letters_of(build_tokenizer([text]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("language", SAMPLES)
def test_what_a_vocabulary_spells_comes_through_unchanged(language, form):
    text = recast(SAMPLES[language], form)
    tokenizer = build_tokenizer([text])
    letters = letters_of(tokenizer)
    assert normalise(text, letters) == text
    assert normalise(f"«{text}»!", letters) == text
    assert covers([text], letters)
    ids = [i for each in tokenizer(text).input_ids for i in (each, each, tokenizer.pad_token_id)]
    assert tokenizer.decode(ids) == text
    # However the same text is written elsewhere, it can be spelt, and is the same text.
    for other in FORMS:
        found = normalise(recast(SAMPLES[language], other), letters)
        assert spells(letters, found)
        assert recast(found, "NFKC") == recast(text, "NFKC")
        assert normalise(found, letters) == found


@pytest.mark.parametrize("language", SAMPLES)
def test_a_new_vocabulary_spells_the_texts_that_it_is_built_of(language):
    for texts in ([recast(SAMPLES[language], form)] for form in FORMS[:3]):
        letters = new_letters(texts)
        assert spells(letters, normalise(texts[0], letters))
    mixed = [recast(SAMPLES[language], form) for form in ("NFC", "NFD")]
    letters = new_letters(mixed)
    assert normalise(mixed[0], letters) == normalise(mixed[1], letters)


@settings(max_examples=60)
@given(st.data())
def test_whatever_a_model_can_write_is_measured_as_it_is(data):
    letters = vocabulary_of(
        recast(SAMPLES[data.draw(st.sampled_from(sorted(SAMPLES)))], data.draw(st.sampled_from(FORMS)))
    )
    text = " ".join(data.draw(st.text(st.sampled_from(sorted(letters)))).split())
    assert normalise(text, letters) == text


@settings(max_examples=150)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=6),
            st.sampled_from(
                ["[noise]", "<unk>", "((", "))", "[", "]", "*", "++um++", "´", "İ", "ß", "ǆ", "é", "1,000"]
            ),
        ),
        max_size=6,
    ).map("".join),
    st.sampled_from([LOWER, UPPER, TURKISH, LOWER | UPPER | set("-.()[]"), LOWER | set("0123456789"), LOWER | {"th"}]),
)
@example("(++0++)", LOWER)
@example("[the <unk> end]", LOWER)
def test_applying_it_twice_is_applying_it_once(text, letters):
    found = normalise(text, letters)
    assert normalise(found, letters) == found
    assert normalise(normalise(text, None), None) == normalise(text, None)


@pytest.mark.parametrize(
    ("text", "letters", "spelt"),
    [
        ("Işık İzmir ISI", TURKISH, "ışık izmir ısı"),
        ("I\u0307zmir", TURKISH, "izmir"),
        ("ışık izmir", {"İ" if c == "i" else c.upper() for c in TURKISH}, "IŞIK İZMİR"),
        ("İstanbul Irak", LOWER, "istanbul irak"),
        ("ΟΔΟΣ Σας", set("αβγδεζηθικλμνοπρσςτυφχψω "), "οδος σας"),
        ("οδος", set("αβγδεζηθικλμνοπρστυφχψω "), "οδοσ"),
        ("οδός", set("ΑΒΓΔΕΖΗΘΙΚΛΜΝΟΠΡΣΤΥΦΧΨΩ "), "ΟΔΟΣ"),
        ("ბათუმი", set("ᲑᲐᲗᲣᲛᲘ "), "ᲑᲐᲗᲣᲛᲘ"),
        ("ᲑᲐᲗᲣᲛᲘ", set("ბათუმი "), "ბათუმი"),
        ("Straße", UPPER | {"ẞ"}, "STRAẞE"),
        ("Straße", LOWER, "strasse"),
        ("ǅungla", LOWER | {"ž"}, "džungla"),
        ("ǅungla", LOWER | {"ǆ"}, "ǆungla"),
        ("The thing", {"th", *"eing "}, "the thing"),
        ("The thing", {"th", *"eingA "}, "the thing"),
        ("geht´s", LOWER | {"\u0301"}, "geht's"),
        ("ŉ", UPPER, "'N"),
        ("ﷺ ﻻ", set("صلىاهعيوسم "), "صلى الله عليه وسلم لا"),
        ("geht´s l’été rock`n", LOWER, "geht's l'ete rock'n"),
        ("oʻzbek o'zbek o’zbek", LOWER - {"'"} | {"ʻ"}, "oʻzbek oʻzbek oʻzbek"),
        ("ẹ̀kọ́ ọjọ́", LOWER | set("ẹọ"), "ẹkọ ọjọ"),
        ("ẹ̀kọ́", LOWER, "eko"),
        ("tiếng", LOWER | {"ê"}, "tiêng"),
        ("كِتَابٌ كـتاب", set("كتاب "), "كتاب كتاب"),
        ("שָׁלוֹם", set("שלום "), "שלום"),
        ("R&D 50 %", UPPER, "R&D 50 %"),
        ("R＆D ５０ ％", UPPER, "R&D 50 %"),
        ("it costs $5 or 3€, 5° №5", LOWER, "it costs $5 or 3€ 5° №5"),
        ("C++ f*ck", LOWER, "c++ f*ck"),
        ("*really* 🙂 ❤️ ♪ ™ well…", LOWER, "really well"),
        ("“e‑mail”", LOWER | set('"-'), '"e-mail"'),
        ("note* f***", LOWER, "note f***"),
        ("5² Ⅳ ½", LOWER, "5² Ⅳ 1 2"),
        ("٣ ۳ ３ ३ 3", set("0123456789 "), "3 3 3 3 3"),
        ("3 ٣ ３", set("٠١٢٣٤٥٦٧٨٩ "), "٣ ٣ ٣"),
        ("٣ ３", LOWER, "٣ 3"),
        ("3.5 1,000", set("0123456789 .,"), "3.5 1,000"),
    ],
)
def test_spelling(text, letters, spelt):
    assert normalise(text, letters) == spelt
    assert normalise(spelt, letters) == spelt


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[noise] hi", "hi"),
        ("hi <PERIOD> there <COMMA>", "hi there"),
        ("<s> hi </s> <unk>", "hi"),
        ("{NS} hi {laughter}", "hi"),
        ("(coughs) hi (inaudible) ((unintelligible))", "hi"),
        ("[[background noise]] hi [clears throat] *laughs*", "hi"),
        ("hi++UM++there [00:12:31]", "hi there"),
        ("[laughter-yes] hi [LAUGHTER]", "yes hi"),
        ("[[laugh] noise] hi", "hi"),
        ("dog(s) colo(u)r the (old) man", "dogs colour the old man"),
        ("(in the background) [no] hi [door slams]", "in the background no hi"),
        ("[noise]", ""),
    ],
)
def test_tags_are_no_words(text, said):
    assert normalise(text, LOWER) == said


def test_another_case_is_no_foreign_letter():
    assert covers(["οδος"], set("οδσ "))
    assert covers(["Straße"], set("STRAE "))
    assert not covers(["straße"], set("strae "))


def test_a_tag_that_the_vocabulary_writes_stays():
    letters = LOWER | {"[noise]"}
    assert normalise("[noise] Hi! [laughter]", letters) == "[noise] hi"
    assert normalise("NOISE (old)", letters | set("()")) == "noise (old)"
    assert normalise("<unk> hi", letters | set("<>")) == "hi"


def test_what_looks_like_a_tag_is_named_and_stays():
    text, removed, doubtful = without_tags("[rires] oui (Paris) [noise] colo(u)r", lambda tag: False)
    assert (removed, doubtful) == (["[noise]"], ["[rires]", "(Paris)"])
    assert normalise(text, LOWER) == "rires oui paris colour"


def test_a_new_vocabulary_is_turkish_where_the_texts_are():
    letters = new_letters(["Işık açık kaldı.", "İzmir"])
    assert normalise("IŞIK İzmir", letters) == "ışık izmir"
    letters = new_letters(["I like it in the city and in this inn", "İstanbul is big"])
    assert "ı" not in letters
    assert normalise("I like İstanbul", letters) == "i like istanbul"


def test_a_new_vocabulary_has_digits_of_one_script():
    letters = new_letters(["٣ ٤ ٥", "3 ５"])
    assert letters == set("٣٤٥ ")
    assert normalise("3 ５", letters) == "٣ ٥"
    assert new_letters(["٥ ۵"]) in ({"٥", " "}, {"۵", " "})
    assert new_letters(["Ｒ＆Ｄ 50 % ﬁne"]) == set("r&d50%fine ")
