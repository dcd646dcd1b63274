"""The memory of eight devices whose state is spread, printed as JSON for `tests.backends.jax.process`."""

import json

from diptych import backends
from diptych.backends import shares
from diptych.core.placement import Placement
from diptych.core.training.ema import Ema
from diptych.core.training.optimizers import AdamW
from tests.engine.training.small_student import PAIRS, batch, objective, student


def measured(fsdp: int) -> dict:
    """A step over eight devices, the state over so many of them."""
    model = student(PAIRS)
    goal, _ = objective(model, PAIRS, pair_loss=backends.sigmoid_loss)
    average = Ema(model.trainable_variables, decay=0.9)
    step = backends.train_step(model, goal, AdamW(1e-2), ema=average, placement=Placement(devices=8, fsdp=fsdp))
    fields = {name: batch(0)[name] for name in ("image", "text")}
    program = step.compiled_for(fields)
    variables = [variable for group in step._variables for variable in group]
    return {
        "arguments": program.memory_analysis().argument_size_in_bytes,
        "batch": sum(array.nbytes for array in fields.values()) // 8,
        "state": sum(shares.share(v.shape, fsdp) * v.value.dtype.itemsize for v in variables),
    }


def main() -> None:
    shares.SMALLEST = 64  # the student's kernels have a few hundred numbers
    print(json.dumps({fsdp: measured(fsdp) for fsdp in (1, 2, 4, 8)}))


if __name__ == "__main__":
    main()
