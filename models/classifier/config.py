"""Configuration of image classifiers: an image tower, and the classes that it tells apart."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from diptych.models.bit.config import BiTConfig
from diptych.models.parts.config_checks import require
from diptych.models.siglip.config import NaFlexVisionConfig, VisionConfig, vision_kind

ClassifierVision = VisionConfig | NaFlexVisionConfig | BiTConfig
"""The image towers that classifiers are made of: those whose pictures lie in -1..1."""


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """An image tower with a linear head on what it pools."""

    describes: ClassVar[str] = "ImageClassifier"
    vision: ClassifierVision
    """Its `pooling` says what the head reads: "map" the attention pooling of SigLIP, "gap" the mean of the patch
    tokens, as transformers' SiglipForImageClassification and of BiT's last features, "cls" the class token."""
    classes: tuple[str, ...]
    """Names in the order of the head's outputs."""
    several_labels: bool = False
    """Whether a picture may have any number of labels, each with a sigmoid of its own; otherwise it has one, by
    softmax."""

    def __post_init__(self):
        if isinstance(self.vision, Mapping):
            object.__setattr__(self, "vision", vision_kind(self.vision)(**self.vision))
        object.__setattr__(self, "classes", tuple(self.classes))
        require(
            bool(self.classes) and all(isinstance(name, str) and name for name in self.classes),
            f"classes must be names, one or more, got {list(self.classes[:5])!r:.200}.",
        )
        twice = [name for name, count in Counter(self.classes).items() if count > 1]
        require(not twice, f"classes must differ, and {', '.join(twice[:5])} is named more than once.")
