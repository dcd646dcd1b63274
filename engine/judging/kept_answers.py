"""Answers to a file of questions, kept in a file as they come, so that a stopped command goes on where it was."""

import json
from pathlib import Path
from typing import Any

from diptych.core.data.image import decode
from diptych.core.data.ledger import visit
from diptych.core.data.sources.questions import Questions
from diptych.core.training.signals import StopSignals
from diptych.engine.answering import Answerer
from diptych.engine.embedding.progress import EmbeddingProgress


def kept_answers(
    answerer: Answerer,
    source: Questions,
    path: Path,
    *,
    model: str,
    steps: int,
    beams: int | None,
    dtype: str | None,
    batch_size: int,
    stop: StopSignals,
) -> dict[int, str]:
    """The answers by the places of their questions; questions whose pictures cannot be used are in the source's ledger.

    Args:
        path: a file of JSON lines: how the questions were asked, then an answer a line.
        model, dtype: of `Answerer.open`.
        steps, beams, batch_size: of `Answerer.answers`; beams without a penalty of length, as big_vision searches.

    Raises:
        ValueError: for a file with answers to other questions, or of another model.
    """
    asked_as = {"model": model, "steps": steps, "beams": beams, "dtype": dtype, "questions": source.fingerprint()}
    told = _kept(path, asked_as | {"processor": answerer.processor.fingerprint()})
    left = [place for place in range(len(source)) if place not in told]
    choices: dict[str, Any] = {} if beams is None else {"beams": beams, "length_penalty": 0.0}
    waiting: list[tuple[int, list]] = []

    def ask() -> None:
        items = [pictures if len(pictures) > 1 else pictures[0] for _, pictures in waiting]
        prompts = [source.questions[place].prompt for place, _ in waiting]
        answers = answerer.answers(items, prompts, steps=steps, batch_size=batch_size, **choices)
        with stop.finishing_first(), open(path, "a", encoding="utf-8") as file:
            for (place, _), answer in zip(waiting, answers, strict=True):
                told[place] = answer
                file.write(json.dumps({"question": place, "answer": answer}) + "\n")
        progress.update(len(told), len(waiting))
        waiting.clear()

    with EmbeddingProgress("questions", records=len(source), start=len(told)) as progress:
        pictures_of = visit(source, lambda record: [decode(source.read(one)) for one in record.images], left)
        for place, pictures in pictures_of:
            waiting.append((place, pictures))
            if len(waiting) == batch_size:
                ask()
        if waiting:
            ask()
    return told


def _kept(path: Path, asked_as: dict[str, Any]) -> dict[int, str]:
    """What an earlier run of the same command left; the file is begun where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(json.dumps(asked_as) + "\n", encoding="utf-8")
        return {}
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]  # a power cut may leave a part of the last
    if not whole or json.loads(whole[0]) != asked_as:
        raise ValueError(
            f"{path} holds answers to other questions, of another model or asked otherwise. Give another --output, or "
            "delete the file to ask again."
        )
    if whole != lines:
        path.write_text("".join(whole), encoding="utf-8")
    return {found["question"]: found["answer"] for found in map(json.loads, whole[1:])}
