"""Pictures and their classes as Keras takes them: prepared batch by batch, so that no more is in memory."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

from diptych.core.data.processor.image_processor import ImageProcessor, Item
from diptych.core.data.records import BadExample
from diptych.core.data.sources.labels import ClassNames
from diptych.models.classifier.config import ClassifierConfig

_PICTURES = (bytes, str, Path, Image.Image)


class PictureBatches(keras.utils.PyDataset):
    """Batches of a processor's inputs, with targets where there are any.

    Args:
        processor: prepares pictures.
        pictures: one, or several, as the processor takes them.
        targets: [pictures, ...], or None.
        batch_size: the last batch may be smaller.
        shuffle: whether the order changes with each epoch, as NumPy draws it from seed 0.

    Attributes:
        error: what a picture was refused for.
    """

    def __init__(
        self,
        processor: ImageProcessor,
        pictures: Item | Iterable[Item],
        targets: np.ndarray | None,
        *,
        batch_size: int,
        shuffle: bool = False,
    ):
        super().__init__()
        self._pictures = [pictures] if _is_one(pictures) else list(pictures)  # type: ignore[arg-type]
        if targets is not None and len(targets) != len(self._pictures):
            raise ValueError(f"Each picture needs its class: got {len(self._pictures)} and {len(targets)}.")
        self._processor, self._targets, self._batch_size = processor, targets, batch_size
        self._rng = np.random.default_rng(0) if shuffle else None
        self._order = np.arange(len(self._pictures))
        self.error: BadExample | None = None
        self.on_epoch_end()

    def __len__(self) -> int:
        return -(-len(self._pictures) // self._batch_size)

    def __getitem__(self, index: int) -> tuple:
        rows = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        try:
            inputs = self._processor.images([self._pictures[row] for row in rows])
        except BadExample as error:
            self.error = error
            raise
        return (inputs,) if self._targets is None else (inputs, self._targets[rows])

    def on_epoch_end(self) -> None:
        """Draws the order of the next epoch."""
        if self._rng is not None:
            self._order = self._rng.permutation(len(self._pictures))


@contextmanager
def keeping_values(model: keras.Model, batches: PictureBatches) -> Iterator[None]:
    """Around a loop of Keras over pictures: where one ends it by an error, that error is raised as it is, and the
    model's variables have their values afterwards.

    On jax Keras takes them out of the model until the loop has ended, and never gives them back after an error; on
    tensorflow the error arrives as text within another.
    """
    optimizer = getattr(model, "optimizer", None)
    held = [(variable, variable.value) for variable in (*model.variables, *(optimizer.variables if optimizer else ()))]
    try:
        yield
    except BaseException:
        getattr(model, "jax_state_sync", lambda: None)()
        for variable, value in held:
            if variable._value is None:
                variable.assign(value)
        if batches.error is not None:
            raise batches.error from None
        raise


def are_pictures(x: Any) -> bool:
    """Whether these are pictures that are still to be prepared, and not a model's inputs."""
    if _is_one(x):
        return True
    if isinstance(x, np.ndarray):
        return x.dtype == np.uint8
    return isinstance(x, Sequence) and bool(x) and _is_one(x[0])


def targets_of(config: ClassifierConfig, labels: Sequence[Any]) -> np.ndarray:
    """Classes, by name or number -> int32 [n]; with several labels, sequences of them -> float32 [n, classes].

    Raises:
        BadExample: a ValueError, for a class that there is none of.
    """
    names = ClassNames(config.classes)

    def number(label: Any) -> int:
        known = not isinstance(label, str) and 0 <= int(label) < len(config.classes)
        return int(label) if known else names.number(str(label))

    if not config.several_labels:
        return np.array([number(label) for label in labels], np.int32)
    targets = np.zeros((len(labels), len(config.classes)), np.float32)
    for row, those in enumerate(labels):
        targets[row, [number(label) for label in ([those] if isinstance(those, str) else those)]] = 1.0
    return targets


def _is_one(x: Any) -> bool:
    return isinstance(x, _PICTURES) or (isinstance(x, np.ndarray) and x.dtype == np.uint8 and x.ndim == 3)
