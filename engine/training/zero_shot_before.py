"""The zero-shot classes of a classifier's held-out pictures, found by its checkpoint before the first step."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from diptych.core.evaluation.classification import ClassificationResult
from diptych.core.evaluation.several_labels import SeveralLabelsResult
from diptych.core.files.errors import HubError
from diptych.core.files.json_objects import write_json
from diptych.core.report.tables import headline
from diptych.engine.embedding.encoder import Encoder
from diptych.engine.training.start import Start
from diptych.models import ClassifierConfig

FILE = "zero_shot_before.json"
"""In the run's folder."""

Scored = Mapping[str, ClassificationResult | SeveralLabelsResult]
"""What was found, by the name of the set."""


@dataclass(frozen=True, kw_only=True)
class ZeroShotBefore:
    """The zero-shot classification of each held-out set by the names of the classes, or why there is none."""

    found: Scored = field(default_factory=dict)
    none_because: str = ""

    def __str__(self) -> str:
        shares = ", ".join(f"{headline(result)} of {name.lower()}" for name, result in self.found.items())
        return f"Zero-shot, before the first step: {shares or f'none, because {self.none_because}'}"

    def save(self, path: Path) -> None:
        """Stores it as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `save` stored, in this process or an earlier one."""
        if not path.is_file():
            return cls(none_because="the run began with fresh weights")
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def encoder_of(start: Start) -> Encoder | str:
    """The whole model that the image tower of a beginning comes from; or, in words, why it cannot read texts."""
    origin = start.image
    if origin is None:
        return "the run began with fresh weights"
    if isinstance(origin.config, ClassifierConfig):
        return f"{origin.name} is a classifier, which has no text tower"
    try:
        return Encoder.open(origin.name)
    except (FileNotFoundError, ValueError, HubError) as error:  # no vocabulary or text tower, or they do not fit
        return f"the text tower of {origin.name} cannot be used: {error}"
