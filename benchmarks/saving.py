"""The time that training stands still for a checkpoint: until it is written, and until its part is copied for that.

    KERAS_BACKEND=torch python -m benchmarks.saving
    KERAS_BACKEND=torch torchrun --nproc-per-node 2 -m benchmarks.saving --zero

In turn, after a step of a model whose weights, slots and average are some 100 million numbers: the whole state is
gathered, and one process writes it, for which all wait (`checkpoint.save`); and each process copies its part, which a
thread writes (`BackgroundSaving`). A step waits for the device, so that the second is not measured with the first.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import keras
import numpy as np

from benchmarks.device import write_results
from diptych import backends
from diptych.core.training.background_saving import BackgroundSaving
from diptych.core.training.checkpoint import save
from diptych.core.training.checkpoint_parts import own_pieces
from diptych.core.training.ema import Ema
from diptych.core.training.objectives import Objective
from diptych.core.training.optimizers import AdamW
from diptych.engine.training.terms.contrastive import Contrastive
from diptych.models import SigLIP, SigLIPConfig, TextConfig, VisionConfig

BATCH, TOKENS = 8, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=64_000, help="rows of 384 numbers, four times in the state")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--zero", action="store_true", help="slots and average are spread over the processes")
    parser.add_argument("--folder", type=Path, help="on the disk that is written to; by default a temporary one")
    asked = parser.parse_args()
    placement = backends.join(os.environ, zero=asked.zero)
    size = {"width": 384, "depth": 1, "mlp_dim": 384, "num_heads": 6}
    config = SigLIPConfig(
        vision=VisionConfig(**size, patch_size=4, image_size=8),
        text=TextConfig(**size, vocab_size=asked.vocabulary, context_length=TOKENS),
    )
    model, optimizer = SigLIP(config, seed=1), AdamW(1e-4)
    average = Ema(model.trainable_variables, decay=0.99)
    shared = {"distributed": True} if placement.processes > 1 else {}
    step = backends.train_step(
        model, Objective({"contrastive": Contrastive(**shared)}), optimizer, ema=average, placement=placement
    )
    groups = {
        "weights": {variable.path: variable for variable in model.variables},
        "optimizer": optimizer.named_slots(),
        "ema": average.named(),
    }
    numbers = sum(int(np.prod(v.shape)) for variables in groups.values() for v in variables.values())

    def stepped() -> None:
        rng = np.random.default_rng(placement.process)
        picture = rng.integers(0, 256, (BATCH, 8, 8, 3)).astype("uint8")
        logs = step({"image": picture, "text": rng.integers(0, asked.vocabulary, (BATCH, TOKENS)).astype("int32")})
        float(keras.ops.convert_to_numpy(logs["loss"]))
        placement.wait()

    def together(work: Callable[[], object]) -> tuple[float, float]:
        """The seconds until the slowest process is done, and the most that one's thread of the loop has computed."""
        started, computed = time.perf_counter(), time.thread_time()
        work()
        told = placement.told([time.perf_counter() - started, time.thread_time() - computed])
        return max(wall for wall, _ in told), max(cpu for _, cpu in told)

    with tempfile.TemporaryDirectory(dir=asked.folder) as own:
        folder = Path(placement.told(own)[0])
        saving, found = BackgroundSaving(folder / "parts", placement), []

        def whole(number: int) -> None:
            step.synchronize()
            if placement.writes:
                arrays = {
                    group: {name: np.array(keras.ops.convert_to_numpy(v.value)) for name, v in variables.items()}
                    for group, variables in groups.items()
                }
                save(folder / "whole", number, arrays, {})
            placement.wait()

        def begun(number: int) -> None:
            held = {group: step.held(variables) for group, variables in groups.items()}
            saving.begin(number, own_pieces(held, placement.process, placement.processes), {})

        for number in range(asked.repetitions):
            stepped()
            still_whole = together(lambda number=number: whole(number))
            stepped()
            still = together(lambda number=number: begun(number))
            rest = together(saving.settle)
            found.append((*still_whole, *still, *rest))
        placement.wait()
    middle = [median(column) for column in zip(*found, strict=True)]
    kinds = ("whole, written", "part, copied", "part, written behind")
    columns = [f"{kind}{of}" for kind in kinds for of in ("", ", computing")]
    named = dict(zip(columns, middle, strict=True))
    if placement.writes:
        print(f"{placement.processes} processes, {numbers / 1e6:.1f} million numbers")
        for name, seconds in named.items():
            print(f"{name}: {seconds:.3f} s")
        write_results(
            f"saving_{placement.processes}_processes",
            {"processes": placement.processes, "zero": asked.zero, "numbers": numbers, "seconds": named, "all": found},
        )
    backends.leave()


if __name__ == "__main__":
    main()
