"""Small pictures and an in-memory source that tests of the data code share."""

import io

import numpy as np
from PIL import Image

from diptych.core.data.emoji import TOKENIZER_PATH
from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.data.records import BadExample, Caption, Record

LANGUAGES = ("en", "de", "ja")


def pixels(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    """A smooth coloured picture, uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR))


def encoded(picture: np.ndarray | Image.Image, kind: str = "PNG", **options) -> bytes:
    """The picture as a file."""
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


class MemorySource:
    """Records with one picture and three captions each; images in `bad` are refused with the reason given there."""

    def __init__(self, size: int, bad: dict[int, str] | None = None, tag: str = ""):
        self.files = [encoded(pixels(seed)) for seed in range(min(size, 16))]
        self.size = size
        self.bad = bad or {}
        self.tag = tag

    def __len__(self) -> int:
        return self.size

    def record(self, index: int) -> Record:
        captions = tuple(Caption(f"{self.tag}picture {index} in {language}", language) for language in LANGUAGES)
        return Record(f"record-{index}", (index,), captions)

    def read(self, reference: int) -> bytes:
        if reference in self.bad:
            raise BadExample(self.bad[reference], "as the test wants it")
        return self.files[reference % len(self.files)]

    def fingerprint(self) -> str:
        return f"memory-{self.size}-{sorted(self.bad.items())}-{self.tag}"


def preprocess(**settings) -> Preprocess:
    """The cheapest preprocessing: pictures of 8 pixels, captions of 12 tokens."""
    return Preprocess(**({"image_size": 8, "context_length": 12, "tokenizer_path": TOKENIZER_PATH} | settings))
