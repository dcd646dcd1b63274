"""Questions about pictures in the layouts that data sets are downloaded in, told apart by what the files hold.

data.jsonl                           lines of JSON with image, prefix and suffix (`questions`)
v2_OpenEnded_..._questions.json      VQAv2, OK-VQA, TextVQA, DocVQA, ChartQA (`question_files`)
refcoco/refs(unc).p#val              RefCOCO, RefCOCO+, RefCOCOg with instances.json beside (`referring_questions`)
captions_val2014.json                COCO's captions, which answer a prompt
a folder with one of these
questions:FILE[,FILE]:FOLDER         the same, where pictures, or annotations, are elsewhere
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from diptych.core.data.bad_example import BadExample
from diptych.core.data.ledger import visit
from diptych.core.data.records import Source
from diptych.core.data.sources.coco import SCHEME as COCO
from diptych.core.data.sources.coco import CocoRegionSource
from diptych.core.data.sources.question_files import (
    Annotations,
    is_annotations,
    layout_of,
    picture_folder,
    questions_in,
)
from diptych.core.data.sources.questions import Judging, Question, Questions, is_questions, read_lines
from diptych.core.data.sources.refcoco import Referral, read_original, read_references
from diptych.core.data.sources.referring_questions import ReferringQuestions
from diptych.core.files.beginnings import mistaken
from diptych.core.files.plain_pickle import SUFFIXES as PICKLES
from diptych.core.files.plain_pickle import plain_pickle
from diptych.core.files.regular import open_regular

SCHEME = "questions:"
MAX_BYTES = 1 << 30
CAPTIONS = Judging(metrics=("cider",), lower_case=True)
INSTANCES = "instances.json"
EXPECTED = (
    "lines of JSON with image, prefix and suffix (.jsonl); the questions of VQAv2 or OK-VQA with their annotations "
    "beside; the JSON of TextVQA, DocVQA or ChartQA; refs(unc).p with instances.json beside; captions_val2014.json of "
    "COCO; or a folder of pictures with a .txt beside each"
)
_SUBFOLDERS = ("", "annotations", "questions")
_COCO_FOLDERS = ("train2014", "val2014", "train2017", "val2017", "images/train2014", "images/val2014", "images", "")


class _Read(NamedTuple):
    """A file: what it holds, in words ("" for nothing known), its content, and a hash of its bytes."""

    holds: str
    content: Any
    digest: str


def open_questions(spec: str, *, masks: Path | None = None) -> Questions | Source | None:
    """The questions that a text means; captions of COCO as a source of them; None for what is no such data.

    Args:
        spec: one of the forms above; of files with several splits one is named behind "#".
        masks: big_vision's vae-oid.npz: of referring expressions not only boxes are asked for.

    Raises:
        FileNotFoundError: the pictures, or the answers, are not where they are looked for.
        ValueError: several files or splits, of which one must be chosen, or a file that is damaged.
    """
    files, pictures, split = _parsed(spec)
    path = files[0]
    if path.is_dir():
        found = {file: read for file in _files_of(path) if (read := _read(file)).holds in _ASKED}
        if len(found) > 1 and any(read.holds != "captions" for read in found.values()):
            found = {file: read for file, read in found.items() if read.holds != "captions"}
        if not found:
            return None
        if len(found) > 1:
            listed = ", ".join(f"{file.name} ({read.holds})" for file, read in found.items())
            raise ValueError(f"{path} holds {listed}: choose one, such as {next(iter(found))}.")
        (path, read), others = next(iter(found.items())), []
    elif path.is_file():
        read, others = _read(path), list(files[1:])
        if read.holds not in _ASKED:
            if isinstance(read.content, ValueError):
                raise read.content
            if read.holds:
                raise ValueError(f"{path} holds {read.holds}, and no questions. Give the file beside it that does.")
            return None
    else:
        return None
    if read.holds == "lines":
        return read_lines(path)
    if read.holds == "captions":
        return _captions(path, read, pictures)
    if read.holds == "references":
        return _referring(path, read, others, pictures, split, masks)
    return _asked(path, read, others, pictures)


def as_questions(source: Source, prompt: str, *, name: str) -> Questions:
    """Captions of the first picture of each record as true answers to one prompt; raises ValueError where there are
    none.
    """

    def asked(record: Any) -> Question:
        captions = record.require_captions()
        return Question(images=record.images[:1], prompt=prompt, answers=tuple(one.text for one in captions))

    found = [question for _, question in visit(source, asked)]
    if not found:
        raise ValueError(f"none of the {len(source):,} records of {name} has a caption. Expected {EXPECTED}.")
    return Questions(
        found,
        name=name,
        folder=Path(),
        fingerprint=f"{source.fingerprint()} {prompt}",
        judged=judged_as(source),
        read=source.read,
    )


def judged_as(source: Source) -> Judging:
    """How answers are judged by default."""
    if isinstance(source, Questions):
        return source.judged
    return CAPTIONS if isinstance(source, CocoRegionSource) else Judging()


def found_in(spec: str) -> str:
    """What a folder or a file that is no questions holds, and what was expected, as sentences."""
    path = _parsed(spec)[0][0]
    files = _files_of(path) if path.is_dir() else [path] if path.is_file() else []
    listed = [f"{file.name} ({_read(file).holds or 'nothing known'})" for file in files[:8]]
    if path.is_dir() and not listed:
        suffixes = Counter(file.suffix.lower() or file.name for file in path.iterdir())
        listed = [f"{count:,} {suffix}" for suffix, count in suffixes.most_common(5)]
    return f"Found in {path}: {', '.join(listed) or 'nothing'}. Expected {EXPECTED}."


def _parsed(spec: str) -> tuple[list[Path], Path | None, str | None]:
    """Files, the folder of pictures where one is named, and the split where one is."""
    rest, pictures, split = spec, None, None
    if spec.startswith(SCHEME):
        rest, _, folder = spec.removeprefix(SCHEME).rpartition(":")
        if not rest or not folder:
            raise ValueError(f'{spec!r} is not of the form "{SCHEME}FILE:folder of pictures"')
        folder, mark, named = folder.partition("#")
        pictures, split = Path(folder), named if mark else None
    if not Path(rest).exists() and "#" in rest:
        rest, _, split = rest.rpartition("#")
    names = [rest] if Path(rest).exists() else rest.split(",")
    return [Path(name) for name in names], pictures, split


def _files_of(folder: Path) -> list[Path]:
    suffixes = (".json", ".jsonl", *PICKLES)
    found = [path for inner in _SUBFOLDERS if (folder / inner).is_dir() for path in sorted((folder / inner).iterdir())]
    return [path for path in found if path.suffix in suffixes and path.is_file()]


def _read(path: Path) -> _Read:
    """Of a file that is damaged, the error as its content."""
    if path.suffix == ".jsonl":
        return _Read("lines" if is_questions(str(path)) else "", None, "")
    if path.suffix not in (".json", *PICKLES):
        return _Read("", None, "")
    with open_regular(path) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        return _Read("", None, "")
    try:
        content = plain_pickle(data, str(path)) if path.suffix in PICKLES else json.loads(data)
    except (ValueError, RecursionError) as error:
        reason = (
            str(error) if path.suffix in PICKLES else f"{path} {mistaken(data, 'JSON') or f'is not JSON: {error}.'}"
        )
        return _Read("", ValueError(reason), "")
    return _Read(_holds(content), content, hashlib.sha256(data).hexdigest())


def _holds(content: Any) -> str:
    if layout := layout_of(content):
        return layout.name
    references = content.get("refs") if isinstance(content, Mapping) else content
    first = references[0] if isinstance(references, list) and references else None
    if isinstance(first, Mapping) and {"sentences", "split"} <= first.keys():
        return "references"
    if is_annotations(content):
        return "annotations"
    if not isinstance(content, Mapping) or not isinstance(content.get("images"), list):
        return ""
    annotations = content.get("annotations")
    entry = annotations[0] if isinstance(annotations, list) and annotations else None
    return "captions" if isinstance(entry, Mapping) and "caption" in entry else "COCO's boxes"


_ASKED = ("lines", "captions", "references", "VQAv2", "TextVQA", "DocVQA", "ChartQA")


def _asked(path: Path, read: _Read, others: list[Path], pictures: Path | None) -> Questions:
    layout = layout_of(read.content)
    assert layout is not None
    digest, annotations, judged = read.digest, None, layout.judged
    if layout.name == "VQAv2":
        beside = others[0] if others else _annotations_beside(path)
        answers = _read(beside)
        if answers.holds != "annotations":
            raise ValueError(f"{beside} does not hold the annotations of {path}, expected question_id and answers.")
        annotations = Annotations(answers.content, beside)
        digest += answers.digest
        if annotations.ok_vqa:
            judged = replace(judged, metrics=("okvqa",))
    entries = layout.list_of(read.content) or []
    if pictures is None:
        pictures = picture_folder(path, layout.folders(read.content), chain(_names(layout, entries, read.content)))
    left_out: list[tuple[str, str]] = []
    found = list(
        questions_in(layout, read.content, pictures, annotations, path.name, lambda *one: left_out.append(one))
    )
    if not found:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in Counter(one for one, _ in left_out).items())
        raise ValueError(
            f"none of the {len(entries):,} questions of {path} has an answer ({reasons}). The answers of test sets are "
            "not public: give a split that has them."
        )
    source = Questions(found, name=str(path), folder=path.parent, fingerprint=digest, judged=judged)
    for reason, name in left_out:
        source.ledger.leave_out(reason, name)
    return source


def _names(layout: Any, entries: list, content: Any):
    for entry in entries:
        try:
            yield layout.names_of(entry, content)
        except BadExample:
            continue


def _annotations_beside(path: Path) -> Path:
    """Of v2_OpenEnded_mscoco_val2014_questions.json v2_mscoco_val2014_annotations.json."""
    plain = path.name.replace("questions", "annotations")
    names = dict.fromkeys((plain.replace("OpenEnded_", "").replace("MultipleChoice_", ""), plain))
    folders = (path.parent, path.absolute().parent.parent / "annotations", path.absolute().parent.parent)
    for folder in folders:
        for name in names:
            if name != path.name and (folder / name).is_file():
                return folder / name
    raise FileNotFoundError(
        f"{path} holds questions without answers, and {next(iter(names))} is not beside it. Put it there, or name it: "
        f"{SCHEME}{path},ANNOTATIONS.json:FOLDER."
    )


def _captions(path: Path, read: _Read, pictures: Path | None) -> Source:
    images = [one for one in read.content["images"] if isinstance(one, dict) and isinstance(one.get("file_name"), str)]
    folder = pictures or picture_folder(path, _COCO_FOLDERS, ((one["file_name"],) for one in images))
    return CocoRegionSource.from_spec(f"{COCO}{path}:{folder}")


def _referring(
    path: Path, read: _Read, others: list[Path], pictures: Path | None, split: str | None, masks: Path | None
) -> Questions:
    instances = others[0] if others else path.parent / INSTANCES
    references = read.content["refs"] if isinstance(read.content, Mapping) else read.content
    published = "ann_id" in references[0]
    if published and not instances.is_file():
        raise FileNotFoundError(
            f"{path} refers to annotations, and {instances} is not there. Put it there, or name it: "
            f"{SCHEME}{path},instances.json:FOLDER."
        )
    reading = partial(read_original, instances, path) if published else partial(read_references, path)
    if pictures is None:
        names = [each.image.name for each in reading(Path())] if published else [one.get("image") for one in references]
        pictures = picture_folder(path, _COCO_FOLDERS, ((str(name),) for name in names))
    found: list[Referral] = reading(pictures)
    splits = Counter(each.split for each in found)
    if split is None and len(splits) > 1:
        listed = ", ".join(f"{name} ({count:,})" for name, count in splits.items())
        raise ValueError(f"{path} holds the splits {listed}: choose one, such as {path}#{next(iter(splits))}.")
    chosen = [each for each in found if split is None or each.split == split]
    if not chosen:
        raise ValueError(f"{path} has no phrase of {split}, only of {', '.join(splits)}.")
    digest = read.digest + (_read(instances).digest if published else "")
    return ReferringQuestions(
        chosen, masks=masks, name=f"{path}#{chosen[0].split}", folder=pictures, fingerprint=f"{digest} {split}"
    )
