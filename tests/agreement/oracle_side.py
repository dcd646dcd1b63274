"""The oracle's answer to the requests that workers get, in the same terms."""

import re
from collections.abc import Callable

from tests.oracle.conditioning import conditions
from tests.oracle.examples import draw_problem
from tests.oracle.optimizers import SGD, Adafactor, AdamW, Lion, Optimizer, decays_kernels
from tests.oracle.schedule import warmup_cosine
from tests.oracle.siglip import siglip
from tests.oracle.training import Trajectory, train
from tests.tolerances import UNIT_ROUNDOFF, UPDATE_ROUNDINGS, gradient_errors, tolerances, well_conditioned

KINDS = {"adamw": AdamW, "adafactor": Adafactor, "lion": Lion, "sgd": SGD}


def answer_and_conditions(config, weights, batch, *, loss) -> tuple[dict, dict[str, float]]:
    """What `evaluate` should give, by name, and how errors grow on the way to each."""
    answer = siglip(config, weights, batch, loss=loss)
    return answer.named(), conditions(config, weights, batch, answer, loss=loss)


def answer_and_tolerances(config, weights, batch, *, loss, dtype) -> tuple[dict, dict[str, float]]:
    """What `evaluate` should give, by name, and how far off each may be."""
    answer, condition = answer_and_conditions(config, weights, batch, loss=loss)
    return answer, tolerances(config, dtype, condition)


def well_conditioned_problem(config, *, dtype, seed, **drawn) -> tuple[dict, dict]:
    """(weights, batch) from the first seed at or after `seed` that makes a case which the dtype's limits can judge.

    With two images and five tokens gradients can cancel to a few per cent of their parts, and bfloat16 keeps three
    digits.
    """
    for tried in range(seed, seed + 50):
        weights, batch = draw_problem(config, seed=tried, **drawn)
        measured = [answer_and_conditions(config, weights, batch, loss=loss)[1] for loss in ("sigmoid", "softmax")]
        if all(well_conditioned(config, dtype, condition) for condition in measured):
            return weights, batch
    raise RuntimeError(f"None of fifty seeds from {seed} makes a well conditioned case of {config} in {dtype}.")


def first_match(rules: dict[str, float], path: str) -> float:
    """The value of the first pattern that matches the whole path, else 1."""
    return next((value for pattern, value in rules.items() if re.fullmatch(pattern, path)), 1.0)


def attention_heads(config) -> Callable:
    """For the oracle's Adafactor: the layout of a two-tower model's attention kernels, by their names."""

    def layout(path: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int] | None:
        tower = {"image": config["vision"], "text": config["text"]}.get(path.partition("/")[0])
        *_, part, name = path.split("/")
        if tower is None or part not in ("attention", "map_head") or not name.endswith("_kernel"):
            return None
        head = tower["width"] // tower["num_heads"]
        return ((-1, head, shape[1]), 0) if name == "out_kernel" else ((shape[0], -1, head), 1)

    return layout


def build_optimizer(
    *, name, learning_rate, weight_decay=0.0, learning_rate_multipliers=None, weight_decay_multipliers=None, **own
) -> tuple[Optimizer, "object"]:
    """The optimizer that `train` is asked for, and the factor of its schedule after k updates."""
    rates, decays = learning_rate_multipliers or {}, weight_decay_multipliers or {}
    schedule = learning_rate if isinstance(learning_rate, dict) else None
    optimizer = KINDS[name](
        learning_rate=schedule["learning_rate"] if schedule else learning_rate,
        weight_decay=weight_decay,
        rate_share=lambda path: first_match(rates, path),
        decay_share=lambda path: decays_kernels(path) * first_match(decays, path),
        **own,
    )
    if not schedule:
        return optimizer, lambda updates: 1.0

    def factor(updates: int) -> float:
        return warmup_cosine(
            updates * schedule["batch_size"],
            total_examples=schedule["total_examples"],
            warmup_examples=schedule["warmup_examples"],
        )

    return optimizer, factor


def trajectory(
    config, weights, batches, *, optimizer, loss, dtype, clip_norm=None, ema_decay=None, keep=(), kind=None
) -> Trajectory:
    """What `train` should give. `kind` replaces the optimizer's class, to see a wrong one fail."""
    if optimizer["name"] == "adafactor":
        optimizer = {**optimizer, "heads": attention_heads(config)}
    built, schedule = build_optimizer(**optimizer)
    if kind is not None:
        built.__class__ = kind
    _, relative = answer_and_tolerances(config, weights, batches[0], loss=loss, dtype=dtype)
    return train(
        config,
        weights,
        batches,
        built,
        loss=loss,
        schedule=schedule,
        errors_of=lambda gradients: gradient_errors(gradients, relative),
        roundoff=UNIT_ROUNDOFF["float32"],
        roundings=UPDATE_ROUNDINGS,
        clip_norm=clip_norm,
        ema_decay=ema_decay,
        keep=keep,
    )
