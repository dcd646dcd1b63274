"""The lines of big_vision's tutorial: two broken lines in a picture, and how often they cross."""

import hashlib
import io
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from diptych.core.data.records import Caption, Record
from diptych.core.data.sampling import example_rng

COUNTS = ("0", "1", "2")
PROMPT = "count"
SIDE = 224
TRAINING_LINES, VALIDATION_LINES, TEST_LINES = 128, 999, 999
TRAINING_SEED, VALIDATION_SEED, TEST_SEED = 1337, 42, 43

_STREAM = 0x11E5  # of random numbers, apart from those of training examples
_BANDS, _BAND_WIDTH = (0.01, 0.34, 0.67), 0.32
_APART = 4  # pixels by which the lines' heights differ, at least, where both bend
_HALF_THICKNESS = 1.0
_BLUE, _RED = (0, 0, 255), (255, 0, 0)
_REMEMBERED = 192


class Lines(NamedTuple):
    """Both lines of a picture, in pixels: columns, int64 [3], which they share, and rows, int64 [2, 3]."""

    columns: np.ndarray
    rows: np.ndarray

    @property
    def crossings(self) -> int:
        """How often they cross: 0, 1 or 2."""
        above = self.rows[0] > self.rows[1]
        return int((above[1:] != above[:-1]).sum())


@dataclass(frozen=True, kw_only=True)
class LineSource:
    """White pictures of a blue and a red line of two segments each; picture i follows from (seed, i) alone.

    The rules are those of Beyer's tutorial "Using big_vision on GPUs" (lba_bv_tuto): 224 x 224 pixels, lines 2 pixels
    thick and antialiased, three columns that both lines share, one in each third, and rows drawn until the lines are
    more than 4 pixels apart in each column. Its random numbers are drawn one picture after the other, and OpenCV draws
    its lines; here each picture has its own numbers, and a pixel's colour follows from its distance to the line in
    operations that IEEE 754 rounds exactly, so that pictures are the same everywhere. They are not the tutorial's own.

    The label is the number of crossings, 0, 1 or 2, and also the one caption, the answer to the prompt "count".

    length: how many pictures.   seed: of all of them.
    balanced: whether each number of crossings comes equally often, as where the tutorial judges; otherwise a half of
        the pictures has one crossing and a quarter two.
    """

    length: int = TRAINING_LINES
    seed: int = TRAINING_SEED
    balanced: bool = False

    def __post_init__(self):
        if self.length < 1 or not 0 <= self.seed < 2**64:
            raise ValueError(f"a LineSource needs length >= 1 and a seed in [0, 2**64), got {self.length}, {self.seed}")

    def __len__(self) -> int:
        return self.length

    @property
    def cheap_pixels(self) -> bool:
        """Pictures are as quickly drawn as kept."""
        return True

    @property
    def class_names(self) -> tuple[str, ...]:
        """The numbers of crossings."""
        return COUNTS

    def lines(self, index: int) -> Lines:
        """Where the lines of a picture are; raises IndexError where there is none."""
        if not 0 <= index < self.length:
            raise IndexError(f"there is no picture {index} of {self.length}")
        rng = example_rng(self.seed, index, stage=_STREAM)
        while True:
            found = _drawn_lines(rng)
            if not self.balanced or found.crossings == index % len(COUNTS):
                return found

    def record(self, index: int) -> Record:
        """Key, one image whose reference is the picture's number, label, and the question with its answer."""
        count = str(self.lines(index).crossings)
        return Record(f"lines-{self.seed}-{index}", (index,), (Caption(count, "en"),), labels=(count,), prompt=PROMPT)

    def pixels(self, reference: int) -> np.ndarray:
        """The picture, uint8 [224, 224, 3], read-only."""
        return _painted(self, int(reference))

    def read(self, reference: int) -> bytes:
        """The picture as a PNG file."""
        file = io.BytesIO()
        Image.fromarray(self.pixels(reference)).save(file, "PNG", compress_level=1)
        return file.getvalue()

    def fingerprint(self) -> str:
        """Hash of the settings."""
        return hashlib.sha256(f"{self!r} {SIDE}".encode()).hexdigest()


def evaluation_lines() -> dict[str, LineSource]:
    """What is judged, by name, as many of each class: pictures to choose settings by, and others for the end."""
    return {
        "Validation lines": LineSource(length=VALIDATION_LINES, seed=VALIDATION_SEED, balanced=True),
        "Test lines": LineSource(length=TEST_LINES, seed=TEST_SEED, balanced=True),
    }


def _drawn_lines(rng: np.random.Generator) -> Lines:
    columns = np.floor(SIDE * (np.array(_BANDS) + _BAND_WIDTH * rng.random(3))).astype(np.int64)
    while True:
        rows = np.floor(SIDE * rng.random((2, 3))).astype(np.int64)
        if (np.abs(rows[0] - rows[1]) > _APART).all():
            return Lines(columns, rows)


@lru_cache(maxsize=_REMEMBERED)
def _painted(source: LineSource, index: int) -> np.ndarray:
    lines = source.lines(index)
    picture = np.full((SIDE, SIDE, 3), 255.0)
    for rows, colour in zip(lines.rows, (_BLUE, _RED), strict=True):
        share = np.maximum(*(_coverage(lines.columns[end : end + 2], rows[end : end + 2]) for end in (0, 1)))
        picture += share[..., None] * (np.array(colour) - picture)
    painted = np.rint(picture).astype(np.uint8)
    painted.setflags(write=False)
    return painted


def _coverage(columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """How far each pixel is covered by a segment between two points, from 0 to 1, float64 [224, 224]."""
    right, down = np.arange(SIDE) - columns[0], (np.arange(SIDE) - rows[0])[:, None]
    width, height = columns[1] - columns[0], rows[1] - rows[0]
    along = np.clip((right * width + down * height) / (width * width + height * height), 0, 1)
    distance = np.sqrt(np.square(right - along * width) + np.square(down - along * height))
    return np.clip(_HALF_THICKNESS + 0.5 - distance, 0, 1)
