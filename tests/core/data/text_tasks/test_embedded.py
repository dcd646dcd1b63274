"""The tasks that come along: all of each can be used, and what is held out is about other things."""

import numpy as np
import pytest

from diptych.core.data.text_tasks.embedded import EMBEDDED_TASKS, embedded_task
from diptych.core.data.text_tasks.novel_tasks import SOMEONE


@pytest.mark.parametrize("name", EMBEDDED_TASKS)
def test_all_of_a_task_can_be_used_and_whole_concepts_are_held_out(name):
    task, about = EMBEDDED_TASKS[name], []
    for source in embedded_task(name):
        examples = [source.record(index) for index in range(len(source))]  # each is checked
        assert len(examples) > 100
        truths = np.mean([task.target(example.label) for example in examples], axis=0)
        assert (truths > 0).sum() >= 2
        if name not in ("emoji_group", "novel"):
            assert abs(truths - 1 / len(truths)).max() < 0.1, "no answer is the usual one"
        parts = 2 if name == "novel" else 1  # paragraphs of one novel are on both sides
        about.append({tuple(example.key.split()[:parts]) for example in examples})
    assert not about[0] & about[1]


def test_they_are_the_same_at_every_call():
    once, again = (embedded_task("emoji_gloss") for _ in range(2))
    assert [source.fingerprint() for source in once] == [source.fingerprint() for source in again]
    assert once[0].fingerprint() != once[1].fingerprint()


def test_a_paragraph_does_not_name_its_people():
    train, _ = embedded_task("novel")
    texts = [train.record(index).texts[0] for index in range(0, len(train), 5)]
    words = {word.strip(".,;:!?\"'") for text in texts for word in text.split()}
    assert SOMEONE in words
    assert not words & {"Emma", "Elinor", "Elizabeth", "Darcy", "Wentworth", "Fanny", "Highbury", "Bath", "Woodhouse"}
