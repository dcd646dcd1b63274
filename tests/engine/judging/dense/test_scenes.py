"""Scenes as arrays: everything belongs to the picture at its place."""

import numpy as np
import pytest

from diptych.core.data.emoji import GROUPS
from diptych.core.data.emoji.scenes import SceneSource
from diptych.engine.judging.dense.scenes import CLASS_NAMES, read_scenes

SOURCE = SceneSource(length=12, concepts=36, objects=(1, 3), languages=("de", "en", "fr"), size=(64, 80))
COUNT = 10


@pytest.fixture(scope="module")
def scenes():
    return read_scenes(SOURCE, COUNT)


def test_each_scene_has_its_own_picture_maps_and_caption(scenes):
    assert len(scenes) == len(scenes.labels) == len(scenes.depths) == len(scenes.captions) == len(scenes.kinds) == COUNT
    for index in range(COUNT):
        np.testing.assert_array_equal(scenes.pixels[index], SOURCE.pixels(index))
        np.testing.assert_array_equal(scenes.labels[index], SOURCE.labels(index))
        np.testing.assert_array_equal(scenes.depths[index], SOURCE.depth(index))
        assert scenes.pixels[index].shape == (64, 80, 3)
        assert scenes.labels[index].shape == scenes.depths[index].shape == (64, 80)
        things = sorted(SOURCE.objects_of(index), key=lambda thing: thing.box[1] + thing.box[3])
        assert scenes.captions[index] == ", ".join(thing.concept.names["en"] for thing in things)


def test_phrases_are_the_things_once_each_in_english(scenes):
    expected = {
        (index, thing.concept.names["en"], thing.box) for index in range(COUNT) for thing in SOURCE.objects_of(index)
    }
    assert {(phrase.scene, phrase.text, phrase.box) for phrase in scenes.phrases} == expected
    assert len(scenes.phrases) == len(expected) > COUNT
    assert [phrase.scene for phrase in scenes.phrases] == sorted(phrase.scene for phrase in scenes.phrases)


def test_a_scenes_kind_is_the_class_of_its_nearest_thing(scenes):
    assert ("background", *GROUPS) == CLASS_NAMES
    several = 0
    for index in range(COUNT):
        things = SOURCE.objects_of(index)
        nearest = min(things, key=lambda thing: thing.distance)
        assert GROUPS[scenes.kinds[index]] == nearest.concept.group
        # So do the maps say: the least depth of all things, and the class that stands there.
        depth, labels = scenes.depths[index], scenes.labels[index]
        front = np.where(labels > 0, depth, np.inf)
        assert (labels[front == front.min()] == scenes.kinds[index] + 1).all()
        several += len({thing.concept.group for thing in things}) > 1
    assert several > 2


def test_more_scenes_than_there_are_give_all():
    assert len(read_scenes(SOURCE, 1_000)) == len(SOURCE)
