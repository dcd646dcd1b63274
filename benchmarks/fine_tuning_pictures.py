"""Pictures for `benchmarks.fine_tuning`: clip art with its titles, fetched by name, and labelled drawings of emoji.

The clip art is openclipart 0.18 (public domain), from Debian's package openclipart-svg, which `apt-get download`
fetches without installing it. Of its 8,000 drawings those are taken whose title no other one has: most of the others
are icons of one set, which all have the set's name. They are drawn on white, 64 pixels wide or high, by resvg_py.
"""

import contextlib
import csv
import html
import re
import shutil
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from diptych.core.data.emoji import DESIGNERS, HELD_OUT_DESIGNER, EmojiSource
from diptych.core.data.emoji.building.drawing import draw_any_svg, reduce_to_webp
from diptych.core.files.atomic import put_in_place

PACKAGE = "openclipart-svg"
LARGEST_DOCUMENT = 200_000  # bytes; what is larger takes long to draw, and is hardly a drawing of one thing
LARGEST_ASPECT = 4.0

_TITLE = re.compile(r"<dc:title>(.*?)</dc:title>", re.DOTALL)


def clip_art(folder: Path) -> Path:
    """The folder of drawings and captions.csv, which is made where it is not there.

    Raises:
        FileNotFoundError: where the package cannot be fetched.
        ImportError: without resvg_py.
    """
    if folder.is_dir():
        return folder
    with _made(folder) as temporary:
        rows = []
        for path, title in titled(_unpacked(folder.parent / PACKAGE)).items():
            try:
                picture = draw_any_svg(path.read_text(encoding="utf-8", errors="replace"))
            except ValueError:
                continue
            if max(picture.size) <= LARGEST_ASPECT * min(picture.size):
                name = f"{path.stem}.webp"
                (temporary / name).write_bytes(reduce_to_webp(picture))
                rows.append((name, title))
        _write_list(temporary / "captions.csv", ("image", "caption"), rows)
    print(f"{folder}: {len(rows):,} drawings of {PACKAGE}", flush=True)
    return folder


def _unpacked(folder: Path) -> Path:
    if folder.is_dir():
        return folder
    with _made(folder) as temporary:
        try:
            subprocess.run(["apt-get", "download", "--quiet", PACKAGE], cwd=temporary, check=True)
            (package,) = temporary.glob("*.deb")
            subprocess.run(["dpkg-deb", "-x", package, temporary], check=True)
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            raise FileNotFoundError(
                f"`apt-get download {PACKAGE}` did not bring the package ({error}). Take a machine with Debian's "
                "packages, or other data: --data twemoji comes along, --data FOLDER are pictures of your own."
            ) from error
        package.unlink()
    return folder


def titled(folder: Path) -> dict[Path, str]:
    """The drawings whose title no other has, in the order of their names."""
    titles = {}
    for path in sorted(folder.rglob("*.svg")):
        found = _TITLE.search(path.read_text(encoding="utf-8", errors="replace"))
        titles[path] = " ".join(html.unescape(found[1]).replace("_", " ").split()) if found else ""
    times, names = Counter(title.casefold() for title in titles.values()), Counter(path.stem for path in titles)
    return {
        path: title
        for path, title in titles.items()
        if title and times[title.casefold()] == 1 and names[path.stem] == 1 and path.stat().st_size <= LARGEST_DOCUMENT
    }


def held_out_designer(folder: Path) -> Path:
    """The drawings of the designer that no shipped weights have seen, with English names: the pairs that come along."""
    if not folder.is_dir():
        source = EmojiSource("all", (HELD_OUT_DESIGNER,), ("en",), keywords=False)
        with _made(folder) as temporary:
            rows = []
            for record in source:
                name = f"{record.key}.webp"
                (temporary / name).write_bytes(source.read(record.images[0]))
                rows.append((name, record.captions[0].text))
            _write_list(temporary / "captions.csv", ("image", "caption"), rows)
    return folder


CLASSES = ("group", "subgroup")
"""What the standard calls its classes of emoji, by their number: 9 and 98."""


def labelled_emoji(folder: Path, shots: Sequence[int], seed: int) -> Path:
    """A folder with drawings by all designers, and `labelled_lists` of them."""
    source = EmojiSource("all", DESIGNERS, ("en",), keywords=False)
    if not folder.is_dir():
        with _made(folder) as temporary:
            for record in source:
                for designer, name in record.images:
                    (temporary / _file(designer, name)).write_bytes(source.read((designer, name)))
    for name, rows in labelled_lists(source, shots, seed).items():
        _write_list(folder / name, ("image", "label"), rows)
    return folder


def labelled_lists(source: EmojiSource, shots: Sequence[int], seed: int) -> dict[str, list[tuple[str, str]]]:
    """{file: [(picture, label)]}.

    `judged-<classes>.csv` has all drawings by the held-out designer, `<classes>-<shots>-seed-<seed>.csv` so many of the
    other designers' drawings a class, drawn at random without repetition, all where there are fewer.
    """
    lists: dict[str, list[tuple[str, str]]] = {}
    for kind in CLASSES:
        drawings: dict[str, list[str]] = defaultdict(list)
        judged = lists[f"judged-{kind}.csv"] = []
        for index, record in enumerate(source):
            label = getattr(source.concept(index), kind)
            for designer, name in record.images:
                if designer == HELD_OUT_DESIGNER:
                    judged.append((_file(designer, name), label))
                else:
                    drawings[label].append(_file(designer, name))
        for many in shots:
            rng = np.random.default_rng((seed, many))
            chosen = {label: rng.permutation(names)[:many] for label, names in sorted(drawings.items())}
            rows = [(str(name), label) for label, names in chosen.items() for name in names]
            lists[f"{kind}-{many}-seed-{seed}.csv"] = rows
    return lists


def _file(designer: str, name: str) -> str:
    return f"{designer}-{name}.webp"


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which has its name once it is whole; not flushed to disk, as it can be made again."""
    temporary = folder.with_name(f".making-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    put_in_place(temporary, folder)


def _write_list(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
