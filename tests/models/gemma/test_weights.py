"""Gemma's and PaliGemma's folders by transformers: every layout of names, in and out bit for bit."""

import json
from dataclasses import asdict, replace

import ml_dtypes
import numpy as np
import pytest

from diptych.core.weights.safetensors import read_tensors, write_safetensors_folder
from diptych.models import Gemma, GemmaConfig, ImageClassifier, PaliGemma, PaliGemmaConfig, SigLIP, VisionTransformer
from diptych.models.checkpoints import read_checkpoint
from diptych.models.gemma.presets import PRESETS as GEMMAS
from diptych.models.paligemma.presets import PRESETS as PALIGEMMAS
from diptych.models.weights import transformers_gemma, transformers_paligemma
from tests.marks import ABOVE_THE_BACKENDS
from tests.models.examples import numpy_of

pytestmark = ABOVE_THE_BACKENDS

LAYOUTS = {
    "4.41": ("vision_tower.vision_model.", "language_model.model.", ""),
    "4.52": ("model.vision_tower.vision_model.", "model.language_model.", "model."),
    "5.6 in memory": ("model.vision_tower.", "model.language_model.", "model."),
    "5.24 fresh": ("vision_tower.", "language_model.model.", ""),
}
"""What stands before the names of image tower, language model and projector, by version."""


def random_model(config, **arguments):
    model, rng = (
        (PaliGemma if isinstance(config, PaliGemmaConfig) else Gemma)(config, **arguments),
        np.random.default_rng(7),
    )
    for variable in model.weights:
        variable.assign(rng.normal(0, 0.3, variable.shape).astype(ml_dtypes.bfloat16).astype("float32"))
    return model


def values_of(model) -> dict[str, np.ndarray]:
    return {variable.path: numpy_of(variable.value) for variable in model.weights}


def assert_same(model, other) -> None:
    found, expected = values_of(model), values_of(other)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A PaliGemma 2, whose last rows of the table stand for nothing, and its folder in bfloat16."""
    config = PALIGEMMAS["paligemma2_tiny"]
    model = random_model(replace(config, text=replace(config.text, predicted_ids=300)))
    folder = tmp_path_factory.mktemp("paligemma2")
    model.save_to_preset(folder, dtype="bfloat16")
    return model, folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_of_names_is_read(saved, tmp_path, layout):
    model, folder = saved
    tensors = read_tensors(folder / "model.safetensors")
    vision, text, projector = LAYOUTS[layout]

    def renamed(name):
        for old, new in zip(LAYOUTS["4.41"][:2], (vision, text), strict=True):
            if name.startswith(old):
                return new + name.removeprefix(old)
        return projector + name

    again = {renamed(name): value for name, value in tensors.items()}
    again["lm_head.weight"] = tensors["language_model.model.embed_tokens.weight"]
    write_safetensors_folder(tmp_path, again, max_shard_bytes=60_000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    loaded = PaliGemma.from_preset(tmp_path)
    assert loaded.config == model.config
    assert_same(loaded, model)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bfloat16_on_disk_comes_back_bit_for_bit(saved, tmp_path, dtype):
    _, folder = saved
    PaliGemma.from_preset(folder, dtype=dtype).save_to_preset(tmp_path, dtype="bfloat16")
    before, after = (read_tensors(place / "model.safetensors") for place in (folder, tmp_path))
    assert list(before) == list(after)
    assert all(before[name].dtype == ml_dtypes.bfloat16 == after[name].dtype for name in before)
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    assert (folder / "config.json").read_bytes() == (tmp_path / "config.json").read_bytes()


@pytest.mark.parametrize("name", ["gemma_tiny", "gemma2_tiny"])
@pytest.mark.parametrize("format", ["transformers", "diptych"])
def test_a_language_model_goes_out_and_comes_back(tmp_path, name, format):
    model = random_model(GEMMAS[name])
    model.save_to_preset(tmp_path, format=format)
    again = Gemma.from_preset(tmp_path)
    assert again.config == model.config
    assert_same(again, model)
    if format == "transformers":  # saved without a head, names lack their prefix
        tensors = read_tensors(tmp_path / "model.safetensors")
        bare = {key.removeprefix("model."): value for key, value in tensors.items()}
        write_safetensors_folder(tmp_path, bare)
        assert_same(Gemma.from_preset(tmp_path), model)


def test_names_go_by_their_places():
    """Gemma 2's post_attention_layernorm is behind the attention, Gemma 1's before the MLP."""
    first, second = (
        {rule.ours[0].removeprefix("decoder/block_01/"): rule.theirs[0] for rule in rules}
        for rules in (transformers_gemma.decoder_rules(GEMMAS[name], "") for name in ("gemma_tiny", "gemma2_tiny"))
    )
    assert first["mlp_norm/scale"] == "layers.1.post_attention_layernorm.weight"
    assert second["attention_post_norm/scale"] == "layers.1.post_attention_layernorm.weight"
    assert second["mlp_norm/scale"] == "layers.1.pre_feedforward_layernorm.weight"
    assert second["mlp_post_norm/scale"] == "layers.1.post_feedforward_layernorm.weight"
    assert [first[f"mlp/{part}_kernel"] for part in ("gate", "in", "out")] == [
        f"layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")
    ]


@pytest.mark.parametrize("name", [name for name in GEMMAS if "tiny" not in name])
def test_configurations_of_language_models_survive_transformers_fields(tmp_path, name):
    assert transformers_gemma.config_of(transformers_gemma.fields_of(GEMMAS[name]), tmp_path) == GEMMAS[name]


VISION = {
    "hidden_size": 1152, "intermediate_size": 4304, "model_type": "siglip_vision_model", "num_attention_heads": 16,
    "num_hidden_layers": 27, "num_image_tokens": 256, "patch_size": 14, "projector_hidden_act": "gelu_fast",
    "vision_use_head": False,
}  # fmt: skip
HUB = {
    "paligemma_3b_pt_224": {
        "bos_token_id": 2, "eos_token_id": 1, "hidden_size": 2048, "ignore_index": -100, "image_token_index": 257152,
        "model_type": "paligemma", "pad_token_id": 0, "projection_dim": 2048, "vocab_size": 257216,
        "text_config": {
            "hidden_size": 2048, "intermediate_size": 16384, "model_type": "gemma", "num_attention_heads": 8,
            "num_hidden_layers": 18, "num_image_tokens": 256, "num_key_value_heads": 1, "vocab_size": 257216,
        },
        "vision_config": {**VISION, "projection_dim": 2048},
    },
    "paligemma2_3b_pt_448": {
        "hidden_size": 2048, "image_token_index": 257152, "model_type": "paligemma", "projection_dim": 2304,
        "text_config": {
            "attn_logit_softcapping": 50.0, "cache_implementation": "hybrid", "eos_token_id": [1, 107],
            "final_logit_softcapping": 30.0, "hidden_act": "gelu_pytorch_tanh", "hidden_size": 2304,
            "intermediate_size": 9216, "model_type": "gemma2", "num_hidden_layers": 26, "num_image_tokens": 1024,
            "num_key_value_heads": 4, "query_pre_attn_scalar": 256, "sliding_window": 4096, "vocab_size": 257216,
        },
        "vision_config": {**VISION, "image_size": 448, "num_positions": 256, "projection_dim": 2304},
    },
}  # fmt: skip
"""What the files on the hub say: sparse, and with a stale hidden_size of the second at the top."""


@pytest.mark.parametrize("name", HUB)
def test_sparse_files_describe_the_published_models(tmp_path, name):
    expected = PALIGEMMAS[name]
    found = transformers_paligemma.config_of(HUB[name], tmp_path)
    assert found == replace(expected, text=replace(expected.text, vocab_size=257_216, predicted_ids=257_152))
    again = transformers_paligemma.config_of(transformers_paligemma.fields_of(found), tmp_path)
    assert again == found
    whole = {**HUB[name], "text_config": HUB[name]["text_config"] | {"vocab_size": 257_152}}
    assert transformers_paligemma.config_of(whole, tmp_path) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps is 1e-05; models here compute with 1e-06"),
        ({"rope_theta": 5e5}, "rope_theta is 500000.0; models here compute with 10000.0"),
        ({"hidden_activation": "relu"}, "hidden_activation is 'relu'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ({"layer_types": ["sliding_attention"] * 26}, "a sliding window in each second layer"),
        ({"model_type": "gemma3"}, "model_type is 'gemma3', expected one of gemma, gemma2"),
    ],
)
def test_what_is_not_computed_here_is_refused(tmp_path, change, message):
    fields = transformers_gemma.fields_of(GEMMAS["gemma2_2b"]) | change
    with pytest.raises(ValueError, match=message):
        transformers_gemma.config_of(fields, tmp_path)


def test_caps_that_are_switched_off_stay_off(tmp_path):
    fields = transformers_gemma.fields_of(GEMMAS["gemma2_2b"])
    config = transformers_gemma.config_of(fields | {"final_logit_softcapping": None}, tmp_path)
    assert (config.logits_soft_cap, config.attention_soft_cap) == (None, 50.0)
    del fields["final_logit_softcapping"]
    assert transformers_gemma.config_of(fields, tmp_path).logits_soft_cap == 30.0


def test_what_transformers_cannot_say_is_refused(tmp_path):
    config = replace(GEMMAS["gemma_tiny"], logits_soft_cap=30.0)
    with pytest.raises(ValueError, match="gemma has no logits_soft_cap"):
        Gemma(config).save_to_preset(tmp_path)
    assert not list(tmp_path.iterdir())


def test_half_a_model_is_not_loaded(saved, tmp_path):
    _, folder = saved
    tensors = read_tensors(folder / "model.safetensors")
    del tensors["language_model.model.layers.1.mlp.up_proj.weight"]
    write_safetensors_folder(tmp_path, tensors)
    fields = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"1 missing: language_model\.model\.layers\.1\.mlp\.up_proj\.weight"):
        PaliGemma.from_preset(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "paligemma"}))
    with pytest.raises(ValueError, match="expected vision_config and text_config"):
        PaliGemma.from_preset(tmp_path)


def test_other_classes_say_whose_a_checkpoint_is(saved, tmp_path):
    model, folder = saved
    for other in (SigLIP, Gemma):
        with pytest.raises(ValueError, match=r"holds a PaliGemma; use PaliGemma\.from_preset"):
            other.from_preset(folder)
    random_model(GEMMAS["gemma_tiny"]).save_to_preset(tmp_path)
    with pytest.raises(ValueError, match=r"holds a Gemma; use Gemma\.from_preset"):
        VisionTransformer.from_preset(tmp_path)
    with pytest.raises(ValueError, match="holds a Gemma"):
        ImageClassifier.from_preset(tmp_path, classes=["a", "b"])


def test_the_image_tower_of_a_paligemma_is_read_alone(saved):
    model, folder = saved
    tower = VisionTransformer.from_preset(folder, name="image")
    expected = values_of(model)
    assert tower.get_config()["config"] == asdict(model.config.vision)
    for path, value in values_of(tower).items():
        np.testing.assert_array_equal(value, expected[path])


def test_a_checkpoint_says_what_it_is(saved):
    checkpoint = read_checkpoint(saved[1])
    assert checkpoint.layout == "transformers"
    assert isinstance(checkpoint.config, PaliGemmaConfig)
    assert isinstance(checkpoint.config.text, GemmaConfig)
