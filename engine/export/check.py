"""The check of an exported tower: its embeddings against the model's, and its speed."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from diptych.engine.export.smaller import LARGEST_DIFFERENCES, Precision
from diptych.engine.export.towers import NUM_PATCHES, Tower

Run = Callable[[dict[str, np.ndarray]], np.ndarray]

BATCHES = (1, 2, 5)
TIMED_BATCHES = (1, 16)
TIMED_SECONDS = 0.3


class ExportError(ValueError):
    """An export that cannot be made, or that was made and is wrong; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was found: the greatest difference, over how many random inputs, and the milliseconds an item in batches of
    so many.
    """

    difference: float
    compared: int
    milliseconds: dict[int, float]


def check(tower: Tower, run: Run, file_name: str, *, precision: Precision = "float32", seed: int = 0) -> Checked:
    """Compares what `run` says to random inputs with what Keras says, and times it.

    Args:
        tower: the tower as Keras has it.
        run: the exported tower, as a function of arrays by name.
        file_name: for messages.
        precision: of its weights, which decides how far apart both may be.
        seed: of the inputs.

    Raises:
        ExportError: where a difference exceeds that of `LARGEST_DIFFERENCES` or is no number, the shapes differ, or it
            does not run.
    """
    rng = np.random.default_rng(seed)
    greatest, compared = 0.0, 0
    for batch, num_patches in zip(BATCHES, _lengths(tower), strict=True):
        inputs = tower.draw(rng, batch, num_patches)
        try:
            found = np.asarray(run(inputs))
        except Exception as error:  # whatever the runtime raises: it has no common base, and the file must go
            raise ExportError(
                f"{file_name} does not run on {_described(inputs)}: {type(error).__name__}: {error}"
            ) from error
        name, most = f"{file_name}, {_described(inputs)}", LARGEST_DIFFERENCES[precision]
        greatest = max(greatest, difference(found, tower.reference(inputs), name, most))
        compared += batch
    times = {size: _milliseconds(run, tower.draw(rng, size)) / size for size in TIMED_BATCHES}
    return Checked(difference=greatest, compared=compared, milliseconds=times)


def difference(found: np.ndarray, expected: np.ndarray, name: str, most: float) -> float:
    """The greatest difference between two arrays; ExportError where it is above `most`."""
    if found.shape != expected.shape:
        raise ExportError(f"{name}: the file's embeddings have the shape {found.shape}, the model's {expected.shape}.")
    greatest = float(np.max(np.abs(found - expected), initial=0.0))
    if not greatest <= most:  # so written, NaN is refused
        raise ExportError(
            f"{name}: the file's embeddings differ from the model's by {greatest:.3g}, at most {most:.0e} is rounding."
        )
    return greatest


def _lengths(tower: Tower) -> list[int | None]:
    """For each batch the number of patches, other ones where a tower takes any."""
    if NUM_PATCHES not in tower.shapes.get("patches", ()):
        return [None] * len(BATCHES)
    most = tower.card["max_num_patches"]
    return [most, max(1, most // 2), most + 3]


def _milliseconds(run: Run, inputs: dict[str, np.ndarray]) -> float:
    """The median time of a call."""
    run(inputs)  # the first call may compile
    times: list[float] = []
    while not times or (sum(times) < TIMED_SECONDS and len(times) < 200):
        start = time.perf_counter()
        run(inputs)
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def _described(inputs: dict[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
