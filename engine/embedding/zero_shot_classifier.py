"""A zero-shot classifier: the probabilities of classes that are only named, for pictures."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from diptych.core.data.processor.image_processor import SINGLE_PICTURES, Item
from diptych.core.evaluation.calibration import sigmoid
from diptych.core.evaluation.classification import most_probable, softmax_probabilities
from diptych.core.evaluation.prompts import embed_classes, usual_templates

if TYPE_CHECKING:  # it imports Keras
    from diptych.engine.embedding.encoder import Encoder


class ZeroShotClassifier:
    """Pictures -> how well each class fits them, by its name alone (Radford et al. 2021, section 3.1.4).

    >>> model = ZeroShotClassifier.from_preset("hf://google/siglip2-base-patch16-224", classes=["cat", "dog"])
    >>> model.classify("c.jpg")
    [{'cat': 0.98, 'dog': 0.02}]

    Each class's name is put into every template, and the unit vectors of these texts are averaged. It has the methods
    of `ImageClassifier`, which is trained on pictures of its classes.

    Args:
        encoder: a model and its processor.
        classes: names, in the order of the outputs.
        templates: sentences with "{}" for the name; by default seven general ones.
        several_labels: whether a picture may have any number of the classes: probabilities are then each class's own,
            as the sigmoid loss trains them, and otherwise shares that add up to 1.

    Raises:
        ValueError: for fewer than two classes, and one named twice; for several labels by a model that was trained by
            a softmax, whose logits have no bias.
    """

    def __init__(
        self,
        encoder: "Encoder",
        classes: Sequence[str],
        templates: Sequence[str] | None = None,
        *,
        several_labels: bool = False,
    ):
        self.encoder, self.classes, self.several_labels = encoder, tuple(classes), several_labels
        self.templates = tuple(usual_templates("") if templates is None else templates)
        if isinstance(classes, str) or len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes must be two names or more, all different, got {classes!r:.200}.")
        if several_labels and encoder.logit_bias is None:
            raise ValueError(
                "several_labels asks for each class's own probability, and this model was trained by a softmax over a "
                "batch: it has no bias, and its logits only say which class fits better."
            )

    @classmethod
    def from_preset(
        cls,
        preset: str | Path,
        *,
        classes: Sequence[str],
        templates: Sequence[str] | None = None,
        several_labels: bool = False,
        revision: str | None = None,
        dtype: str | None = None,
    ) -> Self:
        """A classifier by a checkpoint; `preset`, `revision` and `dtype` as for `Encoder.open`."""
        from diptych.engine.embedding.encoder import Encoder

        encoder = Encoder.open(preset, revision=revision, dtype=dtype)
        chosen = usual_templates(preset) if templates is None else templates
        return cls(encoder, classes, chosen, several_labels=several_labels)

    @cached_property
    def class_embeddings(self) -> np.ndarray:
        """float [classes, dim], each of length 1."""
        # SigLIP's labels are cleaned as its paper's evaluator does; CLIP's are left as they are.
        canonicalize = self.encoder.logit_bias is not None
        return embed_classes(self.classes, self.templates, self.encoder.embed_texts, canonicalize=canonicalize)

    def predict(self, pictures: Item | Iterable[Item], *, batch_size: int = 64) -> np.ndarray:
        """Logits, float64 [n, classes], of pictures: each encoded bytes, a path, a Pillow image or uint8 [height,
        width, 3].

        Raises:
            BadExample: for a picture that cannot be read, which it names.
        """
        alone = isinstance(pictures, SINGLE_PICTURES) or (isinstance(pictures, np.ndarray) and pictures.ndim == 3)
        items = [pictures] if alone else list(pictures)  # type: ignore[arg-type]
        vectors = self.encoder.embed_images(items, batch_size=batch_size)
        logits = self.encoder.logit_scale * np.asarray(vectors @ self.class_embeddings.T, np.float64)
        return logits if self.encoder.logit_bias is None else logits + self.encoder.logit_bias

    def classify(self, pictures: Item | Iterable[Item], *, top_k: int | None = 5) -> list[dict[str, float]]:
        """For each picture its most probable classes with their probabilities, best first; arguments as for `predict`.

        Args:
            top_k: how many classes; None for all.
        """
        logits = self.predict(pictures)
        return most_probable(
            self.classes, sigmoid(logits) if self.several_labels else softmax_probabilities(logits), top_k
        )
