"""Questions about pictures with their true answers, a line of JSON each.

    {"image": "photos/1.jpg", "prefix": "answer en what is it?", "suffix": "a cat"}
    {"image": ["1.jpg", "2.jpg"], "prefix": "answer en are they alike?", "answers": ["yes", "yes", "no"]}

`image`, `prefix` and `suffix` are big_vision's names, and `images` is a list of pictures as well; `answers` are those
of several people, or several references. The pictures' paths are relative to the file. Other layouts become the same
questions (`question_layouts`).
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.core.data.ledger import Ledger
from diptych.core.data.records import Caption, Record
from diptych.core.data.sources.files import MAX_IMAGE_FILE_BYTES, read_regular_file
from diptych.core.data.sources.keys import Hashed, hashed
from diptych.core.files.json_objects import parse_object
from diptych.core.files.regular import open_regular

MAX_LINE_BYTES = 1 << 20


def is_questions(spec: str) -> bool:
    """Whether a text names a file of questions: lines of JSON, the first of which has a prefix."""
    path = Path(spec)
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    with open_regular(path) as file:
        line = file.readline(MAX_LINE_BYTES)
    try:
        return "prefix" in json.loads(line)
    except (ValueError, TypeError):
        return False


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked about which pictures of an example, and what is right."""

    images: tuple[Any, ...]  # paths; of a source that reads its own, its references
    prompt: str
    answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Judging:
    """How answers to the questions of a layout are judged where a person says nothing.

    metrics: names in `core.evaluation.answer_metrics`.   lower_case: whether answers are compared in lower case.
    """

    metrics: tuple[str, ...] = ("exact",)
    lower_case: bool = False


class Questions:
    """Questions as a source: one record each, whose captions are the true answers.

    Args:
        questions: in their order.
        name: of the data, for people.
        folder: what the pictures' paths are told apart by.
        fingerprint: a hash of the files that the questions are from.
        judged: how their answers are judged.
        read: the bytes of a picture, where it is no file.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        *,
        name: str,
        folder: Path,
        fingerprint: str,
        judged: Judging | None = None,
        read: Callable[[Any], bytes] | None = None,
    ):
        self.questions = tuple(questions)
        self.judged = judged or Judging()
        self.ledger = Ledger(name, len(self.questions))
        self._folder, self._fingerprint, self._read = folder, fingerprint, read

    def __len__(self) -> int:
        return len(self.questions)

    def record(self, index: int) -> Record:
        """The pictures and true answers of a question."""
        question = self.questions[index]
        answers = tuple(map(Caption, question.answers))
        return Record(self.record_name(index), question.images, answers, prompt=question.prompt)

    def hashed_keys(self) -> Iterator[Hashed]:
        """Places and hashes of the questions' pictures: what is held out by key shares no picture with the rest."""
        names = [" ".join(os.path.relpath(image, self._folder) for image in one.images) for one in self.questions]
        return hashed(zip(names, range(len(names)), strict=True))

    def record_name(self, index: int) -> str:
        """The question's number, from 1 on, and its first picture."""
        return f"question {index + 1} ({self.questions[index].images[0]})"

    def read(self, reference: Any) -> bytes:
        """The bytes of a picture."""
        if self._read is not None:
            return self._read(reference)
        return read_regular_file(str(reference), kind="image", max_bytes=MAX_IMAGE_FILE_BYTES)

    def fingerprint(self) -> str:
        """A hash of the files, not of the pictures."""
        return self._fingerprint


def read_lines(path: Path) -> Questions:
    """The questions of a file of lines of JSON.

    Raises:
        FileNotFoundError: where there is no file.
        ValueError: for a line that is no question, naming it, and for a file without one.
    """
    digest, found = hashlib.sha256(), []
    with open_regular(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), 1):
            digest.update(line)
            if line.strip():
                found.append(_question(parse_object(line, f"line {number} of {path}"), path.parent, number, path))
    if not found:
        raise ValueError(f"{path} holds no question, expected lines with image, prefix and suffix.")
    return Questions(found, name=str(path), folder=path.parent, fingerprint=digest.hexdigest())


def _question(fields: dict[str, Any], folder: Path, number: int, path: Path) -> Question:
    images, prompt = texts_of(fields.get("image", fields.get("images"))), fields.get("prefix")
    answers = texts_of(fields.get("answers", fields.get("suffix")))
    if not images or not isinstance(prompt, str) or not answers:
        raise ValueError(
            f"line {number} of {path} has the fields {', '.join(map(str, fields))}, expected image (a path, or a list "
            "of paths), prefix (a text), and suffix (a text) or answers (a list of texts)."
        )
    return Question(images=tuple(folder / image for image in images), prompt=prompt, answers=answers)


def texts_of(value: Any) -> tuple[str, ...]:
    """One text or a list of texts; nothing for anything else."""
    given = value if isinstance(value, list) else [value]
    return tuple(given) if all(isinstance(one, str) for one in given) else ()
