"""Training steps across virtual CPU devices, printed as JSON for `tests.backends.jax.process`.

The state is spread over half of the devices, the batch over all of them.
"""

import json
import math
from functools import partial

import jax
import keras
import numpy as np

from diptych import backends
from diptych.backends import shares
from diptych.core.placement import ALONE, Placement
from diptych.core.training.curated_objective import CuratedObjective
from diptych.core.training.curation import gumbel_noise
from diptych.core.training.ema import Ema
from diptych.core.training.optimizers import AdamW
from diptych.models import SigLIP
from tests.backends.jax.collectives import collectives
from tests.backends.spread_steps import CASES
from tests.engine.training.small_student import ALL, CONFIG, PAIRS, batch, objective, student

STEPS = 5
DEVICES = len(jax.devices())
SPREAD = Placement(devices=DEVICES, fsdp=DEVICES // 2)
BATCH = 2 * DEVICES


def joint(**arguments):
    """All of SigLIP 2's losses, a teacher, a moving average."""
    model = student(ALL)
    goal, teacher = objective(model, ALL, 0.9, pair_loss=backends.sigmoid_loss)
    average = Ema(model.trainable_variables, decay=0.9)
    step = make_step(model, goal, teacher=teacher, ema=average, **arguments)
    groups = {"goal": goal.variables, "teacher": teacher.named(), "average": average.named()}
    kept = {f"{group}/{name}": variable for group, found in groups.items() for name, variable in found.items()}
    return step, [batch(seed, BATCH) for seed in range(STEPS)], named(model) | kept


def curated(**arguments):
    """Half of each batch chosen by a reference model."""
    model = student(PAIRS)
    inner, _ = objective(model, PAIRS, pair_loss=backends.sigmoid_loss)
    goal = CuratedObjective(inner, SigLIP(CONFIG, seed=5), size=BATCH // 2)
    batches = []
    for seed in range(STEPS):
        whole = batch(seed, BATCH)
        noise = gumbel_noise(np.random.default_rng(seed), 2, len(whole["text"])).T
        batches.append({"image": whole["image"], "text": whole["text"], "selection_noise": noise})
    return make_step(model, goal, **arguments), batches, named(model)


def shared(name: str, **arguments):
    """A case of those that are also spread over torch's processes."""
    case = CASES[name](False)
    return (
        make_step(case.model, case.objective, **arguments),
        [case.batch(seed) for seed in range(STEPS)],
        named(case.model),
    )


def make_step(model, goal, **arguments):
    # A large epsilon, or Adam would make whole steps of the rounding in gradients that are zero.
    return backends.train_step(model, goal, AdamW(1e-2, epsilon=1e-2), clip_norm=1.0, **arguments)


def named(model) -> dict:
    return {variable.path: variable for variable in model.weights}


def outcome(build, **arguments) -> tuple[list[dict], dict, dict]:
    step, batches, kept = build(**arguments)
    logs = [{name: float(value) for name, value in step(b).items()} for b in batches]
    report = {}
    if arguments["placement"].devices > 1:
        arrays = jax.tree.leaves(step._state)
        report["devices"] = len(arrays[0].sharding.device_set)
        report["share"] = sum(x.addressable_data(0).size for x in arrays) / sum(x.size for x in arrays)
        with step._spread.scope():
            placed = step._spread.batch(batches[0])
            program = step._compiled.lower(step._state, step._read, placed).compile()
        report["sent"] = {name: sent._asdict() for name, sent in collectives(program.as_text()).items()}
        report["arguments"] = program.memory_analysis().argument_size_in_bytes
        report["held"] = sum(x.addressable_data(0).nbytes for x in jax.tree.leaves((step._state, step._read, placed)))
        used = [v for name, v in kept.items() if not name.startswith(("average/", "goal/"))] + step._fixed
        report["read"], report["moving"] = cut_bytes(used), cut_bytes(step._weights)
        report["gradients"] = sum(weight.nbytes for weight in step._state[0])
    step.synchronize()
    report["compilations"] = step.compilations
    report["kept on"] = max(len(variable.value.sharding.device_set) for variable in kept.values())
    return logs, {name: np.asarray(keras.ops.convert_to_numpy(v.value)) for name, v in kept.items()}, report


def cut_bytes(variables) -> int:
    """Of those that no device holds whole."""
    cut = [variable for variable in variables if shares.cut_axis(variable.shape, SPREAD.fsdp) is not None]
    return sum(4 * math.prod(variable.shape) for variable in cut)


def compared(build, **arguments) -> dict:
    """How far many devices are from one."""
    (logs, values, _), (spread_logs, spread_values, report) = (
        outcome(build, **arguments, placement=placement) for placement in (ALONE, SPREAD)
    )
    # After the first step weights differ by rounding, which moves a loss by up to its gradient's length times as much.
    moved_by = np.sqrt(sum(np.sum((values[name] - spread_values[name]) ** 2) for name in values))

    def difference(step: int, name: str) -> float:
        one, other = logs[step], spread_logs[step]
        explained = one["gradient_norm"] * moved_by if step and name.endswith("loss") else 0.0
        return float(abs(one[name] - other[name]) - explained) / max(1e-3, abs(one[name]))

    losses = [difference(step, "loss") for step in range(STEPS)]
    differences = [difference(step, name) for step in range(STEPS) for name in logs[step]]
    distances = [
        np.abs(values[name] - spread_values[name]).max() / np.abs(values[name]).max().clip(1.0) for name in values
    ]
    start = {name: keras.ops.convert_to_numpy(variable.value) for name, variable in build()[2].items()}
    moved = max(np.abs(values[name] - value).max() for name, value in start.items())
    found = {
        "losses": float(max(losses)),
        "logs": max(differences),
        "values": float(max(distances)),
        "moved": float(moved),
    }
    return report | found


def refusal(function) -> str:
    try:
        function()
    except ValueError as error:
        return str(error)
    return "accepted"


def main() -> None:
    shares.SMALLEST = 64  # the student's kernels have a few hundred numbers

    def uneven():
        step, batches, _ = joint(placement=Placement(devices=3))
        step(batches[0])

    print(
        json.dumps(
            {
                "joint": compared(joint),
                "joint in pieces": compared(joint, micro_batches=2),
                "curated": compared(curated),
                **{name: compared(partial(shared, name), micro_batches=2) for name in ("bit", "gpt1")},
                "uneven": refusal(uneven),
                "too many": refusal(lambda: joint(placement=Placement(devices=DEVICES + 1))),
            }
        )
    )


if __name__ == "__main__":
    main()
