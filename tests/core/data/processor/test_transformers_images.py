"""Pixels and ids are those of transformers' own processors, which also read what we write."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from diptych.core.data.emoji import TOKENIZER_PATH
from diptych.core.data.emoji.source import EmojiSource
from diptych.core.data.examples.naflex import NaFlex
from diptych.core.data.pixels import CLIP_MEAN, CLIP_STD, FixedSize, Normalization
from diptych.core.data.processor.processor import Processor
from diptych.core.data.tokenizers.base import Tokenizer
from diptych.core.data.tokenizers.open import open_tokenizer
from diptych.core.data.tokenizers.vocabularies import open_vocabulary
from tests.core.data.pictures import pixels
from tests.core.data.tokenizers.small_vocabularies import (
    FOX,
    clip_tokenizer,
    lengthened,
    sentencepiece_model,
    some_captions,
)

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("tokenizers", reason="the optional package tokenizers is not installed")

GREY_LEVEL = 1 / 255
CLIP = Normalization(mean=CLIP_MEAN, std=CLIP_STD)
TEXTS = (*some_captions(), "A Cat.", "", " a  cat ", FOX, "word " * 99, "x" * 300)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Drawings and flags with their own aspects, and smooth pictures of extreme ones."""
    source = EmojiSource("held_out", designers=["noto", "fluent_3d", "flag_icons"])
    files = [source.read(reference) for record in list(source)[::12] for reference in record.images]
    sizes = [(480, 640), (33, 77), (100, 1000), (224, 224), (3, 500), (225, 223)]
    noise = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    found = [Image.open(io.BytesIO(file)) for file in files]
    found += [Image.fromarray(pixels(seed, *size)) for seed, size in enumerate(sizes)] + [Image.fromarray(noise)]
    assert len({picture.size for picture in found}) > 5
    assert len(found) > 20
    return found


def tokenizer_of(family: str, tmp_path) -> Tokenizer:
    if family == "emoji":
        return open_tokenizer(TOKENIZER_PATH)
    if family == "clip":
        return clip_tokenizer()
    model = sentencepiece_model(family)
    (tmp_path / "tokenizer.model").write_bytes(lengthened(model, 32_000) if family == "t5" else model)
    return open_vocabulary(tmp_path)


KINDS = {
    "siglip": ("siglip", "t5", FixedSize(height=224, width=224, resize="bicubic_antialias"), 64),
    "siglip2": ("siglip", "gemma", FixedSize(height=96, width=96), 64),
    "siglip2_naflex": ("siglip2", "gemma", NaFlex(patch_size=14, max_num_patches=100), 64),
    "emoji": ("siglip", "emoji", FixedSize(height=48, width=48), 12),
    "clip": (
        "clip",
        "clip",
        FixedSize(height=64, width=64, shortest_edge=64, resize="bicubic_antialias", normalization=CLIP),
        77,
    ),
}


@pytest.fixture(scope="module", params=KINDS)
def written(request, tmp_path_factory):
    """A processor, its folder as transformers has it, and what transformers makes of that folder."""
    model_type, family, preparation, context_length = KINDS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    processor = Processor(
        pixels=preparation,
        tokenizer=tokenizer_of(family, folder),
        context_length=context_length,
        clean_captions=False,
    )
    folder = folder / "model"
    processor.save_to_preset(folder, format="transformers")
    config = {"model_type": model_type, "text_config": {"max_position_embeddings": context_length}}
    (folder / "config.json").write_text(json.dumps(config))
    return processor, folder, transformers.AutoProcessor.from_pretrained(folder)


def test_transformers_makes_the_same_pixels_of_our_files(written, pictures):
    processor, _, theirs = written
    expected = theirs.image_processor(pictures, return_tensors="np")
    found = processor.images(pictures)
    level = GREY_LEVEL / min(processor.pixels.normalization.std)
    if "patches" in found:
        assert np.array_equal(found["spatial_shapes"], expected["spatial_shapes"])
        assert np.abs(found["patches"] - expected["pixel_values"]).max() <= level
        masked = np.arange(100) >= found["spatial_shapes"].prod(axis=1, keepdims=True)
        assert np.array_equal(masked, expected["pixel_attention_mask"] == 0)
        return
    images = expected["pixel_values"].transpose(0, 2, 3, 1)
    assert np.abs(found["images"] - images).max() <= level
    # Another filter, or another place to cut, is further away than that.
    assert np.abs(found["images"][:, 1:] - images[:, :-1]).max() > 10 * level


def test_transformers_makes_the_same_ids_of_our_files(written):
    processor, folder, theirs = written
    for tokenizer in (theirs.tokenizer, transformers.AutoTokenizer.from_pretrained(folder)):
        assert (tokenizer.padding_side, tokenizer.model_max_length) == ("right", processor.context_length)
        assert tokenizer.pad_token_id == processor.tokenizer.pad_id
        assert tokenizer.eos_token_id == processor.tokenizer.eos_id
        expected = tokenizer(list(TEXTS), padding="max_length", truncation=True)["input_ids"]
        assert processor.texts(TEXTS)["token_ids"].tolist() == expected


def test_every_field_is_spelt_out(written):
    processor, folder, _ = written
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    expected = {
        "padding_side": "right",
        "add_eos_token": True,
        "add_bos_token": processor.tokenizer.bos_id is not None,
        "model_max_length": processor.context_length,
        "do_lower_case": True,
        "pad_token_id": processor.tokenizer.pad_id,
        "eos_token_id": processor.tokenizer.eos_id,
    }
    assert {name: settings[name] for name in expected} == expected
    images = json.loads((folder / "preprocessor_config.json").read_text())
    steps = ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb")
    assert all(images[name] is True for name in steps)
    assert {"resample", "rescale_factor", "image_mean", "image_std", "processor_class"} < images.keys()


def test_we_read_what_we_wrote(written):
    processor, folder, _ = written
    again = Processor.from_preset(folder)
    assert again.pixels == processor.pixels
    assert again.context_length == processor.context_length
    assert (again.texts(TEXTS)["token_ids"] == processor.texts(TEXTS)["token_ids"]).all()


def test_we_read_what_transformers_writes(written, tmp_path):
    """Version 5 puts the image processor's fields into processor_config.json."""
    processor, folder, theirs = written
    theirs.save_pretrained(tmp_path)
    assert (tmp_path / "processor_config.json").is_file()
    assert not (tmp_path / "preprocessor_config.json").exists()
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    again = Processor.from_preset(tmp_path)
    assert again.pixels == processor.pixels
    assert (again.texts(TEXTS)["token_ids"] == processor.texts(TEXTS)["token_ids"]).all()


@pytest.mark.parametrize("name", ["SiglipImageProcessor", "Siglip2ImageProcessor", "CLIPImageProcessor"])
def test_sparse_files_take_the_classes_defaults(name, tmp_path, pictures):
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model("gemma"))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": name}))
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    processor = Processor.from_preset(tmp_path)
    expected = theirs(pictures[-8:], return_tensors="np")["pixel_values"]
    found = next(iter(processor.images(pictures[-8:]).values()))
    expected = expected if expected.ndim == 3 else expected.transpose(0, 2, 3, 1)
    assert np.abs(found - expected).max() <= GREY_LEVEL / min(processor.pixels.normalization.std)


def test_naflex_with_a_vocabulary_unlike_gemmas_is_warned_of(tmp_path):
    """transformers 5 rebuilds Gemma's tokenizer for every NaFlex checkpoint; the plain class reads the file as it
    is.
    """
    processor = Processor(
        pixels=NaFlex(), tokenizer=tokenizer_of("emoji", tmp_path), context_length=12, clean_captions=False
    )
    with pytest.warns(UserWarning, match=r"PreTrainedTokenizerFast\.from_pretrained"):
        processor.save_to_preset(tmp_path, format="transformers")
    (tmp_path / "config.json").write_text('{"model_type": "siglip2"}')
    texts = list(some_captions()[:50])
    expected = processor.texts(texts)["token_ids"].tolist()
    rebuilt = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert rebuilt(texts, padding="max_length", truncation=True, max_length=12)["input_ids"] != expected
    plain = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert plain(texts, padding="max_length", truncation=True, max_length=12)["input_ids"] == expected


@pytest.mark.parametrize("method", ["bilinear", "bilinear_antialias_float"])
def test_big_visions_ways_of_resizing_are_not_transformers(method, tmp_path):
    processor = Processor(
        pixels=FixedSize(height=48, width=48, resize=method),
        tokenizer=tokenizer_of("emoji", tmp_path),
        context_length=12,
    )
    with pytest.raises(ValueError, match=f"{method}.*bilinear_antialias"):
        processor.save_to_preset(tmp_path / "model", format="transformers")
