"""One small data set, written as a folder, as tar shards, as Parquet and as Arrow."""

import io
import json
import tarfile
from pathlib import Path

from diptych.core.data.records import Caption, Record, Source
from diptych.core.data.sources.region_labelling import Detection
from tests.core.data.pictures import encoded, pixels

COUNT = 12

# One record in four has captions of three languages, the others one plain caption; keys lie in two directories.
KEYS = [f"{'even' if index % 2 == 0 else 'odd'}/{index:03d}" for index in range(COUNT)]


def picture(index: int) -> bytes:
    """The image of a record."""
    return encoded(pixels(index), "WEBP" if index % 3 else "JPEG", quality=90)


def suffix(index: int) -> str:
    """The file suffix that fits `picture`."""
    return ".webp" if index % 3 else ".jpg"


def fields(index: int) -> dict:
    """The captions of a record as JSON has them."""
    if index % 4:
        return {"text": f"picture number {index}"}
    return {
        "captions": [
            {"text": f"picture {index}", "language": "en"},
            {"text": f"Bild {index}", "language": "de", "weight": 2.0},
            {"text": f"絵 {index}", "language": "ja"},
        ]
    }


def expected() -> dict[str, tuple[bytes, tuple[Caption, ...]]]:
    """Key -> (image, captions) of all records."""
    content = {}
    for index, key in enumerate(KEYS):
        if index % 4:
            captions = (Caption(f"picture number {index}"),)
        else:
            captions = (
                Caption(f"picture {index}", "en"),
                Caption(f"Bild {index}", "de", 2.0),
                Caption(f"絵 {index}", "ja"),
            )
        content[key] = picture(index), captions
    return content


def content_of(source: Source) -> dict[str, tuple[bytes, tuple[Caption, ...]]]:
    """What a source holds, in the shape of `expected`."""
    records: list[Record] = [source.record(index) for index in range(len(source))]
    assert len({record.key for record in records}) == len(records)
    return {record.key: (source.read(record.images[0]), record.captions) for record in records}


def write_folder(root: Path) -> None:
    """Images with a .txt (plain captions) or .json beside them."""
    for index, key in enumerate(KEYS):
        path = root / (key + suffix(index))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(index))
        if index % 4:
            path.with_suffix(".txt").write_text(fields(index)["text"] + "\n", encoding="utf-8")
        else:
            path.with_suffix(".json").write_text(json.dumps(fields(index)), encoding="utf-8")


def write_listed_folder(root: Path, name: str = "metadata.jsonl") -> None:
    """Images, and one list of all captions."""
    write_folder(root)
    lines = [json.dumps({"file_name": key + suffix(index)} | fields(index)) for index, key in enumerate(KEYS)]
    (root / name).write_text("\n".join(lines), encoding="utf-8")


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """One regular file in a tar."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def write_tars(folder: Path, shards: int = 2, **options) -> list[Path]:
    """WebDataset shards."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"shard-{shard:03d}.tar" for shard in range(shards)]
    for shard, path in enumerate(paths):
        with tarfile.open(path, "w", **options) as tar:
            for index in range(shard, COUNT, shards):
                add_member(tar, KEYS[index] + suffix(index), picture(index))
                if index % 4:
                    add_member(tar, KEYS[index] + ".txt", fields(index)["text"].encode())
                else:
                    add_member(tar, KEYS[index] + ".json", json.dumps(fields(index)).encode())
    return paths


def table(hugging_face: bool):
    """An Arrow table; Hugging Face's has {"bytes", "path"} images, the other has keys."""
    import pyarrow

    captions = [fields(index).get("captions") for index in range(COUNT)]
    texts = [fields(index).get("text") for index in range(COUNT)]
    images = [picture(index) for index in range(COUNT)]
    if hugging_face:
        images = [{"bytes": data, "path": KEYS[index] + suffix(index)} for index, data in enumerate(images)]
        return pyarrow.table({"image": images, "text": texts, "captions": captions})
    return pyarrow.table({"key": KEYS, "image": images, "text": texts, "captions": captions})


def write_parquet(path: Path, *, hugging_face: bool = False, rows_a_group: int = 5) -> None:
    """One Parquet file of several row groups."""
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table(hugging_face), path, row_group_size=rows_a_group)


def write_arrow(folder: Path, *, files: int = 2) -> None:
    """A folder as `datasets.Dataset.save_to_disk` leaves it."""
    import pyarrow.ipc

    folder.mkdir(parents=True, exist_ok=True)
    whole = table(hugging_face=True)
    rows = COUNT // files
    for number in range(files):
        part = whole.slice(number * rows, rows)
        with pyarrow.ipc.new_stream(folder / f"data-{number:05d}-of-{files:05d}.arrow", part.schema) as writer:
            writer.write_table(part, max_chunksize=4)
    (folder / "state.json").write_text("{}")
    (folder / "dataset_info.json").write_text("{}")


class Everywhere:
    """Sees each phrase in the same box."""

    def detect(self, pictures, phrases):
        return [[Detection((0.25, 0.0, 0.75, 0.5), phrase, 0.5) for phrase in of_one] for of_one in phrases]

    def fingerprint(self):
        return "everywhere"
