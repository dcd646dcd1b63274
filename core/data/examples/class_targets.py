"""The class, or the classes, of an example as numbers, and how far it is mixed with another."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from diptych.core.data.batch import ArrayField
from diptych.core.data.records import BadExample, Record
from diptych.core.data.sources.labels import ClassNames


@dataclass(frozen=True, kw_only=True)
class ClassTargets:
    """Makes "label", or "labels" of pictures that may have several, of a record's labels (`Preprocess.makers`).

    Attributes:
        classes: those that there are.
        several: whether a picture may have any number of labels.
        mixup: α of the share λ ~ Beta(α, α) at which a batch is mixed with itself (`terms.classification`); 0 for none.
    """

    reads_pixels: ClassVar[bool] = False
    classes: ClassNames
    several: bool = False
    mixup: float = 0.0

    @property
    def declared(self) -> Mapping[str, ArrayField]:
        """The fields that it makes."""
        last = len(self.classes.names) - 1
        fields = {"label": ArrayField(np.int32, (("batch",),), (0, last), "the number of the picture's class")}
        if self.several:
            fields = {"labels": ArrayField(np.float32, (("batch", "classes"),), (0, 1), "1 for each class it has")}
        if self.mixup:
            fields["mixup"] = ArrayField(np.float32, (("batch",),), (0.5, 1), "share of the picture itself")
        return fields

    def __call__(self, record: Record, pixels: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The fields of one example.

        Raises:
            BadExample: label_missing, label_unknown, and label_repeated for several labels where one is needed.
        """
        fields = self.of(record)
        if self.mixup:
            share = rng.beta(self.mixup, self.mixup)
            fields["mixup"] = np.array(max(share, 1 - share), np.float32)
        return fields

    def of(self, record: Record) -> dict[str, np.ndarray]:
        """As the call, without mixing."""
        if self.several:
            targets = np.zeros(len(self.classes.names), np.float32)
            targets[self.classes.numbers(record.labels)] = 1
            return {"labels": targets}
        if not record.labels:
            raise BadExample("label_missing", record.key)
        if len(record.labels) > 1:
            raise BadExample("label_repeated", f"{', '.join(record.labels[:5])}: --several-labels takes any number")
        return {"label": np.array(self.classes.number(record.labels[0]), np.int32)}
