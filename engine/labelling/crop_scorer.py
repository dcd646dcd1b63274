"""Scores of phrases for parts of pictures, by a model of two towers: what `SegmentDetector` asks."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from diptych.core.data.sources.phrases import CATEGORIES
from diptych.core.evaluation.calibration import sigmoid

MARGIN = 0.2
GROUND = 255
CROPS_AT_ONCE, PHRASES_AT_ONCE = 8, 64  # each batch is filled up to one shape, for which the model is compiled once
_REMEMBERED_PHRASES = 65_536


class CropScorer:
    """Scores a phrase by how much better it fits a crop than the best of CATEGORIES, things that many pictures show:

        score = exp(l) / (exp(l) + exp(max_c l_c)),   l = t x·y

    So a score is 1/2 where the phrase fits as well as that category, and does not depend on what else is looked for,
    nor on how rare a match was in training, which a sigmoid loss's bias does. That rule is ours.

    Args:
        encoder: of pictures and texts, such as `engine.embedding.encoder.Encoder`.
    """

    def __init__(self, encoder: Any):
        self._encoder = encoder
        self._phrases: dict[str, np.ndarray] = {}
        self._categories = self._texts(CATEGORIES)

    @property
    def name(self) -> str:
        """For a detector's fingerprint: another model has another name."""
        return f"crops, {MARGIN}, {self._encoder.fingerprint()}"

    def __call__(self, crops: Sequence[np.ndarray], phrases: Sequence[str]) -> np.ndarray:
        """(crops uint8 [h, w, 3], phrases) -> scores [crops, phrases] in [0, 1]."""
        squares = [in_square(crop) for crop in crops]
        images = self._encoder.embed_images(_filled(squares, CROPS_AT_ONCE), batch_size=CROPS_AT_ONCE)[: len(crops)]
        images = self._encoder.logit_scale * images.astype(np.float64)
        rivals = (images @ self._categories.T).max(axis=1, keepdims=True)
        return sigmoid(images @ self._texts(phrases).T - rivals)

    def _texts(self, phrases: Sequence[str]) -> np.ndarray:
        """Embeddings [phrases, dim]; captions share phrases, which are remembered."""
        fresh = [phrase for phrase in phrases if phrase not in self._phrases]
        if fresh:
            if len(self._phrases) + len(fresh) > _REMEMBERED_PHRASES:
                self._phrases.clear()
                fresh = list(phrases)
            vectors = self._encoder.embed_texts(_filled(fresh, PHRASES_AT_ONCE), batch_size=PHRASES_AT_ONCE)
            self._phrases |= dict(zip(fresh, vectors, strict=False))
        return np.stack([self._phrases[phrase] for phrase in phrases]).astype(np.float64)


def in_square(crop: np.ndarray) -> np.ndarray:
    """The crop uint8 [h, w, 3] in the middle of a white square that is wider than its longer side by MARGIN."""
    height, width = crop.shape[:2]
    side = round(max(height, width) * (1 + MARGIN))
    top, left = (side - height) // 2, (side - width) // 2
    square = np.full((side, side, 3), GROUND, np.uint8)
    square[top : top + height, left : left + width] = crop
    return square


def _filled(items: Sequence, size: int) -> list:
    """The items and repetitions of the first, up to a multiple of `size`."""
    return [*items, *[items[0]] * (-len(items) % size)]
