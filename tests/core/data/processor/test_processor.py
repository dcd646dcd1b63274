"""A processor gives what its model takes, refuses what cannot be right, and is the same after it was saved."""

import io
import json
import warnings

import numpy as np
import pytest
from PIL import Image

from diptych.core.data.emoji import TOKENIZER_PATH
from diptych.core.data.examples.naflex import NaFlex
from diptych.core.data.image import decode, resize
from diptych.core.data.pixels import CLIP_MEAN, CLIP_STD, FixedSize, Normalization
from diptych.core.data.processor.processor import Processor
from diptych.core.data.records import BadExample
from diptych.core.data.tokenizers.open import open_tokenizer
from tests.core.data.pictures import encoded, pixels
from tests.core.data.tokenizers.small_vocabularies import clip_tokenizer, sentencepiece_model, some_captions

CLIP = Normalization(mean=CLIP_MEAN, std=CLIP_STD)


def processor(**changes) -> Processor:
    settings = {
        "pixels": FixedSize(height=16, width=24),
        "tokenizer": open_tokenizer(TOKENIZER_PATH),
        "context_length": 12,
    }
    return Processor(**(settings | changes))


def processors() -> dict[str, Processor]:
    return {
        "squash": processor(),
        "big_vision": processor(pixels=FixedSize(height=16, width=16, resize="bilinear")),
        "naflex": processor(pixels=NaFlex(patch_size=4, max_num_patches=20), clean_captions=False),
        "clip": processor(
            pixels=FixedSize(height=16, width=16, shortest_edge=18, resize="bicubic_antialias", normalization=CLIP),
            tokenizer=clip_tokenizer(),
            context_length=77,
        ),
    }


def test_images_and_texts_come_together_or_alone():
    given = processor()
    both = given(images=[pixels(0), pixels(1)], texts=["a cat", "two dogs"])
    assert {name: (array.shape, array.dtype.name) for name, array in both.items()} == {
        "images": ((2, 16, 24, 3), "float32"),
        "token_ids": ((2, 12), "int32"),
    }
    assert given(images=pixels(0)).keys() == {"images"}
    assert given(texts="a cat").keys() == {"token_ids"}
    assert given() == {}
    assert given.images([])["images"].shape == (0, 16, 24, 3)
    assert given.texts([])["token_ids"].shape == (0, 12)
    assert given.input_size == (16, 24)


def test_pixels_are_resized_and_normalised():
    picture = pixels(3, 30, 50)
    expected = resize(picture, (16, 24)).astype(np.float64) / 127.5 - 1
    assert np.abs(processor().images(picture)["images"][0] - expected).max() < 1e-6
    clip = processors()["clip"].images(picture)["images"][0]
    middle = resize(picture, (18, 30), method="bicubic_antialias")[1:17, 7:23]
    assert np.abs(clip - (middle / 255 - CLIP_MEAN) / CLIP_STD).max() < 1e-6


def test_a_tall_picture_is_cropped_as_a_wide_one():
    clip = processors()["clip"]
    wide = pixels(4, 20, 61)
    across = clip.images(wide)["images"][0]
    down = clip.images(np.ascontiguousarray(wide.swapaxes(0, 1)))["images"][0]
    assert np.abs(across - down.swapaxes(0, 1)).max() < 0.05


def test_every_kind_of_item_is_the_same_picture(tmp_path):
    picture = pixels(5, 40, 30)
    data = encoded(picture)
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    items = [
        data,
        bytearray(data),
        memoryview(data),
        path,
        str(path),
        Image.fromarray(picture),
        Image.open(io.BytesIO(data)),
        picture,
    ]
    images = processor().images(items)["images"]
    assert (images == images[0]).all()
    for item in items:
        assert np.array_equal(processor().images(item)["images"][0], images[0])
    assert np.array_equal(processor().images(np.stack([picture, picture]))["images"], images[:2])


def test_pillow_images_follow_the_rules_of_decoding():
    clear = Image.fromarray(np.zeros((8, 8, 4), np.uint8))
    assert (processor().images(clear)["images"] == 1).all()
    grey = Image.fromarray(np.full((8, 8), 65535, np.uint16))
    assert (processor().images(grey)["images"] == 1).all()
    turned = Image.open(io.BytesIO(encoded(pixels(6, 20, 40), "JPEG", exif=_turned())))
    assert np.array_equal(
        processor().images(turned)["images"],
        processor().images(encoded(pixels(6, 20, 40), "JPEG", exif=_turned()))["images"],
    )
    assert decode(encoded(pixels(6, 20, 40), "JPEG", exif=_turned())).shape == (40, 20, 3)


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (pixels(0).astype(np.float32), r"float32.*look like 0\.\.255.*astype\(np\.uint8\)"),
        (pixels(0) / 255, r"float64.*look like 0\.\.1: \(array \* 255\)"),
        (pixels(0).astype(np.float16) / 127.5 - 1, r"float16.*look like -1\.\.1"),
        (pixels(0).astype(np.int64), "int64, expected uint8"),
        (np.zeros((3, 8, 8), np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((8, 8), np.uint8), r"\[8, 8\], expected \[height, width, 3\]"),
        (np.zeros((8, 8, 4), np.uint8), r"\[8, 8, 4\]"),
        (np.zeros((0, 8, 3), np.uint8), r"\[0, 8, 3\]"),
        ([None], "image 0 is a NoneType"),
        ([pixels(0), 3], "image 1 is a int"),
        ([[1, 2]], "image 0 is a list"),
    ],
)
def test_what_is_no_picture_is_refused_with_advice(item, message):
    with pytest.raises((TypeError, ValueError), match=message):
        processor().images(item)


def test_pictures_that_cannot_be_read_have_a_reason(tmp_path):
    for item, reason in (
        (b"", "image_empty"),
        (b"nonsense", "image_format"),
        (tmp_path / "none.png", "image_missing"),
        (tmp_path, "image_unreadable"),
    ):
        with pytest.raises(BadExample) as caught:
            processor().images([item])
        assert caught.value.reason == reason
    (tmp_path / "page.png").write_bytes(b"nonsense")
    with pytest.raises(BadExample, match=r"image_format: .*page\.png: is none that is known"):
        processor().images([tmp_path / "page.png"])


def test_texts_are_cleaned_as_in_training_unless_told_otherwise():
    given = processor()
    messy = "A\u200b  cat\n"
    assert np.array_equal(given.texts(messy)["token_ids"][0], given.tokenizer.encode("a cat", 12))
    with pytest.raises(BadExample, match="caption_empty"):
        given.texts("  ")
    plain = processor(clean_captions=False)
    assert np.array_equal(plain.texts(messy)["token_ids"][0], plain.tokenizer.encode(messy, 12))
    assert plain.texts("")["token_ids"][0].tolist() == [plain.tokenizer.eos_id] + [plain.tokenizer.pad_id] * 11
    assert plain.texts("\ud800 cat")["token_ids"].shape == (1, 12)
    for either in (given, plain):
        with pytest.raises(BadExample, match="caption_too_long"):
            either.texts("x" * 10_001)
        with pytest.raises(TypeError, match="text 1 is a bytes"):
            either.texts(["a", b"b"])


@pytest.mark.parametrize("name", processors())
def test_a_saved_processor_is_the_same(name, tmp_path):
    original = processors()[name]
    original.save_to_preset(tmp_path / "model")
    again = Processor.from_preset(tmp_path / "model")
    assert again.fingerprint() == original.fingerprint()
    items, texts = [pixels(0, 40, 30), pixels(1, 9, 80)], list(some_captions()[:50])
    first, second = original(images=items, texts=texts), again(images=items, texts=texts)
    assert all(np.array_equal(first[key], second[key]) for key in first)
    assert again.context_length == original.context_length
    assert again.input_size == original.input_size
    # A folder's file of weights stands for the folder.
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")
    assert Processor.from_preset(tmp_path / "model" / "model.safetensors").fingerprint() == original.fingerprint()


def test_fingerprints_tell_everything_apart():
    tokenizer = open_tokenizer(TOKENIZER_PATH)
    padded = open_tokenizer(TOKENIZER_PATH, pad_id=1)
    made = [
        *processors().values(),
        processor(context_length=13),
        processor(clean_captions=False),
        processor(tokenizer=padded),
        processor(pixels=FixedSize(height=24, width=16)),
        processor(pixels=FixedSize(height=16, width=24, resize="bilinear")),
        processor(pixels=FixedSize(height=16, width=24, normalization=CLIP)),
        processor(pixels=NaFlex()),
    ]
    assert len({one.fingerprint() for one in made}) == len(made)
    assert processor(tokenizer=tokenizer).fingerprint() == processor().fingerprint()


def test_a_shipped_model_is_found_by_its_name():
    shipped = Processor.from_preset("emoji_36_languages")
    assert shipped.fingerprint() == processor(pixels=FixedSize(height=48, width=48)).fingerprint()
    with pytest.raises(FileNotFoundError, match=r"emoji_37_languages.*Did you mean emoji_36_languages"):
        Processor.from_preset("emoji_37_languages")


def test_a_checkpoint_of_the_hub_is_fetched_by_its_files(monkeypatch, tmp_path):
    processor().save_to_preset(tmp_path)
    asked = []

    def folder(preset, *, revision, patterns):
        asked.append((preset, revision, patterns))
        return tmp_path

    monkeypatch.setattr("diptych.core.data.processor.processor.preset_folder", folder)
    assert Processor.from_preset("hf://someone/model", revision="v1").fingerprint() == processor().fingerprint()
    assert asked == [("hf://someone/model", "v1", ("*.json", "*.model", "*.txt", "*.txt.gz"))]


def test_wrong_settings_are_refused(tmp_path):
    with pytest.raises(ValueError, match="context_length"):
        processor(context_length=1)
    with pytest.raises(ValueError, match="diptych, transformers"):
        processor().save_to_preset(tmp_path, format="onnx")
    with pytest.raises(ValueError, match="shortest_edge"):
        FixedSize(height=16, width=24, shortest_edge=20)
    with pytest.raises(ValueError, match="std"):
        Normalization(std=(1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="three"):
        Normalization(mean=(1.0, 0.0))


class TestChecks:
    """A model's inputs are held against what the processor would have made."""

    def test_what_the_processor_makes_passes(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for given in processors().values():
                given.check(given(images=[pixels(0), pixels(1)], texts=["a cat", "x " * 200]))

    def test_unpadded_and_short_texts_are_refused(self):
        given = processor(context_length=64)
        ids = given.texts(["a cat", "a small dog"])["token_ids"]
        for wrong in (ids[:, :60], np.pad(ids, ((0, 0), (0, 1))), ids[0], ids.astype(np.float32)):
            with pytest.raises(ValueError, match=r"token_ids.*expected.*Processor\.texts makes it.*up to 64"):
                given.check_token_ids(wrong)
        with pytest.raises(ValueError, match="between 3 and 4 ids a text, expected 64"):
            given.check_token_ids([[5, 6, 1], [5, 6, 7, 1]])
        assert given.check_token_ids(ids.tolist()).shape == (2, 64)

    def test_padding_on_the_left_is_refused(self):
        given = processor()
        ids = given.texts("a cat")["token_ids"]
        with pytest.raises(ValueError, match="left in row 0"):
            given.check_token_ids(np.roll(ids, 1 + np.count_nonzero(ids == 0) - 1, axis=1))

    def test_another_vocabulary_is_refused_and_a_missing_end_is_named(self):
        given = processor()
        ids = given.texts(["a cat", "a dog"])["token_ids"]
        with pytest.raises(ValueError, match="another model's vocabulary"):
            given.check_token_ids(ids + 9000)
        with pytest.raises(ValueError, match="another model's vocabulary"):
            given.check_token_ids(ids - 1)
        ids[1][ids[1] == given.tokenizer.eos_id] = 7
        with pytest.warns(UserWarning, match=r"no end-of-text \(1\) in 1 of 2 rows, first in row 1"):
            given.check_token_ids(ids)

    def test_images_of_another_range_are_refused(self):
        given = processor()
        good = given.images([pixels(0), pixels(1)])["images"]
        grey_levels = (good + 1) * 127.5
        with pytest.raises(ValueError, match=r"look like 0\.\.255"):
            given.check_images(grey_levels)
        with pytest.raises(ValueError, match=r"uint8, expected float32 in -1 to 1.*Processor\.images"):
            given.check_images(grey_levels.astype(np.uint8))
        with pytest.raises(ValueError, match="no finite numbers"):
            given.check_images(np.where(good > 0, np.nan, good))
        with pytest.raises(ValueError, match="int32"):
            given.check_images(good.astype(np.int32))
        dark = np.clip((good + 1) / 2, 0.01, 1)
        dark[0, 0, 0] = 0.02
        with pytest.warns(UserWarning, match=r"are they in 0\.\.1"):
            given.check_images(dark)

    def test_images_of_another_shape_are_refused(self):
        given = processor()
        good = given.images(pixels(0))["images"]
        with pytest.raises(ValueError, match=r"transpose\(0, 2, 3, 1\)"):
            given.check_images(good.transpose(0, 3, 1, 2))
        for wrong in (good[0], good[:, :-1], good[..., :1]):
            with pytest.raises(ValueError, match=r"expected \[n, 16, 24, 3\]"):
                given.check_images(wrong)

    def test_clips_range_is_its_own(self):
        clip = processors()["clip"]
        low, high = clip.pixels.normalization.range
        assert low == pytest.approx(-1.7923, abs=1e-3)
        assert high == pytest.approx(2.1459, abs=1e-3)
        clip.check_images(np.full((1, 16, 16, 3), 2.1, np.float32))
        with pytest.raises(ValueError, match="2.5"):
            clip.check_images(np.full((1, 16, 16, 3), 2.5, np.float32))

    def test_grids_have_as_many_patches_as_there_are(self):
        given = processors()["naflex"]
        good = given.images([pixels(0), pixels(1)])
        for wrong in ([[4, 6], [5, 4]], [[0, 6], [4, 5]], [[4.0, 5.0], [4.0, 5.0]], [[4, 5]]):
            with pytest.raises(ValueError, match="spatial_shapes"):
                given.check(good | {"spatial_shapes": np.array(wrong)})
        with pytest.raises(ValueError, match=r"patches have the shape \[2, 20, 47\]"):
            given.check(good | {"patches": good["patches"][..., 1:]})
        with pytest.raises(ValueError, match=r"look like 0\.\.255"):
            given.check(good | {"patches": (good["patches"] + 1) * 127.5})
        with pytest.raises(ValueError, match="expected patches"):
            given.check({"images": np.zeros((1, 8, 8, 3), np.float32)})
        with pytest.raises(ValueError, match="expected images"):
            processor().check(good)


def test_the_processor_of_another_family_reads_its_own_vocabulary(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model("gemma"))
    gemma = open_tokenizer(tmp_path / "tokenizer.model")
    processor(tokenizer=gemma, context_length=64).save_to_preset(tmp_path)
    settings = json.loads((tmp_path / "processor.json").read_text())
    assert settings["text"] == {
        "tokenizer": "tokenizer.model",
        "context_length": 64,
        "pad_id": 0,
        "eos_id": 1,
        "bos_id": None,
        "lower_case": True,
        "strip_punctuation": False,
        "clean_captions": True,
    }
