"""The decay convention and the per-weight rates of the optimizers; their equations are judged in tests/agreement."""

from dataclasses import replace
from functools import partial

import keras
import ml_dtypes
import numpy as np
import pytest

from diptych.core.training.optimizers import OPTIMIZERS, Adafactor, AdamW, OpenAIAdam
from diptych.core.training.schedules import Cosine, OpenAICosine
from diptych.core.training.variables import assign_all
from diptych.core.weights.safetensors import read_tensors, write_safetensors
from diptych.engine.training.build import build_optimizer
from diptych.models.parts.attention import Attention
from diptych.models.parts.heads import PairLogits
from diptych.recipes.classifier import bit_i1k
from tests.models.examples import numpy_of


def variable(name: str, value: float = 2.0):
    return keras.Variable(np.full((3,), value, "float32"), name=name)


def update(optimizer, variables, gradient: float):
    before = [keras.ops.convert_to_numpy(v.value).copy() for v in variables]
    optimizer.apply([keras.ops.full((3,), gradient)] * len(variables), variables)
    return [keras.ops.convert_to_numpy(v.value) - old for v, old in zip(variables, before, strict=True)]


def corrected(name: str, step: int) -> float:
    """What multiplies the decay of update `step`, counted from 1: GPT-1's Adam corrects the rate of both."""
    return np.sqrt(1 - 0.999**step) / (1 - 0.9**step) if name == "openai_adam" else 1.0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_follows_the_schedule_and_not_the_learning_rate(name):
    """p <- p - s · (η · update + wd · p): with zero gradients only the decay of kernels is left, whatever η."""
    for rate in (1e-3, 1e-1):
        kernel, bias = variable("kernel"), variable("bias")
        schedule = Cosine(rate, batch_size=1, total_examples=4)
        optimizer = OPTIMIZERS[name](schedule, weight_decay=1e-2)
        optimizer.build([kernel, bias])
        factors = [1.0, 0.5 * (1 + np.cos(np.pi / 4)), 0.5]
        for step, factor in enumerate(factors, 1):
            before = keras.ops.convert_to_numpy(kernel.value).copy()
            moved, unmoved = update(optimizer, [kernel, bias], 0.0)
            assert moved == pytest.approx(-factor * corrected(name, step) * 1e-2 * before, rel=1e-4)
            assert unmoved == pytest.approx(0, abs=1e-9)


def test_the_papers_decay_is_pytorchs_divided_by_the_learning_rate():
    """η = 1e-3 with the paper's 1e-4 is AdamW(1e-3, weight_decay=0.1) of Keras, step for step."""
    ours, theirs = variable("kernel"), variable("kernel")
    optimizer = AdamW(1e-3, weight_decay=1e-4, beta_2=0.95, epsilon=1e-8)
    reference = keras.optimizers.AdamW(1e-3, weight_decay=0.1, beta_2=0.95, epsilon=1e-8)
    optimizer.build([ours])
    reference.build([theirs])
    for gradient in (0.3, -0.1, 0.7):
        update(optimizer, [ours], gradient)
        update(reference, [theirs], gradient)
    assert keras.ops.convert_to_numpy(ours.value) == pytest.approx(keras.ops.convert_to_numpy(theirs.value), rel=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rates_and_decays_differ_by_pattern(name):
    slow, fast = variable("slow_kernel"), variable("fast_kernel")
    rules = {"learning_rate_multipliers": {"slow.*": 0.1}, "weight_decay_multipliers": {"fast.*": 0.0}}
    optimizer = OPTIMIZERS[name](1e-3, weight_decay=1e-3, **rules)
    optimizer.build([slow, fast])
    moved_slow, moved_fast = update(optimizer, [slow, fast], 1.0)
    # Decay of 1e-3 · p is not multiplied by the rate's factor. A weight of 2 is rounded to 2.4e-7.
    assert moved_slow + corrected(name, 1) * 1e-3 * 2.0 == pytest.approx(0.1 * moved_fast, abs=4e-7)
    assert np.abs(moved_fast).min() > 5e-5


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_is_restored_from_its_configuration(name):
    schedule = Cosine(1e-3, batch_size=2, total_examples=20, warmup_examples=4)
    optimizer = OPTIMIZERS[name](schedule, weight_decay=1e-3, learning_rate_multipliers={"kernel": 0.5})
    restored = type(optimizer).from_config(optimizer.get_config())
    assert restored.get_config() == optimizer.get_config()
    weights = variable("kernel"), variable("kernel")
    optimizer.build([weights[0]])
    restored.build([weights[1]])
    for gradient in (0.5, -0.25):
        assert update(optimizer, [weights[0]], gradient)[0] == pytest.approx(
            update(restored, [weights[1]], gradient)[0]
        )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_slots_are_named_after_their_weights(name):
    weight = variable("kernel")
    optimizer = OPTIMIZERS[name](1e-3)
    optimizer.build([weight])
    named = optimizer.named_slots()
    assert "iterations" in named
    assert {path.partition("/")[0] for path in named} == {"iterations", "kernel"}
    assert len(named) == 1 + len(optimizer.slot_names)


@pytest.mark.parametrize("name", [*OPTIMIZERS, "torch's fused kernel"])
def test_a_bounded_weight_stays_within_its_bound_and_comes_back(name):
    """As CLIP's temperature: at most 100, and free to fall again."""
    if name not in OPTIMIZERS and keras.config.backend() != "torch":
        pytest.skip("the fused kernel is torch's")
    scale = PairLogits(init_logit_scale=90.0, max_logit_scale=100.0)
    scale.build((None, 4), (None, 4))
    weights = [scale.log_logit_scale, scale.logit_bias]
    optimizer = OPTIMIZERS.get(name, AdamW)(0.2)
    optimizer.build(weights)
    apply = lambda gradients: optimizer.apply(gradients, weights)  # noqa: E731
    if name not in OPTIMIZERS:
        import torch

        from diptych.backends.torch.optimizers import FusedAdamW

        apply = partial(FusedAdamW(optimizer, weights), finite=torch.tensor(True))
    seen = []
    for gradient in (-1.0, -1.0, -1.0, *[1.0] * 20):
        apply([keras.ops.convert_to_tensor(np.float32(gradient))] * 2)
        seen.append(float(np.exp(keras.ops.convert_to_numpy(weights[0].value))))
    assert max(seen) == pytest.approx(100.0, rel=1e-5)
    assert seen[-1] < 90
    assert float(keras.ops.convert_to_numpy(weights[1].value)) != -10.0


def test_gpt1s_adam_is_openais():
    """As `opt.py` has it: ε on the uncorrected √v, the decay inside, tables too, the first update at a rate of 0."""
    rate, l2, steps, warmup = 2.5e-4, 0.01, 10, 2
    schedule = OpenAICosine(rate, batch_size=1, total_examples=steps, warmup_examples=warmup)
    optimizer = OpenAIAdam(schedule, weight_decay=rate * l2)
    names = ("in_kernel", "embedding", "scale", "in_bias")
    weights = [variable(name) for name in names]
    optimizer.build(weights)
    assert optimizer.decays == pytest.approx([rate * l2, rate * l2, 0, 0])
    expected, m, v = np.full(4, 2.0), np.zeros(4), np.zeros(4)
    for t, gradient in enumerate((3e-9, -2e-8, 0.5, 1.0), 1):
        x = (t - 1) / steps
        s = (t - 1) / warmup if t - 1 <= warmup else 0.5 * (1 + np.cos(np.pi * x))
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        rate_t = rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * s
        step = rate_t * (m / (np.sqrt(v) + 1e-8) + l2 * expected * [1, 1, 0, 0])
        moved = np.array([change[0] for change in update(optimizer, weights, gradient)])
        assert moved == pytest.approx(-step, rel=2e-3, abs=3e-7)
        assert t > 1 or not moved.any()
        expected = expected - step
    assert [numpy_of(weight.value)[0] for weight in weights] == pytest.approx(expected, abs=1e-6)


def test_big_visions_resnets_move_by_its_golden_rule():
    """Trace 0.9 in bfloat16 → × 0.1 / 256 · 4,096 → + 1e-4 / 256 · 4,096 · p on kernels → × schedule → -, with a
    warm-up whose first update has rate 0; in NumPy, number for number.
    """
    optimization = bit_i1k().optimization
    optimization = replace(optimization, examples=10 * 4_096, warmup_examples=2 * 4_096)
    optimizer = build_optimizer(optimization)
    kernel, bias = variable("kernel", 1.5), variable("bias", 1.5)
    optimizer.build([kernel, bias])
    assert (optimizer.base_learning_rate, optimizer.decoupled_weight_decay) == pytest.approx((1.6, 1.6e-3))
    factors = [0.0, 0.5, 1.0, 0.5 * (1 + np.cos(np.pi / 8))]
    kept, weights = np.float32(0), [np.float32(1.5), np.float32(1.5)]
    for factor, gradient in zip(factors, (0.3, -0.11, 0.07, 0.2), strict=True):
        update(optimizer, [kernel, bias], gradient)
        moved = np.float32(gradient) + np.float32(0.8984375) * kept
        kept = moved.astype(ml_dtypes.bfloat16).astype(np.float32)
        weights = [weights[0] - factor * (1.6 * moved + 1.6e-3 * weights[0]), weights[1] - factor * 1.6 * moved]
        for weight, expected in zip((kernel, bias), weights, strict=True):
            assert keras.ops.convert_to_numpy(weight.value) == pytest.approx(expected, rel=2e-6)
    assert optimizer.slots["momentum"][0].dtype == "bfloat16"
    unscaled = build_optimizer(replace(optimization, rate_batch_size=None))
    assert (unscaled.base_learning_rate, unscaled.decoupled_weight_decay) == pytest.approx((0.1, 1e-4))


def test_a_momentum_in_bfloat16_is_adams_and_comes_back_from_a_file(tmp_path):
    """As optax's with `mu_dtype`: the rounded one is kept, the whole one moves the weight."""
    ours = variable("kernel")
    optimizer = AdamW(1e-2, momentum_dtype="bfloat16")
    assert (optimizer.update_rule, AdamW(1e-2).update_rule) == (None, "adamw")
    optimizer.build([ours])
    m = v = np.float32(0)
    expected = np.float32(2.0)
    for step, gradient in enumerate((0.3, -0.1, 0.7), 1):
        update(optimizer, [ours], gradient)
        moved = np.float32(0.1) * np.float32(gradient) + np.float32(0.8984375) * m
        m = moved.astype(ml_dtypes.bfloat16).astype(np.float32)
        v = 0.05 * gradient**2 + 0.95 * v
        expected -= 1e-2 * moved / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.95**step)) + 1e-8)
    assert keras.ops.convert_to_numpy(ours.value) == pytest.approx(expected, rel=1e-6)
    slots = optimizer.named_slots()
    write_safetensors(
        tmp_path / "optimizer.safetensors",
        {name: keras.ops.convert_to_numpy(slot.value) for name, slot in slots.items()},
    )
    arrays = read_tensors(tmp_path / "optimizer.safetensors")
    as_kept = {name: value.astype(np.float32) for name, value in arrays.items()}
    slots["kernel/momentum"].assign(np.zeros(3))
    assign_all("optimizer", slots, arrays)
    for name, variable_ in slots.items():
        np.testing.assert_array_equal(numpy_of(variable_.value), as_kept[name])
    with pytest.raises(ValueError, match="momentum_dtype must be float32 or bfloat16"):
        AdamW(1e-2, momentum_dtype="float16")


def test_attention_tells_how_its_kernels_are_made_of_heads():
    """And Adafactor keeps a row and a column of each head, as where query, key and value are weights of their own."""
    layer = Attention(num_heads=4, num_key_value_heads=2)
    layer.build((None, 6, 144))
    assert layer.qkv_kernel.heads_layout == ((144, 8, 36), 1)
    assert layer.out_kernel.heads_layout == ((4, 36, 144), 0)
    looking = Attention(num_heads=4)
    looking.build((None, 6, 144), (None, 9, 50))
    assert looking.query_kernel.heads_layout == ((144, 4, 36), 1)
    assert looking.key_value_kernel.heads_layout == ((50, 8, 36), 1)
    rng, shape = np.random.default_rng(0), (144, 4, 36)
    values = rng.normal(size=shape).astype("float32")
    whole, heads = looking.query_kernel, [keras.Variable(values[:, head], name=f"head_{head}") for head in range(4)]
    whole.assign(values.reshape(144, 144))
    one, many = Adafactor(0.1), Adafactor(0.1)
    one.build([whole])
    many.build(heads)
    for _ in range(3):
        gradient = rng.normal(size=shape).astype("float32") * rng.random((1, 4, 1)).astype("float32")
        one.apply([keras.ops.convert_to_tensor(gradient.reshape(144, 144))], [whole])
        many.apply([keras.ops.convert_to_tensor(gradient[:, head]) for head in range(4)], heads)
    expected = np.stack([keras.ops.convert_to_numpy(head.value) for head in heads], axis=1)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(whole.value).reshape(shape), expected, rtol=1e-5, atol=1e-6)


def test_arguments_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="learning_rate must be positive, got 0"):
        AdamW(0)
    with pytest.raises(ValueError, match="weight_decay must not be negative"):
        AdamW(1e-3, weight_decay=-1.0)
    with pytest.raises(ValueError, match="'kernle' matches no weight"):
        AdamW(1e-3, weight_decay=1.0, decayed=["kernle"]).build([variable("kernel")])
