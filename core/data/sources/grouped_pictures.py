"""Pictures of which is known what they show and where, by whom or how they were made: what evenness is measured on."""

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from diptych.core.data.ledger import Ledger
from diptych.core.data.records import Record
from diptych.core.data.sources.files import (
    MAX_IMAGE_FILE_BYTES,
    SAMPLED_IMAGES,
    evenly,
    file_size,
    read_regular_file,
    sampled_file,
)
from diptych.core.data.sources.reading import AS_USUAL, Reading
from diptych.core.files.regular import open_regular

MAX_ROW_BYTES = 1_000_000
INCOME_EDGES = (200.0, 684.0, 1_997.0)
"""Of Dollar Street's levels of income, in US dollars a month: its quartiles, as its authors give them."""


@dataclass(frozen=True, slots=True)
class GroupedPicture:
    """One picture: its file below the root, the classes that are right for it, and its group by attribute."""

    path: str
    classes: frozenset[int]
    groups: dict[str, str]


class GroupedPictures:
    """A source of a record a picture, with the classes and groups of each.

    Args:
        root: the folder that their paths begin at.
        name: for people.
        class_names: what `classes` number.
        pictures: all of them.
        place: the attribute that few-shot classification is to tell, such as "country"; None for none.
        unlabelled: pictures of which the lists do not say what they show, counted and left out.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        class_names: Sequence[str],
        pictures: Sequence[GroupedPicture],
        *,
        place: str | None = None,
        unlabelled: Sequence[str] = (),
        reading: Reading = AS_USUAL,
    ):
        self.root, self.name = root.absolute(), name
        self.class_names, self.pictures, self.place = tuple(class_names), list(pictures), place
        self.ledger = Ledger(name, max_skipped=reading.max_skipped)
        self.ledger.size = len(self.pictures)
        for path in unlabelled:
            self.ledger.leave_out("label_missing", path)
        if not self.pictures:
            raise ValueError(f"{root} has no picture of which its lists say what it shows.")

    def __len__(self) -> int:
        return len(self.pictures)

    def record(self, index: int) -> Record:
        """The record's key is the picture's path."""
        path = self.pictures[index].path
        return Record(path, (path,), ())

    def read(self, reference: str) -> bytes:
        """The bytes of a picture, given its path."""
        return read_regular_file(self.root / reference, kind="image", max_bytes=MAX_IMAGE_FILE_BYTES)

    def fingerprint(self) -> str:
        """A hash of the paths and sizes, and of samples of the content; classes and groups decide no embedding."""
        digest = hashlib.sha256()
        for one in self.pictures:
            digest.update(f"{one.path}\0{file_size(self.root / one.path)}\n".encode("utf-8", "surrogateescape"))
        for one in evenly(self.pictures, SAMPLED_IMAGES):
            digest.update(sampled_file(self.root / one.path))
        return digest.hexdigest()


def dollar_street(root: Path, *, class_names: Sequence[str] = (), reading: Reading = AS_USUAL) -> GroupedPictures:
    """Dollar Street as MLCommons gives it: things in homes of all incomes, by region, country and level of income.

    The lists `images_v2_imagenet_train.csv` and `..._test.csv` name the pictures whose topics have classes of
    ImageNet; any of a picture's classes is right.

    Args:
        root: the folder that holds the lists.
        class_names: of ImageNet's 1,000 classes, in order. Without them a picture's class is told among those alone
            that the lists name, which is easier than the published protocol.

    Raises:
        FileNotFoundError, ValueError: a list is missing, or is another file.

    Reference: Rojas et al. 2022, "The Dollar Street Dataset".
    """
    rows = [
        row
        for name in ("images_v2_imagenet_train.csv", "images_v2_imagenet_test.csv")
        for row in _rows(root / name, ("imageRelPath", "country.name", "region.id", "income", "imagenet_sysnet_id"))
    ]
    given = [[int(number) for number in re.findall(r"\d{1,6}", row["imagenet_sysnet_id"])] for row in rows]
    numbers = sorted({number for some in given for number in some})
    if class_names and numbers and numbers[-1] >= len(class_names):
        raise ValueError(f"{root} has classes up to {numbers[-1]}, and {len(class_names)} are named: give all 1,000.")
    if not class_names:
        names = _imagenet_names(rows, given)
        class_names, place_of = [names[number] for number in numbers], {n: place for place, n in enumerate(numbers)}
    else:
        place_of = {number: number for number in numbers}
    pictures = [
        GroupedPicture(
            row["imageRelPath"],
            frozenset(place_of[number] for number in some),
            {"region": _REGIONS.get(row["region.id"], row["region.id"]), "country": row["country.name"]}
            | _income(row["income"]),
        )
        for row, some in zip(rows, given, strict=True)
        if some
    ]
    without = [row["imageRelPath"] for row, some in zip(rows, given, strict=True) if not some]
    return GroupedPictures(
        root, "Dollar Street", class_names, pictures, place="country", unlabelled=without, reading=reading
    )


def geode(root: Path, *, reading: Reading = AS_USUAL) -> GroupedPictures:
    """GeoDE: forty kinds of things, photographed in six regions of the world.

    Args:
        root: the folder with `index.csv` and `images/`.

    Raises:
        FileNotFoundError, ValueError: the list is missing, or is another file.

    Reference: Ramaswamy et al. 2023, "GeoDE: a Geographically Diverse Evaluation Dataset for Object Recognition".
    """
    rows = list(_rows(root / "index.csv", ("file_path", "object", "region", "ip_country")))
    names = sorted({row["object"] for row in rows})
    pictures = [
        GroupedPicture(
            f"images/{row['file_path']}",
            frozenset({names.index(row["object"])}),
            {"region": row["region"], "country": row["ip_country"]},
        )
        for row in rows
    ]
    shown = [name.replace("_", " ") for name in names]
    return GroupedPictures(root, "GeoDE", shown, pictures, place="region", reading=reading)


def landmarks(root: Path, *, reading: Reading = AS_USUAL) -> GroupedPictures:
    """Google Landmarks v2.1, the test pictures that are asked for in retrieval, each with its landmark's name.

    A picture's landmark is the one that most of the index pictures listed for it show; its name is the end of its
    category's address.

    Args:
        root: the folder with `retrieval_solution_v2.1.csv`, `index_image_to_landmark.csv`,
            `index_label_to_category.csv` and the pictures, `test/a/b/c/abc....jpg`.

    Raises:
        FileNotFoundError, ValueError: a list is missing, or is another file.

    Reference: Weyand et al. 2020, "Google Landmarks Dataset v2".
    """
    asked = [
        (row["id"], row["images"].split())
        for row in _rows(root / "retrieval_solution_v2.1.csv", ("id", "images", "Usage"))
        if row["Usage"] in ("Public", "Private")
    ]
    wanted = {image for _, listed in asked for image in listed}
    shows = {
        row["id"]: row["landmark_id"]
        for row in _rows(root / "index_image_to_landmark.csv", ("id", "landmark_id"))
        if row["id"] in wanted
    }
    named = {
        row["landmark_id"]: unquote(row["category"]).rpartition(":")[2].replace("_", " ")
        for row in _rows(root / "index_label_to_category.csv", ("landmark_id", "category"))
    }
    of_pictures = [(name, Counter(shows[image] for image in listed if image in shows)) for name, listed in asked]
    found = [(name, counted.most_common(1)[0][0]) for name, counted in of_pictures if counted]
    places = {landmark: place for place, landmark in enumerate(dict.fromkeys(landmark for _, landmark in found))}
    pictures = [GroupedPicture(_landmark_path(name), frozenset({places[landmark]}), {}) for name, landmark in found]
    names = [named.get(landmark, landmark) for landmark in places]
    without = [_landmark_path(name) for name, counted in of_pictures if not counted]
    return GroupedPictures(root, "Google Landmarks", names, pictures, unlabelled=without, reading=reading)


def _landmark_path(name: str) -> str:
    return "/".join(("test", *name[:3], f"{name}.jpg"))


_REGIONS = {"af": "Africa", "am": "Americas", "as": "Asia", "eu": "Europe"}


@dataclass
class _Lines:
    """A text file a line at a time, none longer than MAX_ROW_BYTES."""

    path: Path
    number: int = field(default=0)

    def __iter__(self) -> Iterator[str]:
        with open_regular(self.path) as file:
            while line := file.readline(MAX_ROW_BYTES):
                self.number += 1
                if len(line) == MAX_ROW_BYTES:
                    raise ValueError(f"{self.path}: line {self.number} is longer than {MAX_ROW_BYTES:,} bytes.")
                yield line.decode("utf-8-sig" if self.number == 1 else "utf-8", "replace")


def _rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The rows of a CSV file that has those columns, no cell missing."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}, where this data set has its list")
    lines = _Lines(path)
    reader = csv.DictReader(lines)
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(
            f"{path} has the columns {', '.join(reader.fieldnames or ()) or 'of no list'}; missing are "
            f"{', '.join(missing)}."
        )
    try:
        for row in reader:
            yield {name: value.strip() if isinstance(value, str) else "" for name, value in row.items() if name}
    except csv.Error as error:
        raise ValueError(f"{path}: line {lines.number} is no line of such a list: {error}.") from None


def _income(text: str) -> dict[str, str]:
    try:
        income = float(text)
    except ValueError:
        return {}
    place = sum(income >= edge for edge in INCOME_EDGES)
    return {"income": ("lowest quarter", "second quarter", "third quarter", "highest quarter")[place]}


def _imagenet_names(rows: Sequence[dict[str, str]], given: Sequence[Sequence[int]]) -> dict[int, str]:
    """What the lists call each class: the first of its names there, else its number."""
    names: dict[int, str] = {}
    for row, numbers in zip(rows, given, strict=True):
        listed = re.findall(r"'([^']+)'|\"([^\"]+)\"", row.get("imagenet_synonyms", ""))
        for number, (single, double) in zip(numbers, listed, strict=False):
            names.setdefault(number, (single or double).split(",")[0])
    return {number: names.get(number, str(number)) for some in given for number in some}
