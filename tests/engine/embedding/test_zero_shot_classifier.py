"""A zero-shot classifier's probabilities are those of its model's cosines, and it says what it cannot tell."""

import numpy as np
import pytest

import diptych
from diptych.core.data.emoji.examples import example_drawings
from diptych.core.evaluation.prompts import usual_templates
from tests.marks import ABOVE_THE_BACKENDS

pytestmark = ABOVE_THE_BACKENDS


@pytest.fixture(scope="module")
def encoder():
    return diptych.Encoder.open("emoji_36_languages")


@pytest.fixture(scope="module")
def drawings():
    source, concepts = example_drawings()
    records = [source.record(number) for number in range(len(source))]
    names = {concept.hexcode: concept.names["en"] for concept in concepts}
    return [source.read(record.images[0]) for record in records], [names[record.key] for record in records]


def test_drawings_are_told_apart_by_their_names(encoder, drawings):
    pictures, names = drawings
    model = diptych.ZeroShotClassifier(encoder, tuple(dict.fromkeys(names)), ("{}",))
    found = model.classify(pictures, top_k=None)
    assert all(sum(each.values()) == pytest.approx(1.0) for each in found)
    assert sum(next(iter(each)) == name for each, name in zip(found, names, strict=True)) >= len(names) / 2
    assert [list(each.values()) == sorted(each.values(), reverse=True) for each in found] == [True] * len(found)


def test_logits_are_those_of_the_loss(encoder, drawings):
    pictures, names = drawings
    model = diptych.ZeroShotClassifier(encoder, names[:2], ("{}",), several_labels=True)
    cosines = encoder.embed_images(pictures[:3]) @ encoder.embed_texts(names[:2]).T
    logits = encoder.logit_scale * cosines + encoder.logit_bias
    np.testing.assert_allclose(model.predict(pictures[:3]), logits, rtol=1e-4, atol=1e-4)
    probabilities = 1 / (1 + np.exp(-logits[0]))
    (first,) = model.classify(pictures[0], top_k=1)
    assert first == pytest.approx({names[int(np.argmax(probabilities))]: probabilities.max()}, rel=1e-3)


def test_the_models_own_templates_are_taken():
    assert diptych.ZeroShotClassifier.from_preset("emoji_36_languages", classes=["a", "b"]).templates == ("{}",)
    assert len(usual_templates("another")) == 7


def test_a_model_and_its_processor_travel_as_one_folder(encoder, drawings, tmp_path):
    encoder.save_to_preset(tmp_path, format="diptych")
    again = diptych.Encoder.open(tmp_path)
    assert again.fingerprint() == encoder.fingerprint()


@pytest.mark.parametrize("classes", ["cat", ["cat"], ["cat", "cat"]])
def test_classes_that_are_no_choice_are_refused(encoder, classes):
    with pytest.raises(ValueError, match="two names or more, all different"):
        diptych.ZeroShotClassifier(encoder, classes)


def test_a_softmaxs_model_has_no_probability_of_a_class_alone(encoder):
    class WithoutBias:
        logit_bias = None

    with pytest.raises(ValueError, match="trained by a softmax"):
        diptych.ZeroShotClassifier(WithoutBias(), ["cat", "dog"], several_labels=True)
