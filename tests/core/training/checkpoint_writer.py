"""A process that saves one checkpoint after another, to be killed: every value in a checkpoint follows from its step.

``python -m tests.core.training.checkpoint_writer FOLDER STEPS`` continues after the newest checkpoint and prints each
step once it is saved. Without STEPS it starts, for each line it reads, such a writer that never ends by itself; it
prints the writer's process id, and "ended" when it has been killed. Many writers then cost one import of NumPy.
"""

import os
import sys
from pathlib import Path

import numpy as np

from diptych.core.training.checkpoint import Checkpoint, remove_leftovers, restore_latest, save

VALUES = 20_000


def groups_of(step: int, values: int = VALUES) -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.Generator(np.random.Philox(key=step))
    kernel = rng.normal(size=(values // 4, 4)).astype(np.float32)
    return {
        "weights": {"tower/kernel": kernel, "../log_logit_scale": np.float32(step) * np.ones((), np.float32)},
        "optimizer": {"momentum": kernel.T * 2, "iterations": np.array(step)},
        "ema": {"tower/kernel": -kernel},
    }


def state_of(step: int) -> dict:
    return {"examples_seen": step * 256, "seed": 0, "skipped": {"image_truncated": step % 3}, "fingerprint": "d1p7"}


def assert_is_of_its_step(checkpoint: Checkpoint, values: int = VALUES) -> None:
    """Every array and the state are, bit for bit, those that belong to the checkpoint's step."""
    assert checkpoint.state == state_of(checkpoint.step)
    expected = groups_of(checkpoint.step, values)
    assert checkpoint.groups.keys() == expected.keys()
    for group, tensors in expected.items():
        assert checkpoint.groups[group].keys() == tensors.keys()
        for name, tensor in tensors.items():
            found = checkpoint.groups[group][name]
            assert found.dtype == tensor.dtype
            assert found.shape == tensor.shape
            assert found.tobytes() == tensor.tobytes(), f"{group} {name} of step {checkpoint.step}"


def write(folder: Path, steps: int) -> None:
    remove_leftovers(folder)
    checkpoint = restore_latest(folder)
    first = 0
    if checkpoint:
        assert_is_of_its_step(checkpoint)
        first = checkpoint.step + 1
    for step in range(first, first + steps):
        save(folder, step, groups_of(step), state_of(step))
        tell(step)


def tell(word: object) -> None:
    """Print a line in one write: unbuffered, ``print`` makes two, and a kill between them would join two lines."""
    os.write(sys.stdout.fileno(), f"{word}\n".encode())


def start_writers(folder: Path) -> None:
    for _ in sys.stdin:
        pid = os.fork()
        if not pid:
            tell(os.getpid())
            write(folder, sys.maxsize)
        os.waitpid(pid, 0)
        tell("ended")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        write(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        start_writers(Path(sys.argv[1]))
