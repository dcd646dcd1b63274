"""Questions in the JSON that data sets are downloaded as: VQAv2, OK-VQA, TextVQA, DocVQA, ChartQA.

| layout | questions | pictures |
|---|---|---|
| VQAv2, OK-VQA | {"questions": [{"question_id", "image_id", "question"}]}, with {"annotations": [{"question_id", \
"answers": [{"answer"}]}]} beside | COCO_train2014_000000000009.jpg or 000000000009.jpg |
| TextVQA | {"data": [{"question", "image_id", "answers": [text]}]} | train_images/IMAGE_ID.jpg |
| DocVQA | {"data": [{"question", "image": "documents/x.png", "answers": [text]}]} | as named |
| ChartQA | [{"imgname", "query", "label"}] | png/IMGNAME |

Prompts are those that PaliGemma is transferred with: "answer en QUESTION", and for documents and charts the question
alone. Reference: big_vision `configs/proj/paligemma/transfers/`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from diptych.core.data.bad_example import BadExample
from diptych.core.data.sources.joins import Join
from diptych.core.data.sources.questions import Judging, Question, texts_of

ANSWER = "answer en {question}"
ASKED = 16  # entries whose pictures are looked for, before a folder is taken to have none


@dataclass(frozen=True, kw_only=True)
class QuestionLayout:
    """How a data set writes its questions.

    Attributes:
        name: for people.
        prompt: what a model is asked, with {question} for the question.
        judged: how its answers are.
        folders: where its pictures usually are, relative to the file.
        list_of: the entries of a file's content; None for a file of another layout.
        names_of: the files that an entry's picture may be, of which one is there.
        question_of, answers_of: of an entry; the answers raise `BadExample` for none.
    """

    name: str
    prompt: str
    judged: Judging
    folders: Callable[[Any], tuple[str, ...]]
    list_of: Callable[[Any], list | None]
    names_of: Callable[[Mapping, Any], tuple[str, ...]]
    question_of: Callable[[Mapping], Any]
    answers_of: Callable[[Mapping, "Annotations | None"], tuple[str, ...]]


class Annotations:
    """What people answered, by the number of the question."""

    def __init__(self, content: Any, where: object):
        self._found: Join[Any] = Join("annotations", "question_unanswered", where)
        self.ok_vqa = False
        for entry in content["annotations"]:
            if isinstance(entry, dict):
                self._found.put(entry.get("question_id"), entry.get("answers"))
                given = entry.get("answers")
                self.ok_vqa |= isinstance(given, list) and any("raw_answer" in one for one in given[:1])

    def of(self, entry: Mapping) -> tuple[str, ...]:
        """Raises `BadExample` for a question without annotation."""
        given = self._found.find(entry.get("question_id"))
        return texts_of([one.get("answer") if isinstance(one, dict) else one for one in given or ()])


def is_annotations(content: Any) -> bool:
    """Whether a file has the answers to VQA's questions."""
    entry = _first(content, "annotations")
    return entry is not None and {"question_id", "answers"} <= entry.keys()


def _annotated(entry: Mapping, annotations: Annotations | None) -> tuple[str, ...]:
    return () if annotations is None else annotations.of(entry)


def _own_answers(entry: Mapping, _: Annotations | None) -> tuple[str, ...]:
    return texts_of(entry.get("answers"))


def _coco_names(entry: Mapping, content: Any) -> tuple[str, ...]:
    number = entry.get("image_id")
    if not isinstance(number, int | str) or not re.fullmatch(r"\d{1,12}", str(number)):
        raise BadExample("image_missing", f"image_id is {number!r:.40}, expected the number of one of COCO's")
    part = _part(content)
    return (f"COCO_{part}_{int(number):012d}.jpg", f"{int(number):012d}.jpg")


def _part(content: Any) -> str:
    return str(content.get("data_subtype") or "train2014")


def _inside(name: Any, kind: str) -> str:
    if not isinstance(name, str) or not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise BadExample("image_missing", f"{kind} is {name!r:.80}, expected a path below the folder of pictures")
    return name


def _split_folders(content: Any) -> tuple[str, ...]:
    entry = _first(content, "data") or {}
    split = str(entry.get("set_name") or entry.get("data_split") or content.get("dataset_split") or "train")
    # TextVQA's validation pictures are among those of training.
    return ("train_images", "train_val_images/train_images", f"{split}_images", f"{split}/images", "images", "")


VQA = QuestionLayout(
    name="VQAv2",
    prompt=ANSWER,
    judged=Judging(metrics=("vqa",)),
    folders=lambda content: (_part(content), f"images/{_part(content)}", "images", ""),
    list_of=lambda content: _entries(content, "questions", {"question", "image_id", "question_id"}),
    names_of=_coco_names,
    question_of=lambda entry: entry.get("question"),
    answers_of=_annotated,
)
TEXT_VQA = QuestionLayout(
    name="TextVQA",
    prompt=ANSWER,
    judged=Judging(metrics=("vqa",)),
    folders=_split_folders,
    list_of=lambda content: _entries(content, "data", {"question", "image_id"}),
    names_of=lambda entry, _: (f"{_inside(entry.get('image_id'), 'image_id')}.jpg",),
    question_of=lambda entry: entry.get("question"),
    answers_of=_own_answers,
)
DOC_VQA = QuestionLayout(
    name="DocVQA",
    prompt="{question}",
    judged=Judging(metrics=("anls",), lower_case=True),
    folders=lambda content: ("", "images", "spdocvqa_images", "documents"),
    list_of=lambda content: _entries(content, "data", {"question", "image"}),
    names_of=lambda entry, _: tuple(
        dict.fromkeys((_inside(entry.get("image"), "image"), PurePosixPath(str(entry["image"])).name))
    ),
    question_of=lambda entry: entry.get("question"),
    answers_of=_own_answers,
)
CHART_QA = QuestionLayout(
    name="ChartQA",
    prompt="{question}",
    judged=Judging(metrics=("relaxed",), lower_case=True),
    folders=lambda content: ("png", "images", ""),
    list_of=lambda content: _entries({"": content}, "", {"imgname", "query", "label"}),
    names_of=lambda entry, _: (_inside(entry.get("imgname"), "imgname"),),
    question_of=lambda entry: entry.get("query"),
    answers_of=lambda entry, _: texts_of(str(entry["label"]) if _is_number(entry.get("label")) else entry.get("label")),
)
LAYOUTS = (VQA, TEXT_VQA, DOC_VQA, CHART_QA)


def layout_of(content: Any) -> QuestionLayout | None:
    """The layout of a file's content; None for one that holds no questions."""
    return next((layout for layout in LAYOUTS if layout.list_of(content) is not None), None)


def questions_in(
    layout: QuestionLayout,
    content: Any,
    pictures: Path,
    annotations: Annotations | None,
    name: str,
    ledger: Callable[[str, str], None],
) -> Iterator[Question]:
    """The questions of a file's content that have a picture's name and an answer; what has not is told to `ledger`,
    by reason and name.

    Args:
        pictures: the folder of the pictures.
        name: of the file, for people.
    """
    for number, entry in enumerate(layout.list_of(content) or ()):
        where = f"{name}: question {number + 1}"
        try:
            question = layout.question_of(entry)
            if not isinstance(question, str) or not question.strip():
                raise BadExample("question_missing", where)
            answers = layout.answers_of(entry, annotations)
            if not answers:
                raise BadExample("question_unanswered", where)
            names = layout.names_of(entry, content)
        except BadExample as error:
            ledger(error.reason, where)
            continue
        image = next((pictures / one for one in names if (pictures / one).exists()), pictures / names[0])
        prompt = layout.prompt.format(question=question.strip())
        yield Question(images=(image,), prompt=prompt, answers=answers)


def picture_folder(path: Path, folders: Sequence[str], samples: Iterable[Sequence[str]]) -> Path:
    """The folder with the pictures of a file of questions: one of `folders` beside it, or beside the folders that it is
    in, in which there is one of the first pictures.

    Args:
        samples: for each entry the names that its picture may have.

    Raises:
        FileNotFoundError: where there is none; says what was looked for, where, and how a folder is named.
    """
    first = [name for names in islice(samples, ASKED) for name in names]
    bases = list(dict.fromkeys((path.parent, path.absolute().parent.parent, path.absolute().parent.parent.parent)))
    for base in bases:
        for folder in folders:
            if any((base / folder / name).is_file() for name in first):
                return base / folder
    looked = ", ".join(str(path.parent / folder) for folder in folders)
    raise FileNotFoundError(
        f"{path} is about pictures such as {first[0] if first else 'none'}, and none of its first {ASKED} is in "
        f"{looked}, or beside the folders above. Put them there, or name their folder: questions:{path}:FOLDER."
    )


def _entries(content: Any, name: str, fields: set[str]) -> list | None:
    """The list under a name, where its first entry has the fields."""
    first = _first(content, name)
    return [one if isinstance(one, dict) else {} for one in content[name]] if first and fields <= first.keys() else None


def _first(content: Any, name: str) -> dict | None:
    found = content.get(name) if isinstance(content, dict) else None
    return found[0] if isinstance(found, list) and found and isinstance(found[0], dict) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
