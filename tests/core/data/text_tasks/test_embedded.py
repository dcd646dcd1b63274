"""The tasks that come along: all of each can be used, and what is held out is about other things."""

import numpy as np
import pytest

from diptych.core.data.text_tasks.embedded import EMBEDDED_TASKS, embedded_task
from diptych.core.data.text_tasks.novel_tasks import SOMEONE
from diptych.core.data.text_tasks.sequences import TokenizedTexts
from diptych.core.data.texts.documents import EMBEDDED_VOCABULARY
from diptych.core.data.tokenizers.gpt_bpe import GptTokenizer


@pytest.mark.parametrize("name", EMBEDDED_TASKS)
def test_embedded_tasks_can_be_used_whole_and_hold_out_whole_concepts(name):
    train, held_out = embedded_task(name)
    tokenizer, concepts = GptTokenizer.open(EMBEDDED_VOCABULARY), []
    for source in (train, held_out):
        tokenized = TokenizedTexts(source, tokenizer, length=256)
        assert len(tokenized) == len(source) > 100
        truths = np.stack([one.target for one in tokenized.examples]).mean(0)
        assert (truths > 0).sum() >= 2
        if not name.startswith(("emoji_group", "novel")):
            assert abs(truths - 1 / len(truths)).max() < 0.1, "no answer is the usual one"
        about = 2 if name == "novel" else 1  # paragraphs of one novel are on both sides
        concepts.append({tuple(one.key.split()[:about]) for one in tokenized.examples})
    assert not concepts[0] & concepts[1]
    assert embedded_task(name)[1].fingerprint() == held_out.fingerprint()


def test_a_paragraph_does_not_name_its_people():
    train, _ = embedded_task("novel")
    texts = [train.record(index).texts[0] for index in range(0, len(train), 5)]
    words = {word.strip(".,;:!?\"'") for text in texts for word in text.split()}
    assert SOMEONE in words
    assert not words & {"Emma", "Elinor", "Elizabeth", "Darcy", "Wentworth", "Fanny", "Highbury", "Bath", "Woodhouse"}
