"""PaliGemma's processor: what stands around prompts, what its tokens are, and what it refuses."""

import json
import os

import numpy as np
import pytest

from diptych.core.data.examples.naflex import NaFlex
from diptych.core.data.image import resize
from diptych.core.data.pixels import FixedSize
from diptych.core.data.processor.processor import Processor
from diptych.core.data.processor.prompted import RESIZING, PaliGemmaProcessor
from diptych.core.data.records import BadExample
from diptych.core.data.tokenizers.export import tokenizer_definition
from diptych.core.data.tokenizers.open import open_tokenizer
from diptych.core.data.tokenizers.paligemma import EXTRAS, IMAGE, PaliGemmaTokenizer
from tests.core.data.pictures import pixels
from tests.core.data.tokenizers.small_vocabularies import newline_model, released_gemma_vocabulary

WORDS = ("\u2581cat", "\u2581dog", "caption", "detect", "\u2581en")
PAD, EOS, BOS, NEWLINE = 0, 1, 2, 4


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(newline_model(WORDS))
    return open_tokenizer(path)


@pytest.fixture
def processor(vocabulary):
    return PaliGemmaProcessor(pixels=FixedSize(height=28, width=28, resize="bicubic_antialias"), tokenizer=vocabulary)


def transformers_vocabulary(vocabulary) -> dict:
    """A tokenizer.json as transformers has it: places, codes and the placeholder are added tokens."""
    definition = tokenizer_definition(PaliGemmaTokenizer(vocabulary), 8)
    definition |= {"truncation": None, "padding": None, "post_processor": None}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    definition["added_tokens"] += [
        {"id": vocabulary.vocab_size + place, "content": token, **plain} for place, token in enumerate((*EXTRAS, IMAGE))
    ]
    return definition


def test_texts_are_prompt_newline_answer_and_marks(processor):
    ids, begin = processor.tokenizer.ids, processor.tokenizer.vocabulary.vocab_size
    found = processor.texts(["caption en", "detect cat"], ["cat", "<loc0000><loc1023> cat"])
    assert found["token_ids"].tolist() == [
        [BOS, *ids("caption en"), NEWLINE, *ids("cat"), EOS, PAD],
        [BOS, *ids("detect cat"), NEWLINE, begin, begin + 1023, *ids(" cat"), EOS],
    ]
    assert [len(ids(text)) for text in ("caption en", "detect cat", "cat", " cat")] == [2, 2, 2, 1]
    assert found["suffix_mask"].tolist() == [[False] * 4 + [True] * 3 + [False], [False] * 4 + [True] * 4]
    padded = processor.texts("caption en", length=6)
    assert padded["token_ids"].tolist() == [[BOS, *ids("caption en"), NEWLINE, PAD, PAD]]
    assert padded["token_mask"].tolist() == [[True] * 4 + [False] * 2]
    assert not padded["suffix_mask"].any()


@pytest.mark.parametrize("prompt", ["caption en\n", "<image>caption en", "<image><image>caption en\n\n"])
def test_what_others_have_users_write_changes_nothing(processor, prompt):
    """A newline for keras-hub, placeholders for transformers."""
    found, expected = processor.texts([prompt]), processor.texts(["caption en"])
    assert found["token_ids"].tolist() == expected["token_ids"].tolist()


def test_every_place_and_code_is_one_token_and_comes_back(processor):
    begin = processor.tokenizer.vocabulary.vocab_size
    assert processor.tokenizer.ids("".join(EXTRAS)) == list(range(begin, begin + 1_152))
    assert processor.tokenizer.vocab_size == begin + 1_152
    assert len(processor.tokenizer.ids("<loc1024><seg128>")) > 2
    answer = "<loc0012><loc0034><loc0900><loc1023><seg001> cat ; a dog"
    ids = processor.texts("detect cat", answer)
    assert processor.read(ids["token_ids"][0][ids["suffix_mask"][0]]) == answer
    assert processor.read([*processor.tokenizer.ids("one\n two"), EOS, 9, 9]) == "one\n two"


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        ("what is in <image>?", ValueError, "prompt 0 contains <image>, .*pictures are given apart"),
        ("<bos>caption en", ValueError, "contains <bos>, .*written by the processor"),
        (b"caption en", TypeError, "decode bytes"),
        ("a" * 10_001, BadExample, "10001 characters"),
    ],
)
def test_what_cannot_be_a_prompt_is_refused(processor, prompt, error, message):
    with pytest.raises(error, match=message):
        processor.texts([prompt])


def test_unequal_numbers_and_texts_that_do_not_fit_are_refused(processor):
    with pytest.raises(ValueError, match="1 answers to 2 prompts"):
        processor.texts(["caption en", "cat"], ["cat"])
    with pytest.raises(BadExample, match="text 1 has 4 and 3 tokens.*length is 6"):
        processor.texts(["cat", "caption en"], ["", "cat"], length=6)
    with pytest.raises(ValueError, match=r"2 prompts are about 1 examples of pictures.*\[\[first, second\]\]"):
        processor(images=pixels(0), prompts=["cat", "dog"])
    with pytest.raises(ValueError, match="examples have 1 and 2 pictures"):
        processor.images([[pixels(0)], [pixels(0), pixels(1)]])


def test_pictures_are_squashed_by_family_to_minus_one_to_one(processor, vocabulary):
    picture = pixels(3, 30, 50)
    found = {}
    for family, method in RESIZING.items():
        size = FixedSize(height=28, width=28, resize=method)
        images = PaliGemmaProcessor(pixels=size, tokenizer=vocabulary).images(picture)["images"]
        expected = resize(picture, 28, method=method).astype(np.float64) / 127.5 - 1
        np.testing.assert_allclose(images, expected[None], atol=1e-6)
        found[family] = images
    assert np.abs(found["transformers"] - found["big_vision"]).max() > 0.02


def test_several_pictures_an_example(processor):
    one, other = pixels(0), pixels(1)
    batch = processor(images=[[one, other], [other, one]], prompts=["cat", "dog"])
    assert batch["images"].shape == (2, 2, 28, 28, 3)
    np.testing.assert_array_equal(batch["images"][0], batch["images"][1][::-1])
    np.testing.assert_array_equal(batch["images"][0], processor.images([one, other])["images"])
    naflex = PaliGemmaProcessor(pixels=NaFlex(patch_size=4, max_num_patches=20), tokenizer=processor.tokenizer)
    assert naflex(images=[one], prompts="cat")["patches"].shape == (1, 20, 48)


def test_folders_of_transformers_and_our_own_are_read(processor, vocabulary, tmp_path):
    pytest.importorskip("tokenizers", reason="the optional package tokenizers is not installed")
    expected = processor(images=pixels(5), prompts="detect cat", answers="<loc0001> cat")
    processor.save_to_preset(tmp_path / "own")
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(transformers_vocabulary(vocabulary)))
    # Without image_processor_type, as in early files; a picture of another shape than the model's is refused.
    (folder / "preprocessor_config.json").write_text('{"resample": 3, "size": {"height": 28, "width": 28}}')
    config = {"model_type": "paligemma", "vision_config": {"image_size": 28}, "text_config": {"vocab_size": 2_000}}
    (folder / "config.json").write_text(json.dumps(config))
    for found in map(PaliGemmaProcessor.from_preset, (tmp_path / "own", folder)):
        for name, value in found(images=pixels(5), prompts="detect cat", answers="<loc0001> cat").items():
            np.testing.assert_array_equal(value, expected[name])
    with pytest.raises(ValueError, match=r"use PaliGemmaProcessor\.from_preset"):
        Processor.from_preset(folder)
    del config["vision_config"]["image_size"]
    config["text_config"]["vocab_size"] = 1_300
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="table 1,300 rows; pictures are prepared as 28 x 28 pixels, the model .* 224"):
        PaliGemmaProcessor.from_preset(folder)


@pytest.mark.skipif(not os.environ.get("DIPTYCH_THOROUGH"), reason="imports much of it: with DIPTYCH_THOROUGH")
def test_ids_are_those_of_transformers_processor(processor, vocabulary, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    (tmp_path / "tokenizer.json").write_text(json.dumps(transformers_vocabulary(vocabulary)))
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), padding_side="right", **special
    )
    images = transformers.SiglipImageProcessor(
        size={"height": 28, "width": 28}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    images.image_seq_length = 4
    theirs = transformers.PaliGemmaProcessor(images, tokenizer)
    prompts, answers = ["caption en", "detect cat ; a dog"], ["a cat", "<loc0007><loc0008><loc0900><loc0901> cat"]
    pictures = [pixels(0), pixels(1, 40, 20)]
    given = [IMAGE + prompt for prompt in prompts]
    expected = theirs(images=pictures, text=given, suffix=answers, padding="longest", return_tensors="np")
    found = processor(images=pictures, prompts=prompts, answers=answers)
    np.testing.assert_array_equal(found["token_ids"], expected["input_ids"][:, 4:])
    np.testing.assert_array_equal(found["token_mask"], expected["attention_mask"][:, 4:] == 1)
    np.testing.assert_array_equal(found["suffix_mask"], (expected["token_type_ids"][:, 4:] == 1) & found["token_mask"])
    np.testing.assert_allclose(found["images"], expected["pixel_values"].transpose(0, 2, 3, 1), atol=0.02)


def test_ids_of_gemmas_own_vocabulary():
    tokenizer = PaliGemmaTokenizer(open_tokenizer(released_gemma_vocabulary()))
    golden = {
        "caption en": [21209, 659],
        "answer en where is the cow standing?": [13072, 659, 1570, 603, 573, 13910, 9980, 235336],
        "Where is the cow standing?": [6006, 603, 573, 13910, 9980, 235336],
        "detect cat": [39208, 4401],
        "ocr": [120185],
        "\n": [108],
        "\n\n": [109],
        " 2": [235248, 235284],
        "<loc0000><loc1023><seg000><seg127>": [256000, 257023, 257024, 257151],
    }
    assert {text: tokenizer.ids(text) for text in golden} == golden
    processor = PaliGemmaProcessor(pixels=FixedSize(height=28, width=28), tokenizer=tokenizer)
    assert processor.texts("count", "1", length=9)["token_ids"].tolist() == [[2, 1656, 108, 235274, 1, 0, 0, 0, 0]]
