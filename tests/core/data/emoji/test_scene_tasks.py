"""Tasks on composed scenes: answers are what is drawn, and training shows no composition that is called new."""

import pickle
from collections import Counter

import numpy as np
import pytest

from diptych.core.data.detections import parse_detections
from diptych.core.data.emoji.composed_scenes import DIGITS, ComposedScenes, is_new
from diptych.core.data.emoji.concepts import HELD_OUT_DESIGNER
from diptych.core.data.emoji.scene_tasks import BOX_STEPS, GREY, TASKS, TaskQuestions
from diptych.core.training.recipe import Data
from diptych.core.training.term_options import Prompted
from diptych.engine.datasets.questions import MIXED, questions
from tests.marks import ABOVE_THE_BACKENDS

pytestmark = ABOVE_THE_BACKENDS
COUNT = 60


@pytest.fixture(scope="module")
def sources():
    return questions(Data(train_data="scene_tasks"), Prompted()).sources(0)


def asked(source: TaskQuestions, index: int):
    """Task, prompt, answer and things of a question."""
    record = source.record(index)
    ((task, scene),) = record.images
    return task, record.prompt, record.captions[0].text, source.scenes[task].from_left_to_right(scene)


def compositions(scenes: ComposedScenes, things) -> list[bool]:
    """Of each composition in a scene, as the docstring defines it anew, whether it is new."""
    names = Counter(thing.concept.hexcode for thing in things)
    if scenes.copies[1] == 1:
        return [is_new(list(names))]
    most = max(names.values())
    order = [one.concept.hexcode for one in scenes._drawables]
    return [order.index(name) % 5 == most - 1 for name, count in names.items() if count == most]


def test_answers_are_what_is_drawn(sources):
    seen = Counter()
    for index in range(4 * COUNT):
        task, prompt, answer, things = asked(sources.train, index)
        names = [thing.concept.names["en"] for thing in things]
        seen[task] += 1
        if task == "name":
            assert answer == ", ".join(names)
        elif task == "count":
            assert int(answer) == names.count(prompt.removeprefix("count ")) == max(Counter(names).values())
        elif task == "find":
            (found,) = parse_detections(answer).found
            (true,) = (thing for thing in things if f"detect {thing.concept.names['en']}" == prompt)
            assert np.abs(np.subtract(found.box, true.box)).max() <= 1 / BOX_STEPS
        else:
            assert answer == "".join(DIGITS[thing.concept.hexcode] for thing in things)
    assert seen == dict.fromkeys(TASKS, COUNT)


def test_new_compositions_are_held_out(sources):
    for index in range(4 * COUNT):
        task, *_, things = asked(sources.train, index)
        assert not any(compositions(sources.train.scenes[task], things)), (task, index)
    held_out = {name: source for name, source in sources.held_out.items() if name.endswith("new compositions")}
    assert len(held_out) == len(TASKS)
    for source in held_out.values():
        for index in range(COUNT // 2):
            task, *_, things = asked(source, index)
            assert all(compositions(source.scenes[task], things)), (task, index)


def test_a_designer_is_held_out(sources):
    for name, source in sources.held_out.items():
        for index in range(4):
            *_, things = asked(source, index)
            assert all((thing.designer == HELD_OUT_DESIGNER) == ("designer" in name) for thing in things)
    assert next(iter(sources.held_out)).startswith(MIXED)


def test_blank_pictures_are_grey_and_asked_alike(sources):
    blank = questions(Data(train_data="blank_scene_tasks"), Prompted()).sources(0).train
    for index in range(4):
        record = blank.record(index)
        assert record == sources.train.record(index)
        assert (blank.pixels(record.images[0]) == GREY).all()
        assert sources.train.pixels(record.images[0]).std() > 0
    assert blank.fingerprint() != sources.train.fingerprint()


def test_scenes_are_pickled_as_they_are(sources):
    scenes = sources.train.scenes["count"]
    again = pickle.loads(pickle.dumps(scenes))
    assert again == scenes
    assert np.array_equal(again.pixels(3), scenes.pixels(3))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"copies": (3, 2)}, r"copies must be .* got \(3, 2\)"),
        ({"compositions": "old"}, "'old'"),
        ({"compositions": "new", "objects": (1, 1)}, "two objects or copies"),
    ],
)
def test_scenes_that_cannot_be_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        ComposedScenes(length=1, **settings)
