"""Pictures of scenes as arrays, with all that is known of them: for probes of features and for a decoder."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diptych.core.data.emoji import GROUPS
from diptych.core.data.emoji.scenes import SceneSource

CLASS_NAMES = ("background", *GROUPS)
LANGUAGE = "en"


@dataclass(frozen=True, kw_only=True)
class Phrase:
    """A thing in a scene: which scene, its name, its box."""

    scene: int
    text: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Some scenes of a source.

    pixels: uint8 [h, w, 3] each.   labels: uint8 [h, w] each, places in CLASS_NAMES.   depths: float32 [h, w] each,
        metres.
    phrases: every thing of every scene.   captions: one a scene.   kinds: int [scenes], the class of each scene's
        nearest thing.
    """

    pixels: Sequence[np.ndarray]
    labels: Sequence[np.ndarray]
    depths: Sequence[np.ndarray]
    phrases: Sequence[Phrase]
    captions: Sequence[str]
    kinds: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)


def read_scenes(source: SceneSource, count: int) -> Scenes:
    """The first `count` scenes of a source, or all where there are fewer."""
    count = min(count, len(source))
    phrases, captions, kinds = [], [], []
    pixels, labels, depths = [], [], []
    for index in range(count):
        # All of one scene at a time: a source remembers the last few that it has drawn.
        pixels.append(source.pixels(index))
        labels.append(source.labels(index))
        depths.append(source.depth(index))
        record = source.record(index)
        captions.append(next(caption.text for caption in record.captions if caption.language == LANGUAGE))
        phrases += [
            Phrase(scene=index, text=region.text, box=region.box)
            for region in record.regions
            if region.language == LANGUAGE
        ]
        kinds.append(GROUPS.index(source.objects_of(index)[-1].concept.group))
    return Scenes(
        pixels=pixels,
        labels=labels,
        depths=depths,
        phrases=phrases,
        captions=captions,
        kinds=np.array(kinds),
    )
