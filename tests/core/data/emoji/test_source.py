"""The embedded data: what is in it, how it is split, whose it is, and the steps that build it."""

import io
import pickle
import shutil
import unicodedata
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from PIL import Image

from diptych.core.data import emoji
from diptych.core.data.emoji import DESIGNERS, HELD_OUT_DESIGNER, LANGUAGES, EmojiSource, evaluation_set, source
from diptych.core.data.emoji.building.annotations import hexcode_of
from diptych.core.data.emoji.building.build import tokenizer_text
from diptych.core.data.emoji.building.drawing import reduce_to_webp
from diptych.core.data.emoji.building.packages import ARTWORK, CLDR, CLDR_DERIVED, EMOJIBASE
from diptych.core.data.records import BadExample, Source

DRAWINGS = {
    "noto": 1652,
    "noto_v1": 1232,
    "twemoji": 1914,
    "fluent": 1594,
    "fluent_flat": 1594,
    "fluent_hc": 1594,
    "fluent_3d": 1607,
    "fxemoji": 800,
    "emojione": 1365,
    "circle_flags": 259,
    "flag_icons": 261,
    "flagpack": 251,
}
NAMES = dict.fromkeys(LANGUAGES, 1914) | {
    "da": 1649,
    "fil": 1911,
    "hi": 1913,
    "id": 1911,
    "mi": 1560,
    "qu": 1627,
    "sv": 1911,
    "sw": 1912,
}
SPLITS = ("train", "held_out")
PERMISSIVE = {"MIT", "Apache-2.0", "CC-BY-4.0"}
CONTRAST = 8  # of 255: the least that any drawing has, Twemoji's white square on white


def contrast(data: bytes) -> int:
    return int(np.ptp(np.asarray(Image.open(io.BytesIO(data)).convert("L"))))


def webp(colour: str, size: tuple[int, int] = (64, 64)) -> bytes:
    return reduce_to_webp(Image.new("RGB", size, colour))


@pytest.fixture(scope="module")
def concepts() -> tuple[emoji.Concept, ...]:
    return emoji.concepts()


@pytest.fixture(scope="module")
def train() -> EmojiSource:
    return EmojiSource()


# What is in it


def test_every_designer_has_its_drawings():
    assert {designer: len(EmojiSource("all", (designer,))) for designer in DESIGNERS} == DRAWINGS


def test_the_data_stays_small():
    assert sum(path.stat().st_size for path in emoji.TOKENIZER_PATH.parent.iterdir() if path.is_file()) < 13e6


@pytest.mark.parametrize("designer", DESIGNERS)
def test_every_drawing_decodes_and_shows_something(designer):
    drawings = EmojiSource("all", (designer,), ("en",), keywords=False)
    for record in drawings:
        (reference,) = record.images
        data = drawings.read(reference)
        picture = Image.open(io.BytesIO(data))
        assert (picture.format, max(picture.size)) == ("WEBP", 64), reference
        assert contrast(data) >= CONTRAST, reference


def test_the_check_for_blank_drawings_finds_blank_ones():
    assert contrast(webp("white")) < CONTRAST
    assert contrast(webp("black")) < CONTRAST


@pytest.mark.parametrize("designer", ["flag_icons", "flagpack"])
def test_rectangular_flags_keep_their_shape(designer):
    flags = EmojiSource("all", (designer,))
    assert {Image.open(io.BytesIO(flags.read(record.images[0]))).size for record in flags} == {(64, 48)}


def test_every_language_has_its_names(concepts):
    assert Counter(language for concept in concepts for language in concept.names) == NAMES
    assert all(concept.names.keys() == concept.keywords.keys() for concept in concepts)
    assert len(LANGUAGES) == 36


def test_names_tell_concepts_apart(concepts):
    duplicates = {}
    for language in LANGUAGES:
        counted = Counter(concept.names[language].lower() for concept in concepts if language in concept.names)
        duplicates |= {(language, name): count for name, count in counted.items() if count > 1}
    assert duplicates == {("te", "పురుషుడు"): 2}


def test_names_are_clean_text(concepts):
    texts = [text for concept in concepts for text in (*concept.names.values(), *sum(concept.keywords.values(), ()))]
    assert len(texts) > 300_000
    bad = [text for text in texts if not text or text != text.strip() or any(map(is_control, text))]
    assert not bad


def is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Co", "Cn")


def test_groups_are_the_nine_of_the_standard(concepts):
    assert {concept.group for concept in concepts} == set(emoji.GROUPS)
    assert len(emoji.GROUPS) == 9


def test_hexcode_spells_the_emoji(concepts):
    assert all(concept.hexcode == hexcode_of(concept.emoji) for concept in concepts)
    assert len({concept.hexcode for concept in concepts}) == len(concepts) == 1914


# How it is split


def test_split_follows_the_hash_of_the_hexcode(concepts):
    digests = {  # printed by sha1sum
        "1f600": 0x42B707F984D36BF0D2AECC51961EFF524C7D92AF,
        "1f604": 0xCAE101B14B53F593BA760B1DAEF1EFFCF0351BE6,
    }
    assert {key: emoji.split_of(key) for key in digests} == {"1f600": "train", "1f604": "held_out"}
    assert [digest % 10 == 0 for digest in digests.values()] == [False, True]
    assert Counter(concept.split for concept in concepts) == {"train": 1700, "held_out": 214}
    assert all(concept.split == emoji.split_of(concept.hexcode) for concept in concepts)


def test_training_and_held_out_records_are_disjoint_and_complete():
    parts = [EmojiSource(split, languages=("en",), keywords=False) for split in ("train", "held_out", "all")]
    keys = [{record.key for record in part} for part in parts]
    assert not keys[0] & keys[1]
    assert keys[0] | keys[1] == keys[2]
    assert [len(part) for part in keys] == [1700, 214, 1914]


def test_held_out_designer_is_absent_unless_asked_for():
    english = {"languages": ("en",)}
    training = {designer for record in EmojiSource(**english) for designer, _ in record.images}
    assert training == set(DESIGNERS) - {HELD_OUT_DESIGNER}
    assert {designer for record in evaluation_set(**english) for designer, _ in record.images} == {HELD_OUT_DESIGNER}


@pytest.mark.parametrize(("split", "count"), [("train", 1700), ("held_out", 214), ("all", 1914)])
def test_evaluation_records_have_one_drawing_and_one_name_a_language(split, count):
    records = list(evaluation_set(split))
    assert len(records) == count
    for record in records:
        assert len(record.images) == 1
        assert len({caption.language for caption in record.captions}) == len(record.captions) >= 28


def test_tokenizer_text_has_nothing_of_held_out_concepts(concepts):
    one, other = (replace(concepts[0], split=split, names={"en": split.upper()}, keywords={}) for split in SPLITS)
    assert tokenizer_text([one, other]) == ["train"]
    text = "\n".join(tokenizer_text(concepts))
    assert "joy" in text
    assert "cat with tears of joy" not in text  # the name of a held-out concept, and of nothing else


def test_tokenizer_knows_only_pieces_of_its_training_text(concepts):
    model = sentencepiece.SentencePieceProcessor(model_file=str(emoji.TOKENIZER_PATH))
    text = "\n".join(model.normalize(list(dict.fromkeys(tokenizer_text(concepts)))))
    pieces = [model.id_to_piece(index) for index in range(3, model.vocab_size()) if not model.is_byte(index)]
    assert len(pieces) > 7000
    assert [piece for piece in pieces if piece not in text] == []


# The tokenizer


def test_tokenizer_has_siglip2_padding_and_end():
    model = sentencepiece.SentencePieceProcessor(model_file=str(emoji.TOKENIZER_PATH))
    assert (model.vocab_size(), model.pad_id(), model.eos_id(), model.unk_id(), model.bos_id()) == (8000, 0, 1, 2, -1)
    assert model.encode("Grinning FACE") == model.encode("grinning face")
    assert model.unk_id() not in model.encode("\U0001f600 鬱 ꙮ")  # unheard-of characters become bytes


def test_names_fit_sixteen_tokens_nearly_always(concepts):
    model = sentencepiece.SentencePieceProcessor(model_file=str(emoji.TOKENIZER_PATH))
    names = [name.lower() for concept in concepts for name in concept.names.values()]
    lengths = np.array([len(ids) for ids in model.encode(names)])
    assert np.median(lengths) <= 6
    assert (lengths > 15).mean() < 0.03


# The source


def test_it_is_a_source_and_survives_pickling(train):
    again = pickle.loads(pickle.dumps(train))
    assert isinstance(train, Source)
    assert len(pickle.dumps(train)) < 2000
    assert again.record(5) == train.record(5)
    assert again.read(again.record(5).images[0]) == train.read(train.record(5).images[0])
    assert again.fingerprint() == train.fingerprint()


def test_keyword_captions_share_a_tenth_of_the_weight_of_the_name(train):
    captions = [caption for caption in train.record(0).captions if caption.language == "en"]
    concept = train.concept(0)
    assert captions[0].text == "grinning face"
    assert sum(caption.weight for caption in captions[1:]) == pytest.approx(0.1)
    assert sorted(", ".join(caption.text for caption in captions[1:]).split(", ")) == sorted(concept.keywords["en"])
    assert max(caption.text.count(",") for caption in captions) < 3
    assert len(EmojiSource(keywords=False).record(0).captions) == len(concept.names)


def test_languages_are_kept_in_the_order_asked_for():
    record = EmojiSource(languages=("ja", "en"), keywords=False).record(0)
    assert [caption.language for caption in record.captions] == ["ja", "en"]


def test_fingerprint_follows_arguments_and_content(tmp_path, monkeypatch):
    small = {"designers": ("flagpack",), "languages": ("en",)}
    prints = {EmojiSource(**small).fingerprint(), EmojiSource("all", **small).fingerprint()}
    prints |= {EmojiSource(**(small | other)).fingerprint() for other in ({"languages": ("de",)}, {"keywords": False})}
    assert len(prints) == 4
    copy = shutil.copy(emoji.designer_path("flagpack"), tmp_path)
    monkeypatch.setattr(source, "designer_path", lambda designer: tmp_path / f"{designer}.zip")
    assert EmojiSource(**small).fingerprint() in prints
    with zipfile.ZipFile(copy, "a") as archive:
        archive.writestr("more.txt", "more")
    assert EmojiSource(**small).fingerprint() not in prints


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"split": "test"}, "split has"),
        ({"designers": ("notto",)}, "designers has .*notto.*expected some of noto"),
        ({"designers": ()}, "designers has nothing"),
        ({"languages": "en"}, "give a sequence"),
        ({"languages": ("xx",)}, "languages has .*xx"),
    ],
)
def test_unknown_names_are_refused(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        EmojiSource(**arguments)


def test_missing_drawing_is_a_bad_example(train):
    with pytest.raises(BadExample, match="image_missing: flagpack has no drawing of 1f600"):
        train.read(("flagpack", "1f600"))


# Licences


def test_licences_name_every_file_with_its_terms():
    text = emoji.LICENSES_PATH.read_text(encoding="utf-8")
    folder = emoji.LICENSES_PATH.parent
    assert {path.stem for path in folder.glob("*.zip")} == set(DESIGNERS) == set(ARTWORK)
    for designer, work in ARTWORK.items():
        (row,) = [line for line in text.splitlines() if line.startswith(f"| {designer}.zip |")]
        assert all(part in row for part in (work.license, work.copyright, work.home, work.package))
    assert all(package in text for package in (CLDR, CLDR_DERIVED, EMOJIBASE))
    for paragraph in ("Permission is hereby granted", "UNICODE LICENSE V3", "creativecommons.org/licenses/by/4.0"):
        assert paragraph in text


def test_no_drawing_is_under_a_share_alike_licence():
    assert {work.license for work in ARTWORK.values()} == PERMISSIVE


def test_notice_names_every_copyright_holder():
    notice = (Path(__file__).parents[4] / "NOTICE").read_text(encoding="utf-8")
    assert all(work.home in notice and work.copyright in notice and work.license in notice for work in ARTWORK.values())
