"""The checkers: what a backend answered, against the oracle and against another backend.

Each raises an AssertionError that lists everything that is wrong. Comparisons are written so that a NaN fails them.
"""

from collections.abc import Mapping

import numpy as np

from tests.oracle.training import Trajectory
from tests.tolerances import Limits


def relative_error(got, expected) -> float:
    """‖got - expected‖ / ‖expected‖ in float64; 0 where both are 0, infinite where only `expected` is."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    difference, norm = np.linalg.norm(got - expected), np.linalg.norm(expected)
    return float(difference / norm) if norm else (0.0 if difference == 0 else np.inf)


def named(reply: Mapping) -> dict[str, np.ndarray]:
    """A worker's reply to `evaluate` under the names of `Answer.named()`."""
    outputs = {name: reply[name] for name in ("image_embedding", "text_embedding", "loss")}
    return outputs | dict(reply["gradients"])


def check_values(got: Mapping, expected: Mapping, tolerances: Mapping[str, float], *, who: str) -> None:
    """The same names and shapes, and values within the tolerance of each name, relative to its norm."""
    wrong = _different_names(got, expected)
    for name in sorted(set(got) & set(expected)):
        if np.shape(got[name]) != np.shape(expected[name]):
            wrong.append(f"{name}: shape {np.shape(got[name])}, expected {np.shape(expected[name])}")
        elif not (error := relative_error(got[name], expected[name])) <= tolerances[name]:
            wrong.append(f"{name}: relative error {error:.1e}, at most {tolerances[name]:.1e} is allowed")
    assert not wrong, f"{who}:\n  " + "\n  ".join(wrong)


def check_answer(reply: Mapping, expected: Mapping, tolerances: Mapping[str, float], *, who: str) -> None:
    """A worker's reply to `evaluate`: values and gradients within tolerance, and every gradient a dense tensor."""
    assert not reply["sparse"], f"{who}: gradients that are not dense tensors: {reply['sparse']}"
    check_values(named(reply), expected, tolerances, who=who)


def check_entries(got: Mapping, expected: Mapping, allowed: Mapping, *, who: str) -> None:
    """Arrays by path, each entry within what is allowed of it."""
    wrong = _different_names(got, expected)
    for path in sorted(set(got) & set(expected)):
        error = np.abs(np.asarray(got[path], np.float64) - expected[path])
        inside = error <= allowed[path]
        if not np.all(inside):
            share = np.max(np.where(inside, 0.0, error / np.maximum(allowed[path], 1e-300)))
            wrong.append(
                f"{path}: {np.size(inside) - np.sum(inside)} of {np.size(inside)} entries off, by {share:.1e} times"
            )
    assert not wrong, f"{who}:\n  " + "\n  ".join(wrong)


def check_training(reply: Mapping, expected: Trajectory, limits: Limits, *, who: str) -> None:
    """A worker's reply to `train`: losses, gradient norms, weights after the steps that were kept, and the average."""
    logs = {name: np.asarray([log[name] for log in reply["logs"]]) for name in ("loss", "gradient_norm", "finite")}
    assert np.all(logs["finite"] == 1), f"{who}: steps were skipped: {logs['finite']}"
    curve = limits.curve + np.asarray(expected.loss_errors) / np.abs(expected.losses)
    _check_curve(logs["loss"], expected.losses, curve, who=f"{who}, losses")
    norms = np.full(len(expected.gradient_norms), limits.gradient_norm)
    _check_curve(logs["gradient_norm"], expected.gradient_norms, norms, who=f"{who}, gradient norms")
    assert set(reply["weights"]) == set(expected.weights)
    for step, weights in expected.weights.items():
        check_entries(reply["weights"][step], weights, expected.allowed[step], who=f"{who}, weights after step {step}")
    last = expected.allowed[max(expected.allowed)]
    check_entries(reply["averages"], expected.averages, last, who=f"{who}, moving average")


def _check_curve(got, expected, limits, *, who) -> None:
    assert len(got) == len(expected), f"{who}: {len(got)} steps, expected {len(expected)}"
    errors = np.abs(np.asarray(got) - expected) / np.abs(expected)
    step = np.argmax(errors / limits)
    assert np.all(errors <= limits), f"{who}: off by {errors[step]:.1e} at step {step + 1}, allowed {limits[step]:.1e}"


def _different_names(got, expected) -> list[str]:
    missing, unknown = sorted(set(expected) - set(got)), sorted(set(got) - set(expected))
    return [f"missing: {name}" for name in missing] + [f"unknown: {name}" for name in unknown]
