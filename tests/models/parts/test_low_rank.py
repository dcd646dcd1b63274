"""Low-rank adapters, on whichever backend Keras runs."""

import json

import numpy as np
import pytest
from keras import ops

from diptych.core.weights.safetensors import read_tensors
from diptych.models import SigLIP, SigLIPConfig, TextConfig, VisionConfig
from diptych.models.siglip.parts import AdaptersPart
from diptych.models.siglip.student import Student

SIZE = {"width": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2}
CONFIG = SigLIPConfig(
    vision=VisionConfig(**SIZE, patch_size=4, image_size=8), text=TextConfig(**SIZE, vocab_size=20, context_length=5)
)
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, (3, 8, 8, 3)).astype("float32")


def adapted(**changes) -> Student:
    part = AdaptersPart(**{"rank": 3, "alpha": 6.0} | changes)
    return Student(CONFIG, parts={"adapters": part}, seed=4)


def pooled(model) -> np.ndarray:
    return ops.convert_to_numpy(model.image_features({"images": IMAGES})["pooled"])


def test_fresh_adapters_change_nothing_and_count_as_planned():
    student = adapted()
    np.testing.assert_array_equal(pooled(student), pooled(SigLIP(CONFIG, seed=4)))
    count = sum(int(np.prod(weight.shape)) for weight in student.adapters.weights)
    assert count == AdaptersPart(rank=3, alpha=6.0).parameters(CONFIG) == 2 * 2 * 3 * (64 + 32 + 40 + 40)


def test_merged_kernels_compute_what_adapters_do():
    student = adapted()
    for up in student.adapters.up.values():
        up.assign(RNG.normal(0, 0.3, up.shape))
    moved = pooled(student)
    assert np.abs(moved - pooled(SigLIP(CONFIG, seed=4))).max() > 0.1
    plain = SigLIP(CONFIG, seed=4)
    with student.merged():
        for own, merged in zip(plain.weights, student.towers.weights, strict=True):
            own.assign(ops.convert_to_numpy(merged.value))
        inside = pooled(student)
    np.testing.assert_allclose(pooled(plain), moved, rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(inside, pooled(plain))
    np.testing.assert_array_equal(pooled(student), moved)


def test_adapters_are_a_small_file(tmp_path):
    student = adapted()
    student.adapters.save_to(tmp_path)
    stored = read_tensors(tmp_path / "adapters.safetensors")
    assert stored["text/encoder/block_01/mlp/in_kernel/down"].shape == (16, 3)
    assert len(stored) == 2 * len(student.adapters.shapes)
    assert json.loads((tmp_path / "adapters.json").read_text()) == {"rank": 3, "alpha": 6.0}


def test_targets_choose_and_a_pattern_that_chooses_nothing_is_refused():
    some = AdaptersPart(rank=2, alpha=2.0, targets=("text/.*/qkv_kernel",))
    assert list(some.shapes(CONFIG)) == [f"text/encoder/block_0{n}/attention/qkv_kernel" for n in range(2)]
    with pytest.raises(ValueError, match=r"--lora-targets matches none.*image/encoder/block_00/attention/qkv_kernel"):
        AdaptersPart(rank=2, alpha=2.0, targets=("query",)).shapes(CONFIG)
    with pytest.raises(ValueError, match=r"'text/\(' is no regular expression"):
        AdaptersPart(rank=2, alpha=2.0, targets=("text/(",)).shapes(CONFIG)
