"""Optimizers and schedules alone: the same gradients give the same weights as the oracle's equations."""

import ml_dtypes  # noqa: F401 - tells NumPy of bfloat16
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.agreement.compare import check_entries
from tests.agreement.oracle_side import build_optimizer
from tests.agreement.strategies import agreement_settings
from tests.oracle.schedule import warmup_cosine
from tests.oracle.training import Descent
from tests.tolerances import UNIT_ROUNDOFF, UPDATE_ROUNDINGS

SHAPES = {
    "square_kernel": (40, 40),
    "wide_kernel": (33, 64),
    "patch_kernel": (4, 4, 3, 48),
    "tall_embedding": (97, 32),
    "small_kernel": (7, 31),
    "norm_scale": (40,),
    "logit_bias": (),
    "heads_kernel": (36, 6 * 33),
    "heads_out_kernel": (2 * 33, 40),
    "small_heads_kernel": (40, 6 * 8),
}
HEADS = {
    "heads_kernel": ((36, 6, 33), 1),
    "heads_out_kernel": ((2, 33, 40), 0),
    "small_heads_kernel": ((40, 6, 8), 1),  # too small to factor, where the whole kernel would not be
}
STEPS = 20


def draw_descent(seed: int, dtype: str = "float32") -> tuple[dict, list[dict]]:
    """Weights, and gradients of twenty steps whose sizes differ by tensor over six decades, with rows of zeros.

    Gradients of few digits, of `dtype` bfloat16, add up in float32 without roundings that could change another one.
    """
    rng = np.random.default_rng(seed)
    weights = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    sizes = {name: 10.0 ** rng.uniform(-6, 0) for name in SHAPES}
    gradients = []
    for _ in range(STEPS):
        step = {name: sizes[name] * rng.normal(size=shape) for name, shape in SHAPES.items()}
        step["tall_embedding"] *= rng.random((97, 1)) < 0.2
        gradients.append({name: value.astype(dtype).astype(np.float32) for name, value in step.items()})
    return {name: value.astype(np.float32) for name, value in weights.items()}, gradients


def descend(optimizer: dict, weights, gradients) -> Descent:
    """The oracle's way down; gradients are given exactly, so only roundings count: eight units of the largest entry."""
    if optimizer["name"] == "adafactor":
        optimizer = {"heads": lambda path, shape: HEADS.get(path), **optimizer}
    built, schedule = build_optimizer(**optimizer)
    descent = Descent(weights, built, roundoff=UNIT_ROUNDOFF["float32"], roundings=UPDATE_ROUNDINGS)
    for number, step in enumerate(gradients):
        step = {name: value.astype(np.float64) for name, value in step.items()}
        errors = {
            name: np.where(value == 0, 0.0, 8 * UNIT_ROUNDOFF["float32"] * np.max(np.abs(value)))
            for name, value in step.items()
        }
        descent.step(step, errors, schedule=schedule(number))
    return descent


OPTIMIZERS = {
    "adamw": {"name": "adamw", "learning_rate": 1e-2, "weight_decay": 1e-3},
    "adamw, other moments": {"name": "adamw", "learning_rate": 1e-2, "beta_1": 0.8, "beta_2": 0.999, "epsilon": 1e-6},
    "adafactor": {"name": "adafactor", "learning_rate": 1e-2, "weight_decay": 1e-3, "beta_2_cap": 0.85},
    "adafactor, late cap": {"name": "adafactor", "learning_rate": 1e-2, "beta_2_cap": 0.999},
    "lion": {"name": "lion", "learning_rate": 1e-3, "weight_decay": 1e-4},
    "sgd": {"name": "sgd", "learning_rate": 1e-2, "weight_decay": 1e-3, "momentum": 0.8},
    "sgd in bfloat16": {"name": "sgd", "learning_rate": 1e-2, "weight_decay": 1e-3, "momentum_dtype": "bfloat16"},
    "adamw by pattern": {
        "name": "adamw",
        "learning_rate": 1e-2,
        "weight_decay": 1e-3,
        "learning_rate_multipliers": {"wide.*": 0.1, ".*_kernel": 2.0},
        "weight_decay_multipliers": {"square.*": 0.0},
    },
    "adamw on a schedule": {
        "name": "adamw",
        "learning_rate": {
            "name": "cosine",
            "learning_rate": 1e-2,
            "batch_size": 16,
            "total_examples": 400,
            "warmup_examples": 100,
        },
        "weight_decay": 1e-3,
    },
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@agreement_settings(examples=2)
@given(seed=st.integers(0, 2**32 - 1))
def test_updates_follow_the_equations(pool, name, seed):
    weights, gradients = draw_descent(seed, OPTIMIZERS[name].get("momentum_dtype", "float32"))
    expected = descend(OPTIMIZERS[name], weights, gradients)
    request = {"optimizer": OPTIMIZERS[name], "weights": weights, "gradients": gradients, "heads": HEADS}
    for backend, got in pool.ask("optimize", **request).items():
        check_entries(got, expected.weights, expected.allowed, who=f"{backend}, {name}")
    if "torch" in pool.backends and OPTIMIZERS[name]["name"] == "adamw":
        got = pool.ask("optimize", backends=["torch"], fused=True, **request)["torch"]
        check_entries(got, expected.weights, expected.allowed, who=f"torch's fused kernel, {name}")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("adamw", {"weight_decay": 1e-3 * 1e-2}),
        ("adamw", {"weight_decay": 0.0}),
        ("adamw", {"beta_2": 0.951}),
        ("adamw", {"epsilon": 1e-7}),
        ("adamw", {"learning_rate": 1.0001e-2}),
        ("adafactor", {"beta_2_cap": 0.851}),
        ("adafactor", {"min_dim_size_to_factor": 128}),
        ("adafactor", {"heads": lambda path, shape: None}),
        ("adafactor", {"beta_1": 0.8984375}),
        ("sgd", {"momentum": 0.801}),
        ("sgd", {"momentum_dtype": "bfloat16"}),
        ("sgd in bfloat16", {"momentum_dtype": "float32"}),
        ("lion", {"beta_1": 0.899}),
        ("lion", {"beta_2": 0.98}),
        ("lion", {"weight_decay": 0.0}),
    ],
)
def test_another_equation_is_noticed(name, wrong):
    weights, gradients = draw_descent(1, OPTIMIZERS[name].get("momentum_dtype", "float32"))
    expected = descend(OPTIMIZERS[name], weights, gradients)
    as_float32 = {path: value.astype(np.float32) for path, value in expected.weights.items()}
    check_entries(as_float32, expected.weights, expected.allowed, who="the oracle")
    other = descend(OPTIMIZERS[name] | wrong, weights, gradients)
    with pytest.raises(AssertionError, match="entries off"):
        check_entries(other.weights, expected.weights, expected.allowed, who="another")


def test_decay_applies_to_kernels_alone_and_follows_the_schedule_but_not_the_rate():
    weights = {name: np.ones(shape) for name, shape in SHAPES.items()}
    nothing = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for rate in (1e-3, 1e-1):
        optimizer, _ = build_optimizer(name="adamw", learning_rate=rate, weight_decay=0.25)
        after = optimizer.step(weights, nothing, schedule=0.5)
        for name, value in after.items():
            np.testing.assert_array_equal(value, 0.875 if name.endswith("kernel") else 1.0)


@pytest.mark.parametrize(("total", "warmup"), [(300, 0), (300, 100), (10_000_000, 164_000)])
def test_schedule_follows_the_equation(pool, total, warmup):
    schedule = {
        "name": "cosine",
        "learning_rate": 3e-4,
        "batch_size": 20,
        "total_examples": total,
        "warmup_examples": warmup,
    }
    steps = sorted(
        {0, 1, 2, warmup // 20, warmup // 20 + 1, total // 40, total // 20 - 1, total // 20, total // 20 + 5}
    )
    expected = [3e-4 * warmup_cosine(20 * step, total_examples=total, warmup_examples=warmup) for step in steps]
    for got in pool.ask("schedule", schedule=schedule, steps=steps).values():
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=3e-4 * 1e-6)
