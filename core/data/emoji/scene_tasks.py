"""Four tasks on composed scenes with their true answers: to name, count, find and read what is there."""

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from diptych.core.data.detections import place_text
from diptych.core.data.emoji.composed_scenes import DIGITS, ComposedScenes
from diptych.core.data.emoji.scenes import SEPARATOR, SceneObject
from diptych.core.data.records import Box, Caption, Record
from diptych.core.data.sampling import example_rng

BOX_STEPS = 16
"""Of a side, to which the boxes of answers that are learned are rounded: a small model sees too few of each of 1,024
places. Boxes that answers are judged by are not rounded."""
GREY = 127

_STREAM = 0x5CE80  # of random numbers, apart from those of the scenes

Ask = Callable[[Sequence[SceneObject], np.random.Generator, int | None], tuple[str, str]]
"""A scene's things from left to right, random numbers, and the steps of a box (None for all) -> prompt and answer."""


def _name(thing: SceneObject) -> str:
    return thing.concept.names["en"]


def _naming(things: Sequence[SceneObject], rng: np.random.Generator, steps: int | None) -> tuple[str, str]:
    return "caption en", SEPARATOR.join(map(_name, things))


def _counting(things: Sequence[SceneObject], rng: np.random.Generator, steps: int | None) -> tuple[str, str]:
    names = [_name(thing) for thing in things]
    counted = max(dict.fromkeys(names), key=names.count)
    return f"count {counted}", str(names.count(counted))


def _finding(things: Sequence[SceneObject], rng: np.random.Generator, steps: int | None) -> tuple[str, str]:
    found = things[int(rng.integers(len(things)))]
    return f"detect {_name(found)}", place_text(_rounded(found.box, steps))


def _reading(things: Sequence[SceneObject], rng: np.random.Generator, steps: int | None) -> tuple[str, str]:
    return "ocr", "".join(DIGITS[thing.concept.hexcode] for thing in things)


def _rounded(box: Box, steps: int | None) -> Box:
    if steps is None:
        return box
    ymin, xmin, ymax, xmax = (round(corner * steps) / steps for corner in box)
    return ymin, xmin, max(ymax, ymin + 1 / steps), max(xmax, xmin + 1 / steps)


@dataclass(frozen=True, kw_only=True)
class SceneTask:
    """What is asked about which scenes; `settings` of `ComposedScenes`, for new compositions with `settings_of_new`."""

    ask: Ask
    settings: Mapping[str, Any]
    settings_of_new: Mapping[str, Any]


_ONE_OR_TWO, _TWO = {"objects": (1, 2)}, {"objects": (2, 2)}

TASKS: Mapping[str, SceneTask] = {
    "name": SceneTask(ask=_naming, settings=_ONE_OR_TWO, settings_of_new=_TWO),
    "count": SceneTask(ask=_counting, settings={"copies": (1, 5), **_ONE_OR_TWO}, settings_of_new={}),
    "find": SceneTask(ask=_finding, settings=_ONE_OR_TWO, settings_of_new=_TWO),
    "read": SceneTask(ask=_reading, settings={"digits": True, **_TWO}, settings_of_new={}),
}
"""name: what is there, from left to right. count: how many of one thing, beside at most one of another. find: the box
of one of one or two things. read: two digits in a designer's hand, from left to right."""


@dataclass(frozen=True)
class TaskQuestions:
    """Questions about scenes, the tasks taking turns; question i follows from the scenes and i alone.

    Attributes:
        scenes: by the name of the task.
        steps: of a side, to which boxes in answers are rounded; None for PaliGemma's own.
        blank: pictures are grey, so that nothing but texts can be learned.
    """

    scenes: Mapping[str, ComposedScenes]
    steps: int | None = None
    blank: bool = False

    def __len__(self) -> int:
        return sum(map(len, self.scenes.values()))

    @property
    def cheap_pixels(self) -> bool:
        """As the scenes' own."""
        return True

    @cached_property
    def _tasks(self) -> list[str]:
        lengths = {len(scenes) for scenes in self.scenes.values()}
        if len(lengths) != 1:
            raise ValueError(f"tasks take turns, and need as many scenes each, got {sorted(lengths)}")
        return list(self.scenes)

    def record(self, index: int) -> Record:
        """A question and its answer about one scene."""
        scene, place = divmod(index, len(self._tasks))
        task = self._tasks[place]
        scenes = self.scenes[task]
        prompt, answer = TASKS[task].ask(
            scenes.from_left_to_right(scene), example_rng(scenes.seed, scene, stage=_STREAM), self.steps
        )
        key = f"{task}-{scenes.seed}-{scene}"
        return Record(key, ((task, scene),), (Caption(answer, "en"),), prompt=prompt)

    def read(self, reference: Any) -> bytes:
        """The picture as a PNG file."""
        file = io.BytesIO()
        Image.fromarray(self.pixels(reference)).save(file, "PNG", compress_level=1)
        return file.getvalue()

    def pixels(self, reference: tuple[str, int]) -> np.ndarray:
        """The picture, uint8 [h, w, 3], read-only."""
        task, scene = reference
        scenes = self.scenes[task]
        return np.full((*scenes.size, 3), GREY, np.uint8) if self.blank else scenes.pixels(scene)

    def fingerprint(self) -> str:
        """A hash of scenes and tasks."""
        scenes = {task: of.fingerprint() for task, of in self.scenes.items()}
        return hashlib.sha256(f"tasks {scenes} {self.steps} {self.blank}".encode()).hexdigest()
