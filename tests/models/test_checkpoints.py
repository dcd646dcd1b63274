"""Checkpoints of every layout: their own libraries' numbers, the way back bit for bit, refusals of misfits."""

import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.files.json_objects import read_json, write_json
from diptych.core.weights.mapping import WeightsMismatch
from diptych.core.weights.safetensors import read_tensors, write_safetensors_folder
from diptych.models import CLIP, CLIPConfig, SigLIP, SigLIP2, SigLIPConfig, from_preset
from diptych.models.clip.config import CLIPTextConfig, CLIPVisionConfig
from diptych.models.siglip.config import NaFlexVisionConfig, TextConfig, VisionConfig
from diptych.models.weights import big_vision
from tests.models.examples import forward, numpy_of

FOREIGN = Path(__file__).parent / "foreign"
TEXT = TextConfig(width=24, depth=2, mlp_dim=40, num_heads=3, vocab_size=30, context_length=7, embed_dim=16)
SIZE = {"width": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2, "patch_size": 4}
SQUARE = SigLIPConfig(vision=VisionConfig(**SIZE, image_size=12), text=TEXT)
NAFLEX = SigLIPConfig(vision=NaFlexVisionConfig(**SIZE, position_grid=3, max_num_patches=9), text=TEXT)
CLIP_TINY = CLIPConfig(
    vision=CLIPVisionConfig(**SIZE, image_size=12, embed_dim=10),
    text=CLIPTextConfig(width=24, depth=1, mlp_dim=40, num_heads=3, vocab_size=30, context_length=7, embed_dim=10),
)
MODELS = {"square": (SigLIP, SQUARE), "naflex": (SigLIP2, NAFLEX), "clip": (CLIP, CLIP_TINY)}


def _random(name: str, seed: int = 0):
    """A model with no weight at zero or one."""
    kind, config = MODELS[name]
    model, rng = kind(config), np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(rng.standard_normal(weight.shape).astype("float32"))
    return model


def _weights(model) -> dict[str, np.ndarray]:
    return {weight.path: np.array(keras.ops.convert_to_numpy(weight.value)) for weight in model.weights}


def _same(one, other) -> None:
    one, other = _weights(one), _weights(other)
    assert one.keys() == other.keys()
    assert not [path for path, value in one.items() if value.tobytes() != other[path].tobytes()]


@pytest.mark.parametrize("name", ["open_clip_siglip", "open_clip_naflex", "open_clip_clip"])
def test_open_clip_and_timm_checkpoints_compute_what_they_do_there(name):
    model = from_preset(FOREIGN / name)
    expected = dict(np.load(FOREIGN / name / "expected.npz"))
    outputs = forward(model, {x.name: expected[x.name] for x in model.inputs})
    for output in ("image_embedding", "text_embedding"):
        np.testing.assert_allclose(numpy_of(outputs[output]), expected[output], rtol=2e-5, atol=2e-5)


def test_keras_hub_presets_compute_what_they_do_there():
    model = SigLIP.from_preset(FOREIGN / "keras_hub")
    expected = dict(np.load(FOREIGN / "keras_hub" / "expected.npz"))
    outputs = forward(model, {name: expected[name] for name in ("images", "token_ids")})
    cosines = numpy_of(outputs["image_embedding"]) @ numpy_of(outputs["text_embedding"]).T
    logits = cosines * numpy_of(model.logit_scale) + numpy_of(model.logit_bias)
    np.testing.assert_allclose(logits, expected["logits"], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("square", "transformers"),
        ("naflex", "transformers"),
        ("clip", "transformers"),
        ("square", "big_vision"),
        ("naflex", "big_vision"),
        ("square", "diptych"),
        ("naflex", "diptych"),
        ("clip", "diptych"),
    ],
)
def test_what_is_saved_is_read_back_bit_for_bit(tmp_path, name, layout):
    model = _random(name)
    model.save_to_preset(tmp_path, format=layout)
    again = from_preset(tmp_path)
    assert again.config == model.config
    _same(again, model)


def test_open_clip_writes_clip_back_bit_for_bit(tmp_path):
    folder = FOREIGN / "open_clip_clip"
    fields = read_json(folder / "open_clip_config.json")
    fields["model_cfg"]["vision_cfg"].pop("head_width")  # what is written has heads of 64, and this one has 16
    model = from_preset(folder)
    with pytest.raises(ValueError, match="heads of 64"):
        model.save_to_preset(tmp_path, format="open_clip")
    wide = CLIPVisionConfig(width=128, depth=1, mlp_dim=96, num_heads=2, patch_size=4, image_size=12, embed_dim=10)
    model = CLIP(CLIPConfig(vision=wide, text=CLIP_TINY.text), seed=3)
    model.save_to_preset(tmp_path, format="open_clip")
    again = from_preset(tmp_path)
    assert again.config == model.config
    _same(again, model)


@settings(max_examples=10, deadline=None)
@given(prefix=st.booleans(), scanned=st.booleans(), naflex=st.booleans())
def test_big_vision_files_are_read_with_and_without_prefix_and_scan(tmp_path_factory, prefix, scanned, naflex):
    folder = tmp_path_factory.mktemp("big_vision")
    model = _random("naflex" if naflex else "square", seed=1)
    model.save_to_preset(folder, format="big_vision")
    arrays = {name.removeprefix("params/"): value for name, value in np.load(folder / big_vision.FILE).items()}
    if scanned:
        for tower in ("img/Transformer", "txt/Encoder_0"):
            for name in [name for name in arrays if name.startswith(f"{tower}/encoderblock_0/")]:
                layers = [arrays.pop(name.replace("encoderblock_0", f"encoderblock_{layer}")) for layer in range(2)]
                arrays[name.replace("encoderblock_0", "encoderblock")] = np.stack(layers)
    path = folder / "other.npz"
    np.savez(path, **{("params/" if prefix else "") + name: value for name, value in arrays.items()})
    again = from_preset(path)
    assert again.config == model.config
    _same(again, model)


def test_sharded_and_half_precision_folders_are_read(tmp_path):
    model = _random("square", seed=2)
    model.save_to_preset(tmp_path / "whole")
    halves = {
        name: value.astype(np.float16) for name, value in read_tensors(tmp_path / "whole" / "model.safetensors").items()
    }
    write_safetensors_folder(tmp_path / "shards", halves, max_shard_bytes=4096)
    write_json(tmp_path / "shards" / "config.json", read_json(tmp_path / "whole" / "config.json"))
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    again = _weights(from_preset(tmp_path / "shards"))
    for path, value in _weights(model).items():
        assert again[path].dtype == np.float32
        np.testing.assert_array_equal(again[path], value.astype(np.float16).astype(np.float32), err_msg=path)


def test_a_sparse_configuration_has_the_defaults_of_transformers(tmp_path):
    """What google/siglip-base-patch16-224 and openai/clip-vit-large-patch14 leave out."""
    from diptych.models.presets import PRESETS
    from diptych.models.weights import transformers_fields

    siglip = {"model_type": "siglip", "text_config": {"model_type": "siglip_text_model"}, "vision_config": {}}
    assert transformers_fields.config_of(siglip, tmp_path) == PRESETS["siglip_base_patch16_224"]
    large = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
    }
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "eos_token_id": 2}
    clip = {
        "model_type": "clip",
        "projection_dim": 768,
        "vision_config": large,
        "text_config_dict": text,
        "text_config": {},
    }
    assert transformers_fields.config_of(clip, tmp_path) == PRESETS["clip_vit_large_patch14"]


def _changed(folder: Path, change) -> None:
    tensors = read_tensors(folder / "model.safetensors")
    change(tensors)
    write_safetensors_folder(folder, tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("text_model.head.bias"), "1 missing: text_model.head.bias"),
        (lambda t: t.update(surplus=np.zeros(3, "float32")), "1 left over: surplus"),
        (
            lambda t: t.update({"text_model.head.bias": np.zeros(3, "float32")}),
            r"head.bias .3,?. for text/projection/bias .16,?.",
        ),
    ],
    ids=["missing", "left over", "misshapen"],
)
def test_weights_that_do_not_fit_are_listed(tmp_path, change, message):
    _random("square").save_to_preset(tmp_path)
    _changed(tmp_path, change)
    with pytest.raises(WeightsMismatch, match=message):
        from_preset(tmp_path)


@pytest.mark.parametrize("name", ["square", "naflex", "clip"])
def test_an_image_tower_is_read_alone(tmp_path, name):
    """From a whole checkpoint of any layout, and from what transformers 4 and 5 write of the tower alone."""
    model = _random(name)
    expected = {path: value for path, value in _weights(model).items() if path.startswith("image/")}
    for layout in ("transformers", "diptych"):
        model.save_to_preset(tmp_path / layout, format=layout)
        tower = type(model.image_encoder).from_preset(tmp_path / layout)
        assert {path: value.tobytes() for path, value in _weights(tower).items()} == {
            path: value.tobytes() for path, value in expected.items()
        }
    fields = read_json(tmp_path / "transformers" / "config.json")
    tensors = read_tensors(tmp_path / "transformers" / "model.safetensors")
    alone = {key: value for key, value in tensors.items() if key.startswith(("vision_model.", "visual_projection"))}
    for version, prefix in ((4, "vision_model."), (5, "")):
        folder = tmp_path / f"alone {version}"
        named = {key.replace("vision_model.", prefix): value for key, value in alone.items()}
        write_safetensors_folder(folder, named)
        write_json(folder / "config.json", fields["vision_config"])
        tower = type(model.image_encoder).from_preset(folder)
        for path, value in _weights(tower).items():
            np.testing.assert_array_equal(value, expected[path], err_msg=path)


@pytest.mark.parametrize("name", ["square", "naflex"])
def test_of_a_classifier_the_image_tower_is_read_and_a_whole_model_is_not_made(tmp_path, name):
    """What transformers' SiglipForImageClassification saves: the image tower under its prefix, and a classifier."""
    model = _random(name)
    model.save_to_preset(tmp_path)
    tensors = read_tensors(tmp_path / "model.safetensors")
    kept = {key: value for key, value in tensors.items() if key.startswith("vision_model.")}
    classifier = {"classifier.weight": np.ones((3, 16), "float32"), "classifier.bias": np.ones(3, "float32")}
    write_safetensors_folder(tmp_path, kept | classifier)
    tower = type(model.image_encoder)
    for path, value in _weights(tower.from_preset(tmp_path)).items():
        np.testing.assert_array_equal(value, _weights(model)[path], err_msg=path)
    with pytest.raises(ValueError, match=f"holds an image tower alone: use {tower.__name__}.from_preset"):
        SigLIP.from_preset(tmp_path)
    write_safetensors_folder(tmp_path, {key: value for key, value in kept.items() if "post_layernorm" not in key})
    with pytest.raises(WeightsMismatch, match="2 missing: vision_model.post_layernorm"):
        tower.from_preset(tmp_path)


@pytest.mark.parametrize("name", ["open_clip_siglip", "open_clip_naflex"])
def test_an_image_tower_of_timm_is_read_alone(tmp_path, name):
    whole = from_preset(FOREIGN / name)
    tensors = read_tensors(FOREIGN / name / "open_clip_model.safetensors")
    trunk = {key.removeprefix("visual.trunk."): value for key, value in tensors.items() if "visual.trunk." in key}
    write_safetensors_folder(tmp_path, trunk)
    write_json(tmp_path / "config.json", {"architecture": "vit_base_patch16_siglip_224", "num_classes": 0})
    tower = type(whole.image_encoder).from_preset(tmp_path)
    for path, value in _weights(tower).items():
        np.testing.assert_array_equal(value, _weights(whole)[path], err_msg=path)
    with pytest.raises(ValueError, match="use " + type(tower).__name__):
        type(_random("clip").image_encoder).from_preset(tmp_path)


def test_position_ids_of_older_files_are_ignored(tmp_path):
    model = _random("square")
    model.save_to_preset(tmp_path)
    ids = np.arange(7, dtype=np.int64)[None]
    _changed(tmp_path, lambda tensors: tensors.update({"text_model.embeddings.position_ids": ids}))
    _same(from_preset(tmp_path), model)


def test_what_is_asked_for_wrongly_is_refused(tmp_path):
    _random("clip").save_to_preset(tmp_path / "clip")
    with pytest.raises(ValueError, match="holds a CLIP; use CLIP.from_preset"):
        SigLIP.from_preset(tmp_path / "clip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no checkpoint: expected config.json"):
        from_preset(tmp_path / "empty")
    write_json(tmp_path / "empty" / "config.json", {"model_type": "bert"})
    with pytest.raises(ValueError, match="model_type is 'bert', expected one of siglip, siglip2, clip"):
        from_preset(tmp_path / "empty")
    with pytest.raises(ValueError, match="format must be one of"):
        _random("clip").save_to_preset(tmp_path, format="keras")
    with pytest.raises(ValueError, match="big_vision has no CLIP"):
        _random("clip").save_to_preset(tmp_path, format="big_vision")


def _set(folder: Path, file: str, path: str, value) -> None:
    """Changes a field of a configuration, "config.text.depth"."""
    fields = inner = read_json(folder / file)
    *objects, last = path.split(".")
    for name in objects:
        inner = inner[name]
    inner[last] = value
    write_json(folder / file, fields)


@pytest.mark.parametrize(
    ("layout", "path", "value", "message"),
    [
        ("diptych", "config.text.depth", 10**9, "depth must be at most 1,000, got 1000000000"),
        ("diptych", "config.vision.depth", 900, "describes 900 layers, and the file holds no more than"),
        ("diptych", "config.text.depth", "x", "depth must be a positive integer, got 'x'"),
        ("diptych", "config.text.vocab_size", 10**12, "vocab_size must be at most"),
        ("diptych", "config.text.vocab_size", 10**6, "token_embedding/embedding .30, 24. for"),
        ("diptych", "config.init_logit_scale", "x", "init_logit_scale must be positive, got 'x'"),
        ("diptych", "config.init_logit_bias", [1], r"init_logit_bias must be a number, or None, got \[1\]"),
        ("diptych", "config.surplus", 1, "does not describe a model.*surplus"),
        ("diptych", "config", None, "does not describe a model"),
        ("diptych", "config.vision", "B/16", "does not describe a model"),
        ("transformers", "text_config.num_hidden_layers", 10**9, "depth must be at most 1,000"),
        ("transformers", "text_config.num_hidden_layers", 999, "describes 999 layers, and the file holds no more than"),
        ("transformers", "text_config.num_hidden_layers", 40, "608 missing: text_model.encoder.layers.2"),
        ("transformers", "vision_config.hidden_size", 2**30, "width must be at most"),
        ("transformers", "vision_config.image_size", 10**7, "position_embedding.weight .9, 16."),
        ("transformers", "vision_config", "x", "does not describe a model"),
        ("transformers", "text_config.hidden_size", None, "width must be a positive integer, got None"),
    ],
)
def test_sizes_of_a_configuration_are_held_against_the_weights_at_once(tmp_path, layout, path, value, message):
    _random("square").save_to_preset(tmp_path, format=layout)
    _set(tmp_path, "config.json", path, value)
    start = time.process_time()
    with pytest.raises(ValueError, match=message):
        from_preset(tmp_path)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("path", ["model_cfg", "model_cfg.text_cfg", "model_cfg.text_cfg.width", "model_cfg.embed_dim"])
def test_what_an_open_clip_configuration_lacks_is_a_sentence(tmp_path, path):
    shutil.copytree(FOREIGN / "open_clip_clip", tmp_path / "model")
    _set(tmp_path / "model", "open_clip_config.json", path, None)
    with pytest.raises(ValueError, match="open_clip_config.json (has no field|does not describe)|must be a positive"):
        from_preset(tmp_path / "model")


def test_another_activation_is_refused_rather_than_approximated(tmp_path):
    _random("square").save_to_preset(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    fields["vision_config"]["hidden_act"] = "relu"
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="hidden_act is 'relu'"):
        from_preset(tmp_path)


def test_fresh_weights_in_a_checkpoints_shapes(tmp_path):
    model = _random("square")
    model.save_to_preset(tmp_path)
    fresh = SigLIP.from_preset(tmp_path, load_weights=False, seed=5)
    _same(fresh, SigLIP(SQUARE, seed=5))


@pytest.mark.parametrize("read", [SigLIP.from_preset, from_preset])
def test_a_size_has_no_weights(read):
    with pytest.raises(ValueError, match="'siglip_b16_224' is a size, which has no weights.*load_weights=False"):
        read("siglip_b16_224")


SAVE = """
import sys
from diptych.models import SigLIP, SigLIPConfig, TextConfig, VisionConfig

size = {"width": 768, "depth": 3, "mlp_dim": 3072, "num_heads": 12}
text = TextConfig(**size, vocab_size=50_000, embed_dim=768)
SigLIP(SigLIPConfig(vision=VisionConfig(**size, patch_size=16, image_size=64), text=text)).save_to_preset(sys.argv[1])
"""

LOAD = """
import sys
from pathlib import Path
import keras, numpy as np
from diptych.models import from_preset

def peak():
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])

from_preset(sys.argv[1])  # a tiny one: what the framework itself takes the first time
before = peak()
model = from_preset(sys.argv[2])
print((peak() - before) / sum(4 * np.prod(w.shape) for w in model.weights))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_loading_peaks_at_little_more_than_the_weights(tmp_path):
    """The vocabulary is half of the weights, as in SigLIP 2 B/16."""
    _random("square").save_to_preset(tmp_path / "tiny")
    subprocess.run([sys.executable, "-c", SAVE, str(tmp_path / "large")], check=True)
    command = [sys.executable, "-c", LOAD, str(tmp_path / "tiny"), str(tmp_path / "large")]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert math.isfinite(ratio := float(process.stdout.splitlines()[-1]))
    assert 0.9 < ratio < 1.3
