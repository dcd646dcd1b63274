"""The tasks that come along, made of the embedded emoji and novels.

They are small, and say what a model gains from what it learned before, not how well it knows English.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from diptych.core.data.emoji.concepts import GROUPS
from diptych.core.data.text_tasks import emoji_tasks, novel_tasks
from diptych.core.data.text_tasks.source import Row, TextSource
from diptych.core.data.text_tasks.task import TextExample, TextTask

EMBEDDED_TASKS: Mapping[str, TextTask] = {
    "story": TextTask(name="story", layout="multiple_choice", choices=2),
    "novel": TextTask(name="novel", layout="classification", labels=novel_tasks.NOVELS),
    "emoji_gloss": TextTask(name="emoji_gloss", layout="multiple_choice", choices=emoji_tasks.CHOICES),
    "emoji_kind": TextTask(name="emoji_kind", layout="entailment", labels=("not_entailment", "entailment")),
    "emoji_same": TextTask(
        name="emoji_same", layout="similarity", labels=("another", "the same"), metrics=("f1", "accuracy")
    ),
    "emoji_group": TextTask(name="emoji_group", layout="classification", labels=GROUPS),
}
_EXAMPLES: Mapping[str, Callable[..., Iterator[TextExample]]] = {
    "story": novel_tasks.story,
    "novel": novel_tasks.which_novel,
    "emoji_gloss": partial(emoji_tasks.emoji_examples, emoji_tasks.gloss),
    "emoji_kind": partial(emoji_tasks.emoji_examples, emoji_tasks.kind),
    "emoji_same": partial(emoji_tasks.emoji_examples, emoji_tasks.same),
    "emoji_group": partial(emoji_tasks.emoji_examples, emoji_tasks.group),
}


def embedded_task(name: str, *, max_skipped: float = 1.0) -> tuple[TextSource, TextSource]:
    """(what is trained on, what is held out) of one of `EMBEDDED_TASKS`; the same at every call."""
    return _source(name, False, max_skipped), _source(name, True, max_skipped)


def _as_it_is(row: Row) -> TextExample:
    return row.fields


def _source(name: str, held_out: bool, max_skipped: float) -> TextSource:
    rows = [Row(example.key, example) for example in _EXAMPLES[name](held_out=held_out)]
    digest = hashlib.sha256(repr([row.fields for row in rows]).encode()).hexdigest()
    return TextSource(
        f"{name}, {'held out' if held_out else 'to train on'}",
        EMBEDDED_TASKS[name],
        rows,
        _as_it_is,
        fingerprint=digest,
        max_skipped=max_skipped,
    )
