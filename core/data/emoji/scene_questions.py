"""Questions about the embedded scenes with their true answers: what is there, how many things, which is left."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diptych.core.data.emoji.scenes import SEPARATOR, SceneObject, SceneSource
from diptych.core.data.records import Caption, Record


def _names(things: Sequence[SceneObject]) -> str:
    return SEPARATOR.join(thing.concept.names["en"] for thing in things)


QUESTIONS: Mapping[str, Callable[[Sequence[SceneObject]], str]] = {
    "caption en": _names,
    "count": lambda things: str(len(things)),
    "answer en what is left?": lambda things: _names(things[:1]),
}
"""Prompt -> the answer for a scene's things, from left to right."""


@dataclass(frozen=True)
class SceneQuestions:
    """Each scene of a source as many times as there are questions: a record each, whose caption is the answer."""

    scenes: SceneSource

    def __len__(self) -> int:
        return len(self.scenes) * len(QUESTIONS)

    @property
    def cheap_pixels(self) -> bool:
        """As the scenes' own."""
        return self.scenes.cheap_pixels

    def record(self, index: int) -> Record:
        """A question and its answer about one scene."""
        scene, question = divmod(index, len(QUESTIONS))
        prompt, answer = list(QUESTIONS.items())[question]
        told = Caption(answer(self.scenes.from_left_to_right(scene)), "en")
        return Record(f"scene-{self.scenes.seed}-{scene}-{question}", (scene,), (told,), prompt=prompt)

    def read(self, reference: Any) -> bytes:
        """The picture as a PNG file."""
        return self.scenes.read(reference)

    def pixels(self, reference: int) -> np.ndarray:
        """The picture, uint8 [h, w, 3], read-only."""
        return self.scenes.pixels(reference)

    def fingerprint(self) -> str:
        """A hash of scenes and questions."""
        return hashlib.sha256(f"{self.scenes.fingerprint()} {list(QUESTIONS)}".encode()).hexdigest()
