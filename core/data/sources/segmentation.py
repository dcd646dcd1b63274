"""Pictures with a map of the same size: the class of each pixel, or its depth.

    VOC      FOLDER/JPEGImages/NAME.jpg, SegmentationClass/NAME.png (palette), ImageSets/Segmentation/SPLIT.txt (a name
    a line) ADE20k   FOLDER/images/SPLIT/NAME.jpg, annotations/SPLIT/NAME.png (0: not labelled, n: class n - 1),
    objectInfo150.txt (optional) depth    FOLDER/images/SPLIT/NAME.jpg or .png, depths/SPLIT/NAME.png (16 bits, `scale`
    units a metre, 0: unknown)

Reference: Everingham et al. 2010, "The PASCAL Visual Object Classes Challenge"; Zhou et al. 2017, "Scene Parsing
through ADE20K".
"""

import io
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
from PIL import Image

from diptych.core.data.image import MAX_PIXELS, decode, resize
from diptych.core.data.image_parts import count_scans
from diptych.core.data.records import BadExample
from diptych.core.data.sources.files import IMAGE_SUFFIXES, MAX_IMAGE_FILE_BYTES, read_regular_file
from diptych.core.files.beginnings import mistaken

IGNORE = 255
"""The label of pixels that do not count: borders of objects, and what nobody labelled."""

VOC_CLASSES = (
    *(
        "background",
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "dining table",
    ),
    *("dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor"),
)
ADE_CLASSES = 150
ADE_NAMES = "objectInfo150.txt"
MILLIMETRES = 1000.0


class PixelMaps(ABC):
    """Pictures with a map each; `VocSegmentation`, `AdeSegmentation` and `DepthFolder` say where they are and what they
    mean.
    """

    def __init__(self, files: list[tuple[str, Path, Path]]):
        self._files = files  # (name, picture, map)

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        """The name of a picture without its suffix."""
        return self._files[index][0]

    def pair(self, index: int, size: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """A picture, uint8 [height, width, 3], and its map, [height, width].

        Args:
            index: 0 to len - 1.
            size: (height, width) to which both are squashed, the picture as for training and the map by the nearest
                pixel: classes and depths of two things have no mean. None leaves them as they are.

        Raises:
            BadExample: a file that is missing, damaged or of another kind, or a map of another size than its picture.
        """
        _, picture_path, map_path = self._files[index]
        picture = decode(read_regular_file(picture_path, kind="image", max_bytes=MAX_IMAGE_FILE_BYTES))
        pixels = self._meaning(_plain_map(map_path), map_path)
        if pixels.shape != picture.shape[:2]:
            raise BadExample("map_size", f"{map_path} has {pixels.shape}, its picture {picture.shape[:2]}")
        if size is None:
            return picture, pixels
        return resize(picture, size, method="bilinear_antialias"), nearest_pixels(pixels, size)

    def squashed(self, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """All pictures, uint8 [pictures, height, width, 3], and their maps, [pictures, height, width], in one size."""
        pairs = [self.pair(index, size) for index in range(len(self))]
        return np.stack([picture for picture, _ in pairs]), np.stack([pixels for _, pixels in pairs])

    @abstractmethod
    def _meaning(self, values: np.ndarray, path: Path) -> np.ndarray:
        """The map that the values of the file stand for."""


class VocSegmentation(PixelMaps):
    """Labels uint8, 0 to 20 in the order of `VOC_CLASSES`, `IGNORE` at the borders of objects.

    Args:
        root: such as VOCdevkit/VOC2012.
        split: "train", "val" or "trainval".

    Raises:
        FileNotFoundError: a folder, the split, or a file that it names is not there.
        ValueError: the split is empty, or names something outside the folder.
    """

    class_names: ClassVar[tuple[str, ...]] = VOC_CLASSES

    def __init__(self, root: str | Path, split: str):
        root = Path(root)
        pictures, maps = _folder(root / "JPEGImages"), _folder(root / "SegmentationClass")
        listed = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        if not listed.is_file():
            there = sorted(path.stem for path in listed.parent.glob("*.txt"))
            raise FileNotFoundError(f"no file {listed}; the splits are {', '.join(there) or '(none)'}.")
        names = listed.read_text(encoding="utf-8").split()
        outside = [name for name in names if PurePosixPath(name).name != name or name == ".."]
        if outside or not names:
            raise ValueError(f"{listed} must hold the name of a picture a line, got {outside[:3] or 'nothing'}.")
        files = [(name, pictures / f"{name}.jpg", maps / f"{name}.png") for name in names]
        _check_there(files, listed)
        super().__init__(files)

    def _meaning(self, values: np.ndarray, path: Path) -> np.ndarray:
        return _labels(values, len(VOC_CLASSES), path)


class AdeSegmentation(PixelMaps):
    """Labels uint8, 0 to 149, `IGNORE` where nothing was labelled (0 in the file).

    Args:
        root: such as ADEChallengeData2016.
        split: "training" or "validation".

    Raises:
        FileNotFoundError: a folder, or the annotation of a picture, is not there.
        ValueError: the split is empty.
    """

    def __init__(self, root: str | Path, split: str):
        root = Path(root)
        self.class_names = _ade_names(root / ADE_NAMES)
        super().__init__(_beside(root / "images" / split, root / "annotations" / split))

    def _meaning(self, values: np.ndarray, path: Path) -> np.ndarray:
        if values.max(initial=0) > len(self.class_names):
            raise BadExample("map_values", f"{path} holds {values.max()}, at most {len(self.class_names)} is a class")
        return np.where(values == 0, IGNORE, values.astype(np.int64) - 1).astype(np.uint8)


class DepthFolder(PixelMaps):
    """Depths float32 in metres, 0 where they are unknown.

    Args:
        root: the folder that holds images and depths.
        split: the folder in each of them.
        scale: units of the file a metre; 1,000 for millimetres.

    Raises:
        FileNotFoundError: a folder, or the depth of a picture, is not there.
        ValueError: the split is empty, or the scale is not above 0.
    """

    def __init__(self, root: str | Path, split: str, *, scale: float = MILLIMETRES):
        if not scale > 0:
            raise ValueError(f"scale must be above 0, the units of the file a metre, got {scale}.")
        self.scale = scale
        super().__init__(_beside(Path(root) / "images" / split, Path(root) / "depths" / split))

    def _meaning(self, values: np.ndarray, path: Path) -> np.ndarray:
        if values.dtype == np.uint8:
            raise BadExample("map_depth", f"{path} has 8 bits a pixel; depths need a PNG of 16")
        return (values / self.scale).astype(np.float32)


def nearest_pixels(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map [height, width] in another size, each pixel that whose area holds its centre: no value that was not
    there.
    """
    rows, columns = (
        np.minimum((2 * np.arange(new) + 1) * old // (2 * new), old - 1)
        for new, old in zip(size, pixels.shape, strict=True)
    )
    return pixels[rows[:, None], columns]


def _plain_map(path: Path) -> np.ndarray:
    """The numbers of a PNG's pixels, not their colours: uint8 or int32 [height, width]."""
    data = read_regular_file(path, kind="map", max_bytes=MAX_IMAGE_FILE_BYTES)
    if what := mistaken(data, "PNG"):
        raise BadExample("map_damaged", f"{path} {what}")
    count_scans(data)  # refuses a file of too many parts
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as file:
            if file.width * file.height > MAX_PIXELS:
                raise BadExample("map_too_large", f"{path} has {file.size}, at most {MAX_PIXELS} pixels")
            if file.mode not in ("P", "L") and not file.mode.startswith("I"):
                raise BadExample(
                    "map_mode", f"{path} is {file.mode}: a palette or greyscale PNG is needed, whose values are the map"
                )
            pixels = np.asarray(file)
            return pixels if pixels.dtype == np.uint8 else pixels.astype(np.int32)
    except BadExample:
        raise
    # Damaged files make Pillow's parsers raise almost anything: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        raise BadExample("map_damaged", f"{path}: {type(error).__name__}: {error}") from None


def _labels(values: np.ndarray, classes: int, path: Path) -> np.ndarray:
    beyond = values[(values >= classes) & (values != IGNORE)]
    if len(beyond):
        raise BadExample(
            "map_values", f"{path} holds {beyond.max()}; 0 to {classes - 1} are classes, {IGNORE} is ignored"
        )
    return values.astype(np.uint8)


def _beside(pictures: Path, maps: Path) -> list[tuple[str, Path, Path]]:
    found = sorted(path for path in _folder(pictures).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    _folder(maps)
    if not found:
        raise ValueError(f"no pictures ({', '.join(IMAGE_SUFFIXES)}) in {pictures}.")
    files = [(path.stem, path, maps / f"{path.stem}.png") for path in found]
    _check_there(files, pictures)
    return files


def _check_there(files: list[tuple[str, Path, Path]], named_by: Path) -> None:
    missing = [path for _, *paths in files for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {2 * len(files)} files that {named_by} speaks of are not there, the first "
            f"{missing[0]}. Unpack the data set again."
        )


def _folder(path: Path) -> Path:
    if not path.is_dir():
        above = next((folder for folder in path.parents if folder.is_dir()), None)
        there = sorted(each.name for each in above.iterdir()) if above is not None else []
        raise FileNotFoundError(f"no folder {path}; {above} holds {', '.join(there[:10]) or 'nothing'}.")
    return path


def _ade_names(path: Path) -> tuple[str, ...]:
    """The last column of objectInfo150.txt under its header; numbers where the file is not there."""
    if not path.is_file():
        return tuple(f"class {number}" for number in range(1, ADE_CLASSES + 1))
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    names = tuple(line.split("\t")[-1].strip() for line in lines if line.strip())
    if len(names) >= IGNORE or not names:
        raise ValueError(
            f"{path} must hold a header and a class a line, at most {IGNORE - 1}, got {len(names)} classes."
        )
    return names
