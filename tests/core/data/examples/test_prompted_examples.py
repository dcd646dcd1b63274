"""Examples of questions: what counts, what is left out, which answer is drawn, what is held out together."""

import json

import numpy as np
import pytest

from diptych.core.data.examples.prompted_examples import PromptedExamples
from diptych.core.data.pixels import FixedSize
from diptych.core.data.records import BadExample, Caption, Record
from diptych.core.data.sampling import Place
from diptych.core.data.sources.questions import is_questions, read_lines
from diptych.core.data.sources.subset import Subset
from tests.core.data.pictures import encoded, pixels
from tests.core.data.tokenizers.small_vocabularies import newline_model


@pytest.fixture
def source(tmp_path):
    lines = []
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(encoded(pixels(number, 20, 30)))
        lines += [
            {"image": f"{number}.png", "prefix": "caption en", "suffix": "a cat"},
            {"image": f"{number}.png", "prefix": "what", "answers": ["cat", "dog"]},
        ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_lines(tmp_path / "data.jsonl")


@pytest.fixture
def examples(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(newline_model(("cat", "dog", "caption", "what")))
    path = str(tmp_path / "tokenizer.model")
    return PromptedExamples(pixels=FixedSize(height=8, width=8), tokenizer_path=path, context_length=12)


def test_the_answer_alone_counts(source, examples):
    fields, _ = examples(source.record(0), source, Place(seed=0, example=0))
    ids = examples.processor.tokenizer.ids
    prompt, answer = [2, *ids("caption en"), 4], [*ids("a cat"), 1]
    assert fields["token_ids"].tolist()[: len(prompt + answer)] == prompt + answer
    counted = np.arange(12)
    counted = (counted >= len(prompt)) & (counted < len(prompt + answer))
    assert fields["token_weights"].tolist() == counted.tolist()
    assert fields["suffix_mask"].tolist() == counted.tolist()
    assert fields["image"].shape == (8, 8, 3)
    assert fields["image"].dtype == np.uint8
    assert fields.keys() == examples.declared.keys()


def test_one_of_several_answers_is_drawn(source, examples):
    ends = {tuple(examples(source.record(1), source, Place(0, place))[0]["token_ids"]) for place in range(20)}
    assert len(ends) == 2


def test_an_answer_that_does_not_fit_is_left_out(source, examples):
    record = Record("long", source.record(0).images, (Caption("a cat " * 9),), prompt="what")
    with pytest.raises(BadExample, match="text_too_long|tokens of prompt and answer"):
        examples(record, source, Place(0, 0))


def test_captions_answer_the_prompt_in_their_language(source, examples):
    record = Record("captioned", source.record(0).images, (Caption("chat", "fr"),))
    assert examples.prompt_of(record, "fr") == "caption fr"
    assert examples.prompt_of(record, "und") == "caption en"
    fields, language = examples(record, source, Place(0, 0))
    assert language == "fr"
    assert fields["token_weights"].sum() > 0


def test_questions_about_a_picture_are_held_out_together(source, tmp_path):
    assert is_questions(str(tmp_path / "data.jsonl"))
    assert not is_questions(str(tmp_path / "0.png"))
    parts = [Subset(source, fraction=0.5, held_out=held) for held in (True, False)]
    pictures = [{part.record(place).images for place in range(len(part))} for part in parts]
    assert sum(map(len, parts)) == len(source)
    assert pictures[0]
    assert not pictures[0] & pictures[1]
