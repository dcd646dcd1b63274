"""The finds and the knowledge of a checkpoint before a run's first step, kept in the run's folder for its end."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from diptych.core.files.atomic import replacing
from diptych.core.report.run.contents import Earlier, Samples

BEFORE = "before.npz"


@dataclass(frozen=True, kw_only=True)
class Before:
    """The first held-out set as it was embedded, and the numbers of the retention set."""

    image_embeddings: np.ndarray  # float32 [images, dim], L2-normalised
    text_embeddings: np.ndarray  # float32 [texts, dim], L2-normalised
    logit_scale: float
    logit_bias: float | None
    retention: Mapping[str, float] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Stores it in one file, without pickles."""
        plain = {"logit_scale": self.logit_scale, "logit_bias": self.logit_bias, "retention": dict(self.retention)}
        with replacing(path) as file:
            np.savez(
                file,
                plain=np.frombuffer(json.dumps(plain).encode(), np.uint8),
                image_embeddings=self.image_embeddings,
                text_embeddings=self.text_embeddings,
            )

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """What `save` stored; None where there is nothing."""
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files if name != "plain"}
            return cls(**json.loads(stored["plain"].tobytes()), **arrays)

    def beside(self, samples: Samples) -> Earlier | None:
        """The pictures and captions of a report's galleries, as they were embedded before; None where they are others,
        held out for a stage before.
        """
        if self.text_embeddings.shape != samples.text_embeddings.shape:
            return None
        return Earlier(
            image_embeddings=self.image_embeddings,
            text_embeddings=self.text_embeddings,
            logit_scale=self.logit_scale,
            logit_bias=self.logit_bias,
        )
