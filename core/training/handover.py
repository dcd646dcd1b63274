"""The handover between stages: which weights and slots are carried over, and in what shape."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import keras
import numpy as np

from diptych.core.training.checkpoint import Checkpoint, CheckpointError
from diptych.core.training.older_runs import slots_as_now

Adapt = Callable[[str, np.ndarray, tuple[int, ...]], np.ndarray | None]
"""(path of a weight, its value, the shape wanted) -> the value in that shape, or None where there is no way."""


@dataclass(frozen=True)
class Handover:
    """The names of what was carried over as it was, resized, begun afresh, and left behind."""

    carried: tuple[str, ...]
    resized: tuple[str, ...]
    fresh: tuple[str, ...]
    left: tuple[str, ...]

    def __str__(self) -> str:
        def shown(names: tuple[str, ...]) -> str:
            parts = sorted({name.partition("/")[0] for name in names})
            return f"{len(names)}" + (f" ({', '.join(parts)})" if names else "")

        return (
            f"{len(self.carried)} weights carried over, resized {shown(self.resized)}, fresh {shown(self.fresh)}, "
            f"left behind {shown(self.left)}"
        )


def hand_over(
    saved: Checkpoint,
    groups: Mapping[str, Mapping[str, keras.Variable]],
    *,
    adapt: Adapt,
    keep_optimizer: bool = True,
    may_leave: tuple[str, ...] = (),
    anew: tuple[str, ...] = (),
) -> Handover:
    """Gives the variables of a new stage the values that the stage before ended with.

    Weights of another shape are resized by `adapt`; weights that the stage before had not keep their initial values.
    The optimizer's slots of a weight, their count of updates among them, are carried over where all of them have the
    same size, and are zero for all other weights; without `keep_optimizer` its counter starts anew, too. A teacher that
    was not there before becomes a copy of the student, and so does a moving average.

    Args:
        saved: the checkpoint at the end of the stage before.
        groups: `Learner.groups()` of the new stage.
        may_leave: beginnings of paths that the new stage may do without, such as "global_head/".
        anew: beginnings of paths that start from their initial values although the stage before had them.

    Raises:
        CheckpointError: for weights that cannot be resized, or would be lost.
    """
    weights, old = groups["weights"], saved.groups["weights"]
    left = sorted(old.keys() - weights.keys())
    if lost := [path for path in left if not path.startswith(may_leave)]:
        raise CheckpointError(
            f"The next stage has no place for {len(lost)} trained weights: {', '.join(lost[:5])}. A stage may leave "
            f"out {', '.join(may_leave) or 'nothing'}; the towers must be the same."
        )
    carried: list[str] = []
    resized: list[str] = []
    fresh: list[str] = []
    for path, variable in weights.items():
        if path not in old or path.startswith(anew):
            fresh.append(path)
            continue
        same = math.prod(variable.shape) == old[path].size
        variable.assign(_fitting(path, old[path], variable, adapt))
        (carried if same else resized).append(path)

    slots = groups["optimizer"]
    old_slots = slots_as_now(saved.groups["optimizer"], slots) if keep_optimizer else {}
    reset = {
        _weight_of(name)
        for name, variable in slots.items()
        # A table of positions may be flat in one tower and square in the next: the same numbers, the same slots.
        if name not in old_slots or old_slots[name].size != math.prod(variable.shape) or name.startswith(anew)
    }
    for name, variable in slots.items():
        value = np.zeros(variable.shape, variable.dtype) if _weight_of(name) in reset else old_slots[name]
        variable.assign(value.reshape(variable.shape))

    for group in ("ema", "teacher"):
        before = saved.groups.get(group, {})
        for path, variable in groups.get(group, {}).items():
            if path in before:
                variable.assign(_fitting(path, before[path], variable, adapt))
            else:
                variable.assign(np.array(keras.ops.convert_to_numpy(weights[path].value)))
    before = saved.groups.get("objective", {})
    for name, variable in groups.get("objective", {}).items():
        if name in before and before[name].shape == tuple(variable.shape):
            variable.assign(before[name])
    return Handover(tuple(carried), tuple(resized), tuple(fresh), tuple(left))


def _weight_of(slot: str) -> str:
    """The path of the weight whose slot has this name; the counter's own name for the counter."""
    return slot.rpartition("/")[0] or slot


def _fitting(path: str, value: np.ndarray, variable: keras.Variable, adapt: Adapt) -> np.ndarray:
    shape = tuple(variable.shape)
    if value.shape == shape:
        return value
    fitted = adapt(path, value, shape)
    if fitted is None or fitted.shape != shape:
        raise CheckpointError(
            f"{path} has the shape {list(value.shape)} at the end of the stage before and {list(shape)} in the next, "
            "and only positions and patch kernels can be resized. Give both stages the same widths and vocabulary."
        )
    return fitted.astype(value.dtype)
