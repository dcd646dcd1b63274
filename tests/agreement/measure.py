"""Print how far the backends are from the oracle and from each other, as the tables of docs/numerics.md.

    python -m tests.agreement.measure

Errors are relative to the norm of a tensor. "of expected" divides by u sqrt(length) condition of `tests.tolerances`.
"""

from collections import defaultdict
from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.agreement.compare import named, relative_error
from tests.agreement.oracle_side import answer_and_conditions, trajectory, well_conditioned_problem
from tests.agreement.pool import Pool, start_pool
from tests.agreement.strategies import agreement_settings, batch_shapes, conditionings, configs, optimizers
from tests.agreement.test_training import STEPS, draw_run
from tests.tolerances import expected_errors

CASES, RUNS = 12, 6


def kind(name: str) -> str:
    return "gradients" if "/" in name else "loss" if name == "loss" else "embeddings"


def measure_models(pool: Pool, dtype: str, cases: int = CASES) -> None:
    """Embeddings, loss and gradients of drawn configurations."""
    errors, shares = defaultdict(list), defaultdict(list)

    @agreement_settings(examples=cases)
    @given(config=configs(), batch_shape=batch_shapes(), drawn=st.lists(conditionings(), min_size=3, max_size=3))
    def collect(config, batch_shape, drawn):
        for conditioning in drawn:
            weights, batch = well_conditioned_problem(config, dtype=dtype, **batch_shape, **conditioning)
            for loss in ("sigmoid", "softmax"):
                expected, conditions = answer_and_conditions(config, weights, batch, loss=loss)
                allowed = expected_errors(config, dtype, conditions)
                replies = pool.ask("evaluate", config=config, weights=weights, batch=batch, loss=loss, dtype=dtype)
                got = {backend: named(reply) for backend, reply in replies.items()}
                for name, value in expected.items():
                    if not np.any(value):
                        continue
                    for backend in got:
                        error = relative_error(got[backend][name], value)
                        errors[kind(name), f"{backend} – oracle"].append(error)
                        shares[kind(name), f"{backend} – oracle"].append(error / allowed[name])
                    for first, second in combinations(got, 2):
                        error = relative_error(got[first][name], got[second][name])
                        errors[kind(name), f"{first} – {second}"].append(error)
                        shares[kind(name), f"{first} – {second}"].append(error / allowed[name])

    collect()
    print(f"\n{dtype}, {cases} configurations, three batches and both losses each\n")
    print("| | compared | tensors | median | largest | largest of expected |\n|---|---|---|---|---|---|")
    for (what, pair), values in sorted(errors.items()):
        print(
            f"| {what} | {pair} | {len(values):,} | {np.median(values):.1e} | {np.max(values):.1e} "
            f"| {np.max(shares[what, pair]):.2f} |"
        )


def measure_training(pool: Pool, runs: int = RUNS) -> None:
    """Twenty steps of drawn optimizers on drawn configurations."""
    rows = []

    @agreement_settings(examples=runs)
    @given(config=configs(largest_depth=1), conditioning=conditionings(), optimizer=optimizers())
    def collect(config, conditioning, optimizer):
        weights, batches = draw_run(config, conditioning)
        training = {"optimizer": optimizer, "loss": "sigmoid", "dtype": "float32", "clip_norm": 1.0, "keep": (1, STEPS)}
        expected = trajectory(config, weights, batches, **training)
        for backend, reply in pool.ask("train", config=config, weights=weights, batches=batches, **training).items():
            losses = np.asarray([log["loss"] for log in reply["logs"]])
            shares = [
                np.max(np.abs(reply["weights"][STEPS][path] - value) / expected.allowed[STEPS][path])
                for path, value in expected.weights[STEPS].items()
            ]
            curve = np.max(np.abs(losses - expected.losses) / np.abs(expected.losses))
            rows.append((optimizer["name"], backend, curve, np.max(shares)))

    collect()
    print(
        f"\n{STEPS} training steps, {runs} runs: losses against the oracle, weights against what is allowed of them\n"
    )
    print("| optimizer | backend | runs | losses, largest | weights, largest of allowed |\n|---|---|---|---|---|")
    for optimizer, backend in sorted({row[:2] for row in rows}):
        chosen = [row for row in rows if row[:2] == (optimizer, backend)]
        print(
            f"| {optimizer} | {backend} | {len(chosen)} | {max(row[2] for row in chosen):.1e} "
            f"| {max(row[3] for row in chosen):.2f} |"
        )


def main() -> None:
    pool, facts, missing = start_pool()
    try:
        for backend in pool.backends:
            print(f"{facts[backend]['device']}: {facts[backend]['versions']}")
        for backend, reason in missing.items():
            print(f"without {backend}: {reason}")
        measure_models(pool, "float32")
        measure_models(pool, "mixed_bfloat16", CASES // 2)
        measure_training(pool)
    finally:
        pool.stop()


if __name__ == "__main__":
    main()
