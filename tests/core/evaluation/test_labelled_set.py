"""Reading labelled pictures to evaluate on."""

import numpy as np
import pytest

from diptych.core.data.examples.class_targets import ClassTargets
from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.data.image import decode
from diptych.core.data.ledger import ledger_of
from diptych.core.data.records import Record
from diptych.core.data.sources.labels import ClassNames
from diptych.core.evaluation.labelled_set import read_labelled
from tests.core.data.pictures import MemorySource

PREPROCESS = Preprocess(image_size=8, context_length=1, tokenizer_path="", captions=0)
TARGETS = ClassTargets(classes=ClassNames(("cat", "dog")))
BAD = 9


class Labelled(MemorySource):
    """Records of (name, pictures, label); picture 9 is none."""

    def __init__(self, *records: tuple[str, tuple[int, ...], str]):
        super().__init__(len(records), bad={BAD: "image_damaged"})
        self.records = records

    def record(self, index: int) -> Record:
        name, pictures, label = self.records[index]
        return Record(name, pictures, (), labels=(label,))


def test_a_bad_picture_of_several_is_left_out_and_a_record_without_a_good_one_skipped():
    source = Labelled(("one", (BAD, 0), "dog"), ("none", (BAD,), "dog"), ("cow", (1,), "cow"), ("two", (2,), "cat"))
    found = read_labelled(source, PREPROCESS, TARGETS, name="held out")
    assert found.keys == ("one", "two")
    assert found.targets.tolist() == [1, 0]
    np.testing.assert_array_equal(found.images, [PREPROCESS.image(decode(source.read(number))) for number in (0, 2)])
    assert found.skipped == {"image_damaged": 1, "label_unknown": 1}
    assert list(ledger_of(source).left_out) == ["image_damaged"]


def test_a_set_without_a_good_record_is_refused():
    with pytest.raises(ValueError, match=r"held out: none of 1 records can be evaluated on: image_damaged"):
        read_labelled(Labelled(("none", (BAD,), "dog")), PREPROCESS, TARGETS, name="held out")
