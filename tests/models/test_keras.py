"""The models are plain Keras models: what a Keras user does with any model works with these, on every backend."""

import json
import os
import subprocess
import sys
import warnings
import zipfile
from dataclasses import replace
from importlib import import_module

import keras
import numpy as np
import pytest

from diptych import registration
from diptych.backends.selection import installed_backends
from diptych.core.losses.contrastive import sigmoid_loss
from diptych.models import CLIP, SigLIP, TextTransformer, TwoTowers, VisionTransformer
from diptych.models.clip.config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from diptych.models.counting import count_parameters
from tests.models.examples import TINY, TINY_TEXT, TINY_VISION, batch_for, forward, numpy_of

SHALLOW = replace(TINY, vision=replace(TINY_VISION, depth=1))
BATCH = batch_for(SHALLOW)
BRIGHT = np.full(BATCH["images"].shape, 255.0, np.float32)
TINY_CLIP = CLIPConfig(
    vision=CLIPVisionConfig(width=8, depth=1, mlp_dim=8, num_heads=1, patch_size=5, image_size=10, embed_dim=8),
    text=CLIPTextConfig(width=8, depth=1, mlp_dim=8, num_heads=1, vocab_size=20, context_length=6, embed_dim=8),
)
BACKEND = keras.config.backend()


def scrambled(model):
    """The model with weights that no seed gives, so that only a true copy has its outputs."""
    rng = np.random.default_rng(7)
    for weight in model.weights:
        weight.assign(weight.numpy() + rng.normal(0, 0.05, weight.shape))
    return model


def outputs(model, inputs=BATCH) -> list[np.ndarray]:
    return [numpy_of(x) for x in keras.tree.flatten(forward(model, inputs))]


def assert_same_outputs(model, other, inputs=BATCH):
    for x, y in zip(outputs(model, inputs), outputs(other, inputs), strict=True):
        assert np.array_equal(x, y)


def head_on_a_tower() -> keras.Model:
    """Somebody's own functional model: our tower inside, their head on top."""
    images = keras.Input((10, 10, 3))
    features = VisionTransformer(SHALLOW.vision, name="backbone")(images)["pooled"]
    return keras.Model(images, keras.layers.Dense(5, activation="softmax", name="classes")(features))


def siglip_in_a_model() -> keras.Model:
    """Somebody's own functional model on the embeddings of a whole SigLIP."""
    inputs = {
        "images": keras.Input((10, 10, 3), name="images"),
        "token_ids": keras.Input((6,), dtype="int32", name="token_ids"),
    }
    embeddings = SigLIP(SHALLOW)(inputs)
    joined = keras.layers.Concatenate()([embeddings["image_embedding"], embeddings["text_embedding"]])
    return keras.Model(inputs, keras.layers.Dense(2)(joined))


MODELS = {
    "SigLIP": (lambda: SigLIP(SHALLOW, seed=3), BATCH),
    "VisionTransformer": (lambda: VisionTransformer(TINY_VISION), BATCH["images"]),
    "VisionTransformer with class token": (
        lambda: VisionTransformer(replace(TINY_VISION, pooling="cls")),
        BATCH["images"],
    ),
    "TextTransformer": (lambda: TextTransformer(TINY_TEXT), BATCH["token_ids"]),
    "TwoTowers": (
        lambda: TwoTowers(VisionTransformer(SHALLOW.vision), TextTransformer(TINY_TEXT), init_logit_bias=None),
        BATCH,
    ),
    "a head on a tower": (head_on_a_tower, BATCH["images"]),
    "SigLIP in a model": (siglip_in_a_model, BATCH),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_keras_file_brings_the_same_model_back(name, tmp_path):
    build, inputs = MODELS[name]
    model = scrambled(build())
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    assert sorted(w.path for w in loaded.weights) == sorted(w.path for w in model.weights)
    assert_same_outputs(model, loaded, inputs)


def test_mixed_precision_and_rematerialisation_survive_a_keras_file(tmp_path):
    SigLIP(SHALLOW, dtype="mixed_bfloat16", rematerialize=True, name="mine").save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config()["dtype"] == "mixed_bfloat16"
    assert loaded.name == "mine"
    encoder = loaded.image_encoder.get_layer("encoder")
    assert (encoder.rematerialize, encoder.compute_dtype) == (True, "bfloat16")


def test_a_configuration_is_json_and_rebuilds_the_same_weights():
    model = SigLIP(SHALLOW, seed=3)
    config = json.loads(json.dumps(model.get_config()))
    again = SigLIP.from_config(config)
    assert again.get_config() == config
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), again.get_weights(), strict=True))


def test_weights_alone_can_be_saved_and_loaded(tmp_path):
    model = scrambled(SigLIP(SHALLOW))
    model.save_weights(tmp_path / "model.weights.h5")
    other = SigLIP(SHALLOW, seed=9)
    other.load_weights(tmp_path / "model.weights.h5")
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), other.get_weights(), strict=True))


def test_the_summary_names_the_parts_and_counts_the_weights():
    lines: list[str] = []
    SigLIP(SHALLOW).summary(print_fn=lines.append, line_length=120)
    text = "\n".join(lines)
    assert all(name in text for name in ("image (VisionTransformer)", "text (TextTransformer)", "pair_logits"))
    assert f"{count_parameters(SHALLOW)['total']:,}" in text


def test_a_preset_builds_by_its_name():
    model = SigLIP.from_preset("siglip_mu16_224", load_weights=False, dtype="mixed_bfloat16")
    assert model.count_params() == 1_096_194
    assert model.image_encoder.input_shape == (None, 224, 224, 3)


def test_predict_equals_the_call_for_any_batch_size():
    model = SigLIP(SHALLOW)
    predicted = model.predict(BATCH, batch_size=3, verbose=0)  # 4 rows: a batch of three and one of one
    called = forward(model, BATCH)
    for name in called:
        assert np.allclose(predicted[name], numpy_of(called[name]), atol=1e-5)


def test_fit_minimises_the_sigmoid_loss():
    model = SigLIP(SHALLOW)
    embeddings = forward(model, BATCH)
    initial = float(
        numpy_of(
            sigmoid_loss(
                embeddings["image_embedding"],
                embeddings["text_embedding"],
                logit_scale=numpy_of(model.logit_scale),
                logit_bias=numpy_of(model.logit_bias),
            )
        )
    )
    # torch's compiler takes minutes on Keras layers, and its eager mode is what `fit` uses unless told otherwise.
    model.compile(optimizer=keras.optimizers.AdamW(3e-3), jit_compile=BACKEND != "torch")
    losses = model.fit(BATCH, batch_size=4, epochs=8, shuffle=False, verbose=0).history["loss"]
    assert losses[0] == pytest.approx(initial, rel=1e-5)
    assert losses[-1] < 0.7 * losses[0]


def test_what_is_frozen_stays_as_it_was_while_the_rest_learns():
    model = head_on_a_tower()
    model.get_layer("backbone").trainable = False
    assert [w.path for w in model.trainable_weights] == ["classes/kernel", "classes/bias"]
    before = {w.path: w.numpy().copy() for w in model.weights}
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="sparse_categorical_crossentropy", jit_compile=False)
    model.fit(BATCH["images"], np.arange(4), epochs=1, verbose=0)
    changed = {w.path for w in model.weights if not np.array_equal(w.numpy(), before[w.path])}
    assert changed == {"classes/kernel", "classes/bias"}


def test_a_frozen_image_tower_leaves_text_scale_and_bias_to_learn():
    model = SigLIP(SHALLOW)
    model.image_encoder.trainable = False
    assert {w.path.partition("/")[0] for w in model.trainable_weights} == {"text", "pair_logits"}


def test_clone_model_copies_the_graph_and_from_config_the_class():
    model = SigLIP(SHALLOW)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert_same_outputs(model, clone)
    assert type(clone) is not SigLIP  # Keras clones a functional model into a functional model, without `compute_loss`
    outer = head_on_a_tower()
    clone = keras.models.clone_model(outer)
    clone.set_weights(outer.get_weights())
    assert_same_outputs(outer, clone, BATCH["images"])


def tensors(inputs):
    return keras.tree.map_structure(keras.ops.convert_to_tensor, inputs)


CALLS = {
    "a call": lambda model, inputs: model(inputs),
    "predict": lambda model, inputs: model.predict(inputs, verbose=0),
    "predict_on_batch": lambda model, inputs: model.predict_on_batch(inputs),
    "fit": lambda model, inputs: model.fit(inputs, verbose=0),
    "evaluate": lambda model, inputs: model.evaluate(inputs, verbose=0),
    "train_on_batch": lambda model, inputs: model.train_on_batch(inputs),
    "test_on_batch": lambda model, inputs: model.test_on_batch(inputs),
}


@pytest.fixture(scope="module")
def compiled():
    model = SigLIP(SHALLOW)
    model.compile(optimizer="sgd", jit_compile=False)
    return model


@pytest.mark.parametrize("name", CALLS)
def test_what_cannot_be_right_is_refused_where_its_values_are_at_hand(compiled, name):
    call, rows = CALLS[name], SHALLOW.text.vocab_size
    for wrong in (rows, -1, 999_999):
        ids = BATCH["token_ids"].copy()
        ids[-1, 2] = wrong
        message = f"token_ids lie between .*{wrong}.*expected 0 to {rows - 1}: the model's table has {rows} rows"
        with pytest.raises(ValueError, match=message):
            call(compiled, {**BATCH, "token_ids": ids})
    with pytest.raises(ValueError, match="images are uint8, expected the normalised pixels"):
        call(compiled, {**BATCH, "images": np.full(BATCH["images"].shape, 7, np.uint8)})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # raised before anything is compiled
        with pytest.raises(UserWarning, match=r"images hold values up to 255, .* Are they in 0\.\.255\?"):
            call(compiled, {**BATCH, "images": BRIGHT})


def test_towers_embedders_and_tensors_are_looked_at_too():
    model = SigLIP(SHALLOW)
    beyond = np.full((2, 6), SHALLOW.text.vocab_size, np.int32)
    grey = np.full((2, 10, 10, 3), 128, np.uint8)
    for text in (model.text_encoder, model.text_embedder(), TextTransformer(TINY_TEXT)):
        with pytest.raises(ValueError, match="token_ids lie between 20 and 20"):
            text.predict_on_batch(beyond)
        with pytest.raises(ValueError, match="token_ids lie between 20 and 20"):
            text(beyond.tolist())
        with pytest.raises((ValueError, IndexError), match="token_ids lie between 20 and 20|index out of range"):
            text(keras.ops.convert_to_tensor(beyond))
    for image in (model.image_encoder, model.image_embedder()):
        for given in (grey, keras.ops.convert_to_tensor(grey)):
            with pytest.raises(ValueError, match="images are uint8"):
                image(given)
    for output in forward(model, tensors(BATCH)).values():
        assert np.isfinite(numpy_of(output)).all()


IGNORED = {
    "loss": lambda model: model.compile("sgd", loss="mse"),
    "loss by its place": lambda model: model.compile("sgd", "mse"),
    "loss_weights": lambda model: model.compile("sgd", loss_weights=[1.0, 2.0]),
    "metrics": lambda model: model.compile("sgd", metrics=["accuracy"]),
    "weighted_metrics": lambda model: model.compile("sgd", weighted_metrics=["accuracy"]),
    "y": lambda model: model.fit(BATCH, np.zeros(4), verbose=0),
    "sample_weight": lambda model: model.fit(BATCH, sample_weight=np.zeros(4), verbose=0),
    "class_weight": lambda model: model.fit(BATCH, class_weight={0: 2.0}, verbose=0),
    "sample_weight of validation": lambda model: model.fit(BATCH, validation_data=(BATCH, None, np.ones(4)), verbose=0),
    "sample_weight in evaluate": lambda model: model.evaluate(BATCH, sample_weight=np.ones(4), verbose=0),
    "sample_weight in a step": lambda model: model.train_on_batch(BATCH, sample_weight=np.ones(4)),
    "y of a data set": lambda model: model.compute_loss(y=np.ones(4), y_pred=forward(model, BATCH)),
}


@pytest.mark.parametrize("name", IGNORED)
@pytest.mark.parametrize("kind", [SigLIP, CLIP])
def test_arguments_that_would_be_ignored_are_refused_and_cost_no_weights(kind, name):
    model = SigLIP(SHALLOW) if kind is SigLIP else CLIP(TINY_CLIP)
    model.compile(optimizer="sgd", jit_compile=False)
    before = [np.array(weight) for weight in model.get_weights()]
    with pytest.raises(ValueError, match=f"{name.split()[0]} was given, and would be ignored"):
        IGNORED[name](model)
    assert all(np.array_equal(one, other) for one, other in zip(before, model.get_weights(), strict=True))


def test_a_stand_in_waits_for_each_class_and_makes_way_for_it():
    registry = keras.saving.get_custom_objects()
    for module in registration.CLASSES:
        import_module(f"diptych.{module}")
    ours = {key for key in registry if key.startswith("diptych>")}
    assert ours == {f"diptych>{name}" for names in registration.CLASSES.values() for name in names}
    assert all(isinstance(registry[key], type) for key in ours)
    kept = registry.pop("diptych>SigLIP")
    try:
        registration.register()
        assert not isinstance(registry["diptych>SigLIP"], type)
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(SigLIP(SHALLOW, seed=2)))
        assert type(again) is SigLIP
    finally:
        registry["diptych>SigLIP"] = kept


def test_a_keras_file_names_no_module_of_its_backend(tmp_path):
    for model in (SigLIP(SHALLOW), SigLIP(SHALLOW).image_embedder()):
        model.compile(optimizer=keras.optimizers.AdamW(1e-3))
        model.save(tmp_path / "model.keras")
        config = zipfile.ZipFile(tmp_path / "model.keras").read("config.json").decode()
        assert '"class_name": "AdamW"' in config
        assert "keras.src.backend" not in config


LOAD_ELSEWHERE = """
import sys
import diptych
import numpy as np
import keras

model, inputs, outputs = sys.argv[1:]
predicted = keras.saving.load_model(model)(dict(np.load(inputs)))
np.savez(outputs, **{name: keras.ops.convert_to_numpy(keras.ops.stop_gradient(x)) for name, x in predicted.items()})
"""


@pytest.mark.skipif(len(installed_backends()) == 1, reason="needs a second backend to be installed")
def test_a_keras_file_opens_on_another_backend(tmp_path):
    installed = installed_backends()
    other = installed[(installed.index(BACKEND) + 1) % len(installed)]
    model = scrambled(SigLIP(SHALLOW))
    model.compile(optimizer=keras.optimizers.AdamW(1e-3), jit_compile=False)
    model.fit(BATCH, verbose=0)  # the optimizer has slots
    paths = [str(tmp_path / name) for name in ("model.keras", "inputs.npz", "outputs.npz")]
    model.save(paths[0])
    np.savez(paths[1], **BATCH)
    subprocess.run(
        [sys.executable, "-c", LOAD_ELSEWHERE, *paths], check=True, env={**os.environ, "KERAS_BACKEND": other}
    )
    here, there = forward(model, BATCH), np.load(paths[2])
    assert sorted(there) == ["image_embedding", "text_embedding"]
    for name in there:
        assert np.allclose(there[name], numpy_of(here[name]), atol=1e-5)


def test_a_frozen_tower_is_still_frozen_when_it_was_saved(tmp_path):
    model = head_on_a_tower()
    model.get_layer("backbone").trainable = False
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert [weight.path for weight in model.trainable_weights] == ["classes/kernel", "classes/bias"]
    assert [weight.path for weight in again.trainable_weights] == ["classes/kernel", "classes/bias"]
