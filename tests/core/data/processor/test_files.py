"""Settings of other projects' checkpoints are read as they mean them, and refused by name where they mean nothing."""

import json
import random

import pytest

from diptych.core.data.examples.naflex import NaFlex
from diptych.core.data.pixels import CLIP_MEAN, CLIP_STD, FixedSize, Normalization
from diptych.core.data.processor.processor import Processor
from diptych.core.data.records import BadExample
from diptych.core.data.tokenizers.clip_bpe import ClipTokenizer
from diptych.core.data.tokenizers.export import tokenizer_definition
from diptych.core.data.tokenizers.open import open_tokenizer
from diptych.core.data.tokenizers.vocabularies import open_vocabulary
from tests.core.data.tokenizers.small_vocabularies import clip_tokenizer, lengthened, sentencepiece_model

CLIP = Normalization(mean=CLIP_MEAN, std=CLIP_STD)
HALF = [0.5, 0.5, 0.5]
SIGLIP_V4 = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": HALF,
    "image_processor_type": "SiglipImageProcessor",
    "image_std": HALF,
    "processor_class": "SiglipProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 384, "width": 384},
}
CLIP_V4 = {  # the first release's: bare numbers, and no rescaling named
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": list(CLIP_MEAN),
    "image_std": list(CLIP_STD),
    "resample": 3,
    "size": 224,
}
NAFLEX_V5 = {
    "processor_class": "Siglip2Processor",
    "image_processor": {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": HALF,
        "image_processor_type": "Siglip2ImageProcessor",
        "image_std": HALF,
        "max_num_patches": 576,
        "patch_size": 14,
        "resample": 2,
        "rescale_factor": 0.00392156862745098,
    },
}


def open_bytes(model: bytes, folder):
    (folder / "tokenizer.model").write_bytes(model)
    return open_tokenizer(folder / "tokenizer.model")


def squashed(side: int, method: str = "bicubic_antialias") -> FixedSize:
    return FixedSize(height=side, width=side, resize=method)


def cropped(side: int) -> FixedSize:
    return FixedSize(height=side, width=side, shortest_edge=side, resize="bicubic_antialias", normalization=CLIP)


def folder_with(tmp_path, vocabulary: bool = True, **files):
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    if vocabulary:
        (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model("gemma"))
    return tmp_path


READ = {
    "SigLIP": ({"preprocessor_config": SIGLIP_V4}, squashed(384)),
    "SigLIP 2": (
        {"preprocessor_config": SIGLIP_V4 | {"image_processor_type": "SiglipImageProcessorFast", "resample": 2}},
        squashed(384, "bilinear_antialias"),
    ),
    "SigLIP, a bare size": ({"preprocessor_config": SIGLIP_V4 | {"size": 256}}, squashed(256)),
    "SigLIP, sparse": ({"preprocessor_config": {"image_processor_type": "SiglipImageProcessor"}}, squashed(224)),
    "SigLIP, by its model": ({"preprocessor_config": {}, "config": {"model_type": "siglip"}}, squashed(224)),
    "NaFlex": ({"processor_config": NAFLEX_V5}, NaFlex(patch_size=14, max_num_patches=576)),
    "NaFlex, fast, sparse": ({"preprocessor_config": {"image_processor_type": "Siglip2ImageProcessorFast"}}, NaFlex()),
    "NaFlex, both files": ({"processor_config": NAFLEX_V5, "preprocessor_config": SIGLIP_V4},
        NaFlex(patch_size=14, max_num_patches=576)),
    "a class alone, as version 4 wrote": (
        {"processor_config": {"processor_class": "SiglipProcessor"}, "preprocessor_config": SIGLIP_V4},
        squashed(384),
    ),
    "CLIP": ({"preprocessor_config": CLIP_V4}, cropped(224)),
    "CLIP, sparse": ({"preprocessor_config": {"image_processor_type": "CLIPImageProcessor"}}, cropped(224)),
    "CLIP, objects": (
        {
            "preprocessor_config": {
                "image_processor_type": "CLIPImageProcessorFast",
                "size": {"shortest_edge": 256},
                "crop_size": {"height": 224, "width": 192},
            }
        },
        FixedSize(height=224, width=192, shortest_edge=256, resize="bicubic_antialias", normalization=CLIP),
    ),
    "CLIP, squashed": (
        {
            "preprocessor_config": {
                "image_processor_type": "CLIPImageProcessor",
                "size": {"height": 336, "width": 336},
                "do_center_crop": False,
                "image_mean": 0.5,
                "image_std": 0.5,
            }
        },
        squashed(336),
    ),
    "neither rescaled nor normalised": (
        {"preprocessor_config": SIGLIP_V4 | {"do_rescale": False, "do_normalize": False}},
        FixedSize(
            height=384,
            width=384,
            resize="bicubic_antialias",
            normalization=Normalization(scale=1, mean=(0, 0, 0), std=(1, 1, 1)),
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_transformers_settings_are_read(name, tmp_path):
    files, expected = READ[name]
    found = Processor.from_preset(folder_with(tmp_path, **files))
    assert found.pixels == expected
    assert not found.clean_captions


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "siglip"}, 64),
        ({"model_type": "siglip", "text_config": {"max_position_embeddings": 16}}, 16),
        ({"model_type": "siglip2", "text_config": {"model_type": "siglip2_text_model"}}, 64),
        ({"model_type": "clip", "text_config": None}, 77),
    ],
)
def test_the_context_length_is_the_text_towers(config, expected, tmp_path):
    folder = folder_with(tmp_path, preprocessor_config=SIGLIP_V4, config=config)
    assert Processor.from_preset(folder).context_length == expected


@pytest.mark.parametrize(("limit", "expected"), [(16, 16), (1e30, 64), (None, 64)])
def test_without_a_configuration_the_tokenizers_limit_counts(limit, expected, tmp_path):
    folder = folder_with(tmp_path, preprocessor_config=SIGLIP_V4, tokenizer_config={"model_max_length": limit})
    assert Processor.from_preset(folder).context_length == expected


def test_siglips_english_checkpoints_strip_punctuation_and_pad_with_end_of_text(tmp_path):
    folder = folder_with(tmp_path, vocabulary=False, preprocessor_config=SIGLIP_V4, config={"model_type": "siglip"})
    (folder / "spiece.model").write_bytes(lengthened(sentencepiece_model("t5"), 32_000))
    found = Processor.from_preset(folder)
    ids = found.texts(["The fox, it's!", "the fox its"])["token_ids"]
    assert (ids[0] == ids[1]).all()
    assert ids[0, -1] == found.tokenizer.eos_id == 1


def test_open_clips_folders_are_read(tmp_path):
    model = {"embed_dim": 64, "vision_cfg": {"image_size": 32}, "text_cfg": {"context_length": 77, "vocab_size": 1372}}
    given = {"mean": list(CLIP_MEAN), "std": list(CLIP_STD), "interpolation": "bicubic", "resize_mode": "shortest"}
    folder = folder_with(tmp_path, vocabulary=False, open_clip_config={"model_cfg": model, "preprocess_cfg": given})
    (folder / "tokenizer.json").write_bytes(clip_tokenizer().data)
    found = Processor.from_preset(folder)
    assert found.pixels == cropped(32)
    assert isinstance(found.tokenizer, ClipTokenizer)
    assert (found.tokenizer.pad_id, found.context_length) == (0, 77)


def test_open_clips_siglip_is_squashed(tmp_path):
    model = {
        "vision_cfg": {"image_size": 224},
        "text_cfg": {"context_length": 64, "hf_tokenizer_name": "timm/ViT-B-16-SigLIP2"},
    }
    given = {"mean": HALF, "std": HALF, "interpolation": "bicubic", "resize_mode": "squash"}
    folder = folder_with(tmp_path, open_clip_config={"model_cfg": model, "preprocess_cfg": given})
    found = Processor.from_preset(folder)
    assert found.pixels == squashed(224)
    assert (found.context_length, found.tokenizer.pad_id, found.tokenizer.eos_id) == (64, 0, 1)


OWN_TEXT = {"width": 8, "depth": 1, "mlp_dim": 8, "num_heads": 1, "vocab_size": 1500, "context_length": 64}
OWN_VISION = {"width": 8, "depth": 1, "mlp_dim": 8, "num_heads": 1, "patch_size": 16, "image_size": 224}
HUB_TEXT = {"vocab_size": 1500}


def own_model(*, vision=OWN_VISION, **text) -> dict:
    return {"model_type": "diptych_siglip", "config": {"text": OWN_TEXT | text, "vision": vision}}


def hub_model(model_type="siglip", **text) -> dict:
    return {"model_type": model_type, "text_config": HUB_TEXT | text, "vision_config": {}}


TOGETHER = {
    "ours": (own_model(), None),
    "ours, a table with rows to spare": (own_model(vocab_size=2000), None),
    "ours, a smaller table": (own_model(vocab_size=1499), "vocabulary has 1,500 tokens, the model's table 1,499 rows"),
    "ours, longer texts": (own_model(context_length=32), "prepared as 64 ids, the model takes 32"),
    "ours, other images": (
        own_model(vision=OWN_VISION | {"image_size": 256}),
        "prepared as 224 x 224 pixels, the model takes 256 x 256",
    ),
    "ours, NaFlex": (own_model(vision=OWN_VISION | {"position_grid": 16}), "one of processor and model is for NaFlex"),
    "the hub's": (hub_model(), None),
    "the hub's, a smaller table": (hub_model(vocab_size=1000), "the model's table 1,000 rows"),
    "the hub's, longer texts": (hub_model(max_position_embeddings=16), "prepared as 64 ids, the model takes 16"),
    "the hub's, NaFlex": (hub_model("siglip2"), "one of processor and model is for NaFlex"),
    "an image tower alone": ({"model_type": "siglip", "vision_config": {}}, None),
    "another kind of model": ({"model_type": "bert", "vocab_size": 3}, None),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_files_of_one_folder_are_held_against_each_other(name, tmp_path):
    config, message = TOGETHER[name]
    vocabulary = open_bytes(sentencepiece_model("gemma"), tmp_path)
    Processor(pixels=squashed(224), tokenizer=vocabulary, context_length=64).save_to_preset(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    if message is None:
        found = Processor.from_preset(tmp_path)
        assert found.texts("a red fox")["token_ids"].max() < found.table_size <= 1500
        return
    with pytest.raises(ValueError, match=f"{tmp_path}: processor and model do not belong together: .*{message}"):
        Processor.from_preset(tmp_path)


def test_of_a_larger_t5_vocabulary_what_has_a_row_is_used_and_the_rest_refused(tmp_path):
    """As in the released multilingual SigLIP, whose table lacks mT5's sentinels."""
    config = {"model_type": "siglip", "text_config": {"vocab_size": 32_000}, "vision_config": {"image_size": 384}}
    folder = folder_with(tmp_path, vocabulary=False, preprocessor_config=SIGLIP_V4, config=config)
    (folder / "spiece.model").write_bytes(lengthened(sentencepiece_model("t5"), 32_100))
    found = Processor.from_preset(folder)
    ids = found.texts("a red fox")["token_ids"]
    found.check_token_ids(ids)
    ids[0, 0] = 32_000
    with pytest.raises(ValueError, match="lie between 1 and 32000, expected 0 to 31999"):
        found.check_token_ids(ids)
    found.tokenizer.encode = lambda text, length: ids[0]
    with pytest.raises(BadExample, match="caption_beyond_table: token id 32000; the model has rows for 32,000"):
        found.texts("a sentinel")


def test_a_tokenizer_json_that_was_added_to_counts_and_is_named(tmp_path):
    pytest.importorskip("tokenizers", reason="the optional package tokenizers is not installed")
    plain = open_bytes(sentencepiece_model("gemma"), tmp_path)
    definition = tokenizer_definition(plain, 64)
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    assert open_vocabulary(tmp_path).fingerprint() == plain.fingerprint(), "the same tokens: the model file is read"
    token = {"content": "<fox>", "id": plain.vocab_size, "special": False, "normalized": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    definition["added_tokens"].append(token | flags)
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    with pytest.warns(UserWarning, match=r"tokenizer.json has tokens that the tokenizer.model .* such as '<fox>'"):
        enlarged = open_vocabulary(tmp_path)
    assert enlarged.vocab_size == plain.vocab_size + 1
    assert plain.vocab_size in enlarged.encode("a <fox>", 16)


REFUSED = {
    "broken JSON": ({"preprocessor_config": '{"size": '}, "not JSON"),
    "a list": ({"preprocessor_config": "[]"}, "expected an object"),
    "deep": ({"preprocessor_config": "[" * 200_000}, "not JSON"),
    "huge": ({"preprocessor_config": " " * (1 << 20) + "{}"}, "1,048,578 bytes, expected at most 1,048,576"),
    "broken model settings": ({"preprocessor_config": SIGLIP_V4, "config": "{"}, "config.json is not JSON"),
    "another class": ({"preprocessor_config": {"image_processor_type": "ViTImageProcessor"}}, "one of "
    "SiglipImageProcessor"),
    "no class at all": ({"preprocessor_config": {}}, "image_processor_type is null"),
    "a class that is a number": ({"preprocessor_config": {"image_processor_type": 3}}, "expected a text"),
    "nearest": ({"preprocessor_config": SIGLIP_V4 | {"resample": 0}}, r"resample is 0, expected 2 \(bilinear\)"),
    "a resample in words": ({"preprocessor_config": SIGLIP_V4 | {"resample": "bicubic"}}, "a whole number"),
    "a true resample": ({"preprocessor_config": SIGLIP_V4 | {"resample": True}}, "a whole number"),
    "no resizing": ({"preprocessor_config": SIGLIP_V4 | {"do_resize": False}}, "do_resize is false"),
    "two means": ({"preprocessor_config": SIGLIP_V4 | {"image_mean": [0.5, 0.5]}}, "three numbers"),
    "means in words": ({"preprocessor_config": SIGLIP_V4 | {"image_mean": ["0.5"] * 3}}, "three numbers"),
    "not a number": ({"preprocessor_config": json.dumps(SIGLIP_V4 | {"image_mean": float("nan")})}, "three numbers"),
    "a zero std": ({"preprocessor_config": SIGLIP_V4 | {"image_std": 0}}, "above 0"),
    "an endless factor": ({"preprocessor_config": json.dumps(SIGLIP_V4 | {"rescale_factor": float("inf")})}, "a "
    "number"),
    "a gigantic size": ({"preprocessor_config": SIGLIP_V4 | {"size": 10**9}}, "from 1 to 4096"),
    "a negative size": ({"preprocessor_config": SIGLIP_V4 | {"size": {"height": -1, "width": 4}}}, "from 1 to 4096"),
    "half a size": ({"preprocessor_config": SIGLIP_V4 | {"size": {"height": 224}}}, "height and width"),
    "a size that varies": ({"preprocessor_config": CLIP_V4 | {"do_center_crop": False}}, "images of one size"),
    "a crop beyond the edge": ({"preprocessor_config": CLIP_V4 | {"crop_size": 256}}, "no more than the shortest edge"),
    "a crop after squashing": (
        {"preprocessor_config": CLIP_V4 | {"size": {"height": 256, "width": 256}}},
        "nothing is cropped after squashing",
    ),
    "endless patches": (
        {"preprocessor_config": {"image_processor_type": "Siglip2ImageProcessor", "max_num_patches": 10**8}},
        "from 1 to 65536",
    ),
    "an image processor that is a list": ({"processor_config": {"image_processor": []}}, "expected an object"),
    "another size than the model's": (
        {"preprocessor_config": SIGLIP_V4, "config": {"model_type": "siglip", "vision_config": {"image_size": 224}}},
        "prepared as 384 x 384 pixels, the model takes 224 x 224",
    ),
    "an endless text": (
        {"preprocessor_config": SIGLIP_V4, "config": {"text_config": {"max_position_embeddings": 10**7}}},
        "from 1 to 65536",
    ),
    "nothing": ({}, "says nothing of preprocessing.*preprocessor_config.json"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_settings_are_refused_by_file_field_and_value(name, tmp_path):
    files, message = REFUSED[name]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Processor.from_preset(folder_with(tmp_path, **files))


def _own(tmp_path) -> dict:
    folder_with(tmp_path, preprocessor_config=SIGLIP_V4)
    Processor.from_preset(tmp_path).save_to_preset(tmp_path)
    return json.loads((tmp_path / "processor.json").read_text())


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("image", {"kind": "mosaic"}, "fixed_size or naflex"),
        ("image", {"kind": None}, "no field 'kind'"),
        ("image", {"resize": "nearest"}, "one of bilinear, "),
        ("image", {"height": 10**6}, "from 1 to 4096"),
        ("image", {"shortest_edge": 3}, "shortest_edge"),
        ("image", {"normalization": {"mean": "grey"}}, "three numbers"),
        ("text", {"tokenizer": "../tokenizer.model"}, "a file in the same folder"),
        ("text", {"tokenizer": "elsewhere.model"}, "no tokenizer file"),
        ("text", {"eos_id": 5}, "eos_id is 5, expected 1, as tokenizer.model has it"),
        ("text", {"pad_id": -1}, "an id of the vocabulary"),
        ("text", {"pad_id": 10**6}, "an id of the vocabulary"),
        ("text", {"context_length": 1}, "2 or more"),
        ("text", {"lower_case": "yes"}, "true or false"),
    ],
)
def test_wrong_settings_of_our_own_are_refused(part, change, message, tmp_path):
    settings = _own(tmp_path)
    settings[part] |= change
    (tmp_path / "processor.json").write_text(json.dumps(settings))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Processor.from_preset(tmp_path)


def test_any_damage_gives_a_processor_or_a_plain_refusal(tmp_path):
    """Values swapped for others, fields removed, bytes changed: never another exception."""
    rng = random.Random(0)
    folder_with(tmp_path)
    values = [None, True, -1, 0, 3, 0.5, 1e300, "x", [], {}, [1, 2, 3], {"height": 2}, {"shortest_edge": "x"}]
    outcomes = {"read": 0, "refused": 0}
    for _ in range(400):
        fields = dict(rng.choice([SIGLIP_V4, CLIP_V4, NAFLEX_V5["image_processor"]]))
        for _ in range(rng.randrange(3)):
            fields[rng.choice([*fields, "crop_size", "do_center_crop"])] = rng.choice(values)
        text = json.dumps(fields)
        if rng.random() < 0.2:
            place = rng.randrange(len(text))
            text = text[:place] + rng.choice('"{}[],:x\0') + text[place + 1 :]
        (tmp_path / "preprocessor_config.json").write_text(text)
        try:
            Processor.from_preset(tmp_path)
            outcomes["read"] += 1
        except ValueError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 80, outcomes
