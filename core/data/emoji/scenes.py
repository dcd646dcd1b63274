"""Scenes of several drawings, whose captions, boxes, classes of pixels and distances are all known exactly."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from PIL import Image

from diptych.core.data.emoji.backgrounds import KINDS
from diptych.core.data.emoji.composition import SHRINKING, compose
from diptych.core.data.emoji.concepts import GROUPS, HELD_OUT_DESIGNER, Concept
from diptych.core.data.emoji.selection import RECTANGULAR_DESIGNERS, Drawable, drawables
from diptych.core.data.emoji.source import EmojiSource
from diptych.core.data.emoji.sprites import Sprite, cut_out
from diptych.core.data.image import decode
from diptych.core.data.records import Box, Caption, Record, Region
from diptych.core.data.sampling import example_rng

SCENE_LANGUAGES = ("en", "de", "es", "fr", "ja", "zh")
SEPARATOR = ", "  # between names, in every language
BACKGROUND = 0  # the class of pixels that show no object; group g of GROUPS is class g + 1

_STREAM, _CAPTION_STREAM = 0x5CE7E, 0x5CE7F  # of random numbers, apart from those of training examples
_LARGEST = 0.95  # of the shorter side of the picture
_CROWD = 0.8  # n objects have at most this share of the picture's side, divided by the root of n
_REMEMBERED_SCENES = 32
_REMEMBERED_SPRITES = 4096  # 16 kB each
_MOST_DRAWS = 200


@dataclass(frozen=True)
class SceneObject:
    """One thing in a scene.

    box: tight around `mask`, relative to the scene.   mask: bool [h, w], the pixels in which it is seen.
    distance: metres from the viewer, who takes all things to be equally large: 1 / (size relative to the scene).
    """

    concept: Concept
    designer: str
    box: Box
    mask: np.ndarray = field(repr=False)
    distance: float


@dataclass(frozen=True, kw_only=True)
class SceneSource:
    """Pictures composed of one or several emoji at random places on varied grounds; scene i follows from (seed, i)
    alone.

    A scene's captions, one a language, name its things from left to right: "dog, red apple, clock face". Its regions
    are the things, once in each language. Nearer things are larger and drawn later, and hide at most 15% of another's
    pixels.

    length: how many scenes.   seed: of all of them.
    split, designers, languages: see `EmojiSource`; concepts without a name in one of the languages are left out.
    concepts: how many concepts appear, the easiest of every group first (`selection.drawables`); None for all.
    objects: least and most things in a scene; where the most find no room there are fewer.
    size: (height, width) in pixels.   aspects: range of width / height at the area of `size`; None for its own.
    scale: range of a thing's longer side, relative to the square root of the area.   grounds: of `backgrounds.KINDS`.
    wrong_captions: share of the scenes that have another scene's captions, as pictures from the web may; their regions
        are right.
    """

    length: int
    seed: int = 0
    split: str = "train"
    designers: Sequence[str] | None = None
    languages: Sequence[str] = SCENE_LANGUAGES
    concepts: int | None = None
    objects: tuple[int, int] = (1, 3)
    size: tuple[int, int] = (96, 96)
    aspects: tuple[float, float] | None = None
    scale: tuple[float, float] = (0.25, 0.55)
    grounds: Sequence[str] = KINDS
    wrong_captions: float = 0.0

    def __post_init__(self):
        for entry in fields(self):
            if isinstance(getattr(self, entry.name), list):  # an equal source is to have an equal hash
                object.__setattr__(self, entry.name, tuple(getattr(self, entry.name)))
        if self.length < 1 or not 0 <= self.seed < 2**64:
            raise ValueError(
                f"a SceneSource needs length >= 1 and a seed in [0, 2**64), got {self.length}, {self.seed}"
            )
        if not 1 <= self.objects[0] <= self.objects[1] <= 16:
            raise ValueError(f"objects must be (least, most) with 1 <= least <= most <= 16, got {self.objects}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be (low, high) with 0 < low <= high <= 1, got {self.scale}")
        object.__setattr__(self, "grounds", tuple(self.grounds))
        if not self.grounds or not set(self.grounds) <= set(KINDS):
            raise ValueError(f"grounds must be some of {', '.join(KINDS)}, got {self.grounds}")
        if min(self.size) < 16:
            raise ValueError(f"size must be (height, width) of 16 pixels or more, got {self.size}")
        if self.aspects is not None and not 1 / 16 <= self.aspects[0] <= self.aspects[1] <= 16:
            raise ValueError(f"aspects must be (low, high) with 1/16 <= low <= high <= 16, got {self.aspects}")
        if not 0 <= self.wrong_captions < 1 or (self.wrong_captions and self.length < 2):
            raise ValueError(
                f"wrong_captions must lie in [0, 1), of 2 scenes or more, got {self.wrong_captions} of {self.length}"
            )
        if len(self._drawables) < self.objects[1]:
            raise ValueError(f"{len(self._drawables)} concepts are too few for {self.objects[1]} different things")

    def __len__(self) -> int:
        return self.length

    @property
    def cheap_pixels(self) -> bool:
        """Scenes are as quickly drawn as kept."""
        return True

    def record(self, index: int) -> Record:
        """Key, one image whose reference is the scene's number, captions and regions, language by language."""
        things = self.from_left_to_right(index)
        told = self.from_left_to_right(self._told_in_place_of(index))
        captions, regions = [], []
        for language in self.languages:
            captions.append(Caption(SEPARATOR.join(thing.concept.names[language] for thing in told), language))
            regions += [Region(thing.box, thing.concept.names[language], language) for thing in things]
        return Record(f"scene-{self.seed}-{index}", (index,), tuple(captions), tuple(regions))

    def from_left_to_right(self, index: int) -> list[SceneObject]:
        """The things in a scene by the middles of their boxes."""
        return sorted(self.objects_of(index), key=lambda thing: thing.box[1] + thing.box[3])

    def _told_in_place_of(self, index: int) -> int:
        """The scene whose captions a scene has: mostly its own."""
        if not self.wrong_captions:
            return index
        is_wrong, which = example_rng(self.seed, index, stage=_CAPTION_STREAM).random(2)
        if is_wrong >= self.wrong_captions:
            return index
        return (index + 1 + int(which * (self.length - 1))) % self.length

    def pixels(self, reference: int) -> np.ndarray:
        """The picture, uint8 [h, w, 3], read-only."""
        return self._scene(reference).pixels

    def read(self, reference: int) -> bytes:
        """The picture as a PNG file."""
        file = io.BytesIO()
        Image.fromarray(self.pixels(reference)).save(file, "PNG", compress_level=1)
        return file.getvalue()

    def objects_of(self, reference: int) -> tuple[SceneObject, ...]:
        """The things in the picture, the farthest first."""
        return self._scene(reference).objects

    def labels(self, reference: int) -> np.ndarray:
        """The class of each pixel, uint8 [h, w]: BACKGROUND, or 1 + the place of the thing's group in GROUPS."""
        scene = self._scene(reference)
        classes = [BACKGROUND, *(1 + GROUPS.index(thing.concept.group) for thing in scene.objects)]
        return np.array(classes, np.uint8)[scene.instances]

    def depth(self, reference: int) -> np.ndarray:
        """Metres from the viewer, float32 [h, w]: each thing's distance, before a ground that comes nearer from top to
        bottom.
        """
        scene = self._scene(reference)
        nearest = 1 / (self.scale[0] * SHRINKING[-1])
        depth = np.empty(scene.instances.shape, np.float32)
        depth[:] = np.linspace(2 * nearest, nearest, len(depth), dtype=np.float32)[:, None]
        for number, thing in enumerate(scene.objects, 1):
            depth[scene.instances == number] = thing.distance
        return depth

    def fingerprint(self) -> str:
        """Hash of the settings and of the drawings' and names' files."""
        settings = [(entry.name, getattr(self, entry.name)) for entry in fields(self)]
        return hashlib.sha256(f"scenes {settings} {self._emoji.fingerprint()}".encode()).hexdigest()

    def __reduce__(self) -> tuple:
        return _restored, (type(self), {entry.name: getattr(self, entry.name) for entry in fields(self)})

    @cached_property
    def _emoji(self) -> EmojiSource:
        return EmojiSource(self.split, self.designers, self.languages, keywords=False)

    @cached_property
    def _drawables(self) -> tuple[Drawable, ...]:
        return drawables(self._emoji, self.concepts)

    def _scene(self, index: int) -> "_Scene":
        if not 0 <= index < self.length:
            raise IndexError(f"there is no scene {index} of {self.length}")
        return _drawn(self, int(index))

    def _cast(self, rng: np.random.Generator) -> list[tuple[Concept, str, Sprite]]:
        """Who is in a scene: different concepts, each by one of its designers."""
        count = int(rng.integers(self.objects[0], self.objects[1] + 1))
        cast: dict[str, tuple[Concept, str, Sprite]] = {}
        for _ in range(_MOST_DRAWS):
            chosen = self._drawables[int(rng.integers(len(self._drawables)))]
            designer = chosen.designers[int(rng.integers(len(chosen.designers)))]
            cutout = None if chosen.concept.hexcode in cast else _sprite(self._emoji, designer, chosen.concept.hexcode)
            if cutout is not None:
                cast[chosen.concept.hexcode] = chosen.concept, designer, cutout
            if len(cast) == count:
                break
        return list(cast.values())

    def _shape(self, rng: np.random.Generator) -> tuple[int, int]:
        """Height and width in pixels."""
        if self.aspects is None:
            return self.size
        logarithms = np.log(self.aspects)
        root = np.exp((logarithms[0] + rng.random() * (logarithms[1] - logarithms[0])) / 2)
        side = np.sqrt(self.size[0] * self.size[1])
        return max(1, round(side / root)), max(1, round(side * root))


def scene_evaluation_set(length: int, *, designer: str = HELD_OUT_DESIGNER, **settings: Any) -> SceneSource:
    """Scenes of one designer, whose drawings training does not see; `settings` as for training, so with the same
    concepts.
    """
    return SceneSource(length=length, designers=(designer,), **settings)


@dataclass(frozen=True)
class _Scene:
    pixels: np.ndarray
    instances: np.ndarray  # uint8 [h, w]: 0 for the ground, i for objects[i - 1]
    objects: tuple[SceneObject, ...]


@lru_cache(maxsize=_REMEMBERED_SCENES)
def _drawn(source: SceneSource, index: int) -> _Scene:
    rng = example_rng(source.seed, index, stage=_STREAM)
    height, width = source._shape(rng)
    cast = source._cast(rng)
    side = float(np.sqrt(height * width))
    low, high = source.scale
    high = max(low, min(high, _CROWD / np.sqrt(len(cast))))
    sizes = np.minimum(side * (low + rng.random(len(cast)) * (high - low)), _LARGEST * min(height, width))
    order = np.argsort(sizes, kind="stable")
    composed = compose(rng, [cast[place][2] for place in order], sizes[order], height, width, source.grounds)
    objects = []
    for number, (place, size) in enumerate(zip(order[composed.shown], composed.sizes, strict=True), 1):
        mask = composed.instances == number
        concept, designer, _ = cast[place]
        objects.append(SceneObject(concept, designer, _tight_box(mask), mask, side / size))
    return _Scene(composed.pixels, composed.instances, tuple(objects))


@lru_cache(maxsize=_REMEMBERED_SPRITES)
def _sprite(emoji: EmojiSource, designer: str, hexcode: str) -> Sprite | None:
    return cut_out(decode(emoji.read((designer, hexcode))), whole=designer in RECTANGULAR_DESIGNERS)


def _tight_box(mask: np.ndarray) -> Box:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = mask.shape
    return rows[0] / height, columns[0] / width, (rows[-1] + 1) / height, (columns[-1] + 1) / width


def _restored(kind: type[SceneSource], settings: dict[str, Any]) -> SceneSource:
    return kind(**settings)
