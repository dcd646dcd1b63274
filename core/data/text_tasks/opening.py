"""The labelled texts that a person names: a task's folder as it is distributed, or single files of it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from diptych.core.data.text_tasks.formats import FORMATS, Format
from diptych.core.data.text_tasks.source import TextSource, read_texts

HELD_OUT = "Held-out texts"


def format_of(task: str) -> Format:
    """The format of a task by its name; raises ValueError for a name that there is not."""
    if task not in FORMATS:
        raise ValueError(f"There is no task {task!r}; there are {', '.join(FORMATS)}.")
    return FORMATS[task]


def open_task_texts(
    form: Format, train: str, val: str | None = None, *, max_skipped: float
) -> tuple[TextSource, Mapping[str, TextSource]]:
    """What is trained on, and what is held out, by name; of a training file alone nothing is.

    Args:
        train: the folder in which the task is distributed, of which its training file is read and its held-out files
            where there are any; or a file of this kind.
        val: a file, or a folder, that is held out in place of those.

    Raises:
        FileNotFoundError, ValueError: for what is not there, or not of this kind.
    """
    held_out: dict[str, TextSource] = {}
    if val is not None:
        paths = _paths(form, val, *form.held_out.values())
        held_out[next(iter(form.held_out))] = read_texts(form, paths, max_skipped=max_skipped)
    elif Path(train).is_dir():
        for name, pattern in form.held_out.items():
            if found := sorted(Path(train).glob(pattern)):
                held_out[name] = read_texts(form, found, max_skipped=max_skipped)
    return read_texts(form, _paths(form, train, form.train), max_skipped=max_skipped), held_out


def _paths(form: Format, given: str, *patterns: str) -> list[Path]:
    path = Path(given)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"There is no file or folder {given}, expected one with texts of {form.task.name}.")
    found = next((found for pattern in patterns if (found := sorted(path.glob(pattern)))), [])
    if not found:
        there = ", ".join(sorted(one.name for one in path.iterdir())[:10]) or "nothing"
        raise FileNotFoundError(
            f"{given} holds no {' or '.join(patterns)}, as the task {form.task.name} is distributed; there is {there}. "
            "Name the file itself."
        )
    return found


def drawn_split(count: int, held_out: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(trained on, held out): places of `count` examples as the released code splits them, by scikit-learn's
    `train_test_split(test_size=held_out, random_state=seed)`.
    """
    order = np.random.RandomState(seed).permutation(count)
    return order[held_out:], order[:held_out]
