"""One example and a batch of them give what the processor gives for all at once."""

import pickle

import numpy as np
import pytest
from PIL import Image

from diptych.core.data.processor.processor import Processor

TEXTS = ("red fox", "\u732b", "\U0001f642 face")


@pytest.fixture(scope="module")
def processor():
    return Processor.from_preset("emoji_36_languages")


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return [{"image": folder / f"{number}.png", "text": text} for number, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def whole(processor, examples):
    return processor(images=[each["image"] for each in examples], texts=[each["text"] for each in examples])


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in other)


def test_an_example_is_a_row_of_the_batch_and_can_be_sent_to_workers(processor, examples, whole):
    prepare = pickle.loads(pickle.dumps(processor.example))
    for place, example in enumerate(examples):
        assert same(prepare(example), {name: array[place] for name, array in whole.items()})
    assert prepare({"text": TEXTS[0]}).keys() == {"token_ids"}
    assert same(processor.batch(examples), whole)


@pytest.mark.parametrize("wrong", [[{"caption": "a"}], [{"image": "a.png", "text": "b"}, {"text": "c"}], []])
def test_examples_of_other_fields_are_refused(processor, wrong):
    with pytest.raises(ValueError, match='expected "image", "text" or both in each'):
        processor.batch(wrong)
