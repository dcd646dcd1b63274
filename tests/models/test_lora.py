"""Adapters of a model in a Keras loop: only they move, and merged they leave a model as any other."""

import keras
import numpy as np
import pytest

from diptych.models import CLIP, BiTConfig, ClassifierConfig, ImageClassifier, SigLIP
from diptych.models.classifier.model import classifier_of
from diptych.models.presets import ALL_PRESETS
from tests.marks import ABOVE_THE_BACKENDS
from tests.models.examples import TINY, numpy_of

RNG = np.random.default_rng(0)


def pairs(model: SigLIP) -> dict[str, np.ndarray]:
    images, ids = model.inputs
    return {
        "images": RNG.uniform(-1, 1, (4, *images.shape[1:])).astype("float32"),
        "token_ids": RNG.integers(0, TINY.text.vocab_size, (4, ids.shape[1])).astype("int32"),
    }


def test_adapters_alone_are_trained_and_are_merged_into_their_kernels(tmp_path):
    model = SigLIP(TINY, seed=3)
    batch, paths = pairs(model), [weight.path for weight in model.weights]
    before = {weight.path: np.array(numpy_of(weight.value)) for weight in model.weights}
    model.enable_lora(2, targets=(".*/attention/.*",))
    moving = {weight.path for weight in model.trainable_variables}
    assert moving - {"pair_logits/log_logit_scale", "pair_logits/logit_bias"} == {
        v.path for v in model.adapters.weights
    }
    model.compile(keras.optimizers.SGD(1.0))
    for _ in range(2):  # the first step moves `up` alone
        model.train_on_batch(batch)
    adapted = numpy_of(model(batch)["image_embedding"])
    assert all(np.array_equal(before[w.path], numpy_of(w.value)) for w in model.weights if w.path not in moving)
    with pytest.raises(ValueError, match="merge_lora"):
        model.save_to_preset(tmp_path / "preset")
    with pytest.raises(ValueError, match="merge_lora"):
        model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="has adapters already"):
        model.enable_lora(2)
    model.merge_lora()
    assert [weight.path for weight in model.weights] == paths
    assert len(model.trainable_variables) == len(paths)
    merged = numpy_of(model(batch)["image_embedding"])
    np.testing.assert_allclose(merged, adapted, atol=1e-6)
    changed = {path for path in paths if not np.array_equal(before[path], numpy_of(named(model)[path].value))}
    assert {path for path in changed if "pair_logits" not in path} == {p for p in paths if kernel_of_attention(p)}
    model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="has no adapters"):
        model.merge_lora()


def named(model) -> dict:
    return {weight.path: weight for weight in model.weights}


def kernel_of_attention(path: str) -> bool:
    return "/encoder/" in path and "/attention/" in path and path.endswith("kernel")


@ABOVE_THE_BACKENDS
def test_what_cannot_be_adapted_is_refused():
    with pytest.raises(ValueError, match="rank must be at least 1"):
        SigLIP(TINY).enable_lora(0)
    with pytest.raises(ValueError, match="matches none"):
        SigLIP(TINY).enable_lora(2, targets=("nothing",))
    bit = BiTConfig(stage_depths=(1,), width=8, num_groups=8, image_size=22)
    with pytest.raises(ValueError, match="matches none|no kernels"):
        classifier_of(ClassifierConfig(vision=bit, classes=("a", "b"))).enable_lora(2)


@ABOVE_THE_BACKENDS
def test_each_class_knows_the_sizes_that_are_its_own():
    assert {"siglip_b16_224", "siglip2_base_patch16_224"} <= SigLIP.presets.keys()
    assert all(name.startswith("clip") for name in CLIP.presets)
    assert len(SigLIP.presets) + len(CLIP.presets) < len(ALL_PRESETS)
    assert ImageClassifier.presets == {}
