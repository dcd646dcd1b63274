"""Features of pictures and answers about them: in order, whatever the batches, and compiled for one shape."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from diptych.core.data.examples.naflex import NaFlex
from diptych.core.data.image import resize
from diptych.engine.embedding import picture_features
from diptych.engine.embedding.picture_features import PictureFeatures, Writer
from diptych.models import SigLIP
from diptych.models.captioner.generation import Generator, generate
from diptych.models.captioner.model import Captioner
from tests.core.data.pictures import pixels
from tests.recipes.scripted_decoder import BOX, DECODER, NAFLEX, SQUARE, TARGETS, TOWER

SIZES = ((24, 32), (50, 20), (32, 32), (9, 70), (40, 40))
PICTURES = [pixels(seed, *SIZES[seed % len(SIZES)]) for seed in range(7)]
BATCH = 4
SHORT = replace(DECODER, context_length=22)
LENGTH = 8  # of the NaFlex tower's sequences


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(picture_features, "BATCH", BATCH)


def array(x) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(x))


def shapes_seen(monkeypatch, model) -> list[dict]:
    """The shapes of the batches that a model is given from here on."""
    seen: list[dict] = []
    predict = model.predict_on_batch

    def noted(batch):
        named = batch if isinstance(batch, dict) else {"images": batch}
        seen.append({name: np.shape(value) for name, value in named.items()})
        return predict(batch)

    monkeypatch.setattr(model, "predict_on_batch", noted)
    return seen


def close(found, expected):
    """Rows of a batch of another size are off by roundings of sums as long as the tower's longest."""
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


# Features


def test_square_pictures_give_what_the_tower_gives(monkeypatch):
    towers = SigLIP(SQUARE)
    seen = shapes_seen(monkeypatch, towers.image_encoder)
    features = PictureFeatures(towers)(PICTURES)
    assert seen == [{"images": (BATCH, 32, 32, 3)}] * 2
    assert features.keys() == {"pooled", "tokens"}
    squares = np.stack([resize(picture, 32) for picture in PICTURES])
    outputs = towers.image_encoder(squares / np.float32(127.5) - 1)
    for name, value in features.items():
        assert len(value) == len(PICTURES)
        close(value, array(outputs[name]))


def test_naflex_pictures_keep_their_aspect_and_give_what_the_tower_gives(monkeypatch):
    towers = SigLIP(NAFLEX)
    seen = shapes_seen(monkeypatch, towers.image_encoder)
    features = PictureFeatures(towers, sequence_length=LENGTH)(PICTURES)
    assert seen == [{"patches": (BATCH, LENGTH, 8 * 8 * 3), "spatial_shapes": (BATCH, 2)}] * 2
    prepared = NaFlex(patch_size=8, max_num_patches=LENGTH).prepare(PICTURES)
    np.testing.assert_array_equal(features["spatial_shapes"], prepared["spatial_shapes"])
    assert len({tuple(shape) for shape in features["spatial_shapes"]}) > 2
    outputs = towers.image_encoder(prepared)
    close(features["pooled"], array(outputs["pooled"]))
    real = np.arange(LENGTH) < features["spatial_shapes"].prod(axis=1, keepdims=True)
    close(features["tokens"][real], array(outputs["tokens"])[real])


def test_without_a_length_naflex_takes_the_towers_own():
    inputs = PictureFeatures(SigLIP(NAFLEX)).inputs(PICTURES)
    assert inputs["patches"].shape == (len(PICTURES), 12, 8 * 8 * 3)


@pytest.mark.parametrize(("config", "length"), [(SQUARE, None), (NAFLEX, LENGTH)])
def test_a_pictures_features_do_not_hang_on_its_neighbours(config, length):
    reader = PictureFeatures(SigLIP(config), sequence_length=length)
    whole = reader(PICTURES)
    order = np.random.default_rng(0).permutation(len(PICTURES))
    mixed, alone = reader([PICTURES[place] for place in order]), reader(PICTURES[5:6])
    close(mixed["pooled"], whole["pooled"][order])
    close(alone["pooled"], whole["pooled"][5:6])
    assert np.abs(whole["pooled"][:, None] - whole["pooled"][None]).max(axis=-1)[~np.eye(7, dtype=bool)].min() > 1e-3


def test_patches_lie_as_they_do_in_the_picture():
    reader = PictureFeatures(SigLIP(SQUARE))
    patches, pooled = reader.patches(PICTURES)
    assert patches.shape == (7, 4, 4, TOWER["width"])
    whole = reader(PICTURES)
    np.testing.assert_array_equal(pooled, whole["pooled"])
    np.testing.assert_array_equal(patches[3, 1, 2], whole["tokens"][3, 4 + 2])


# Answers


@pytest.fixture(scope="module")
def decoder():
    """One whose words hang on the picture: logits of a fresh one are all zero."""
    captioner = Captioner(SHORT)
    rng = np.random.default_rng(0)
    weights = captioner.named_weights()
    for name in ("logits_kernel", "block_00/image_attention/out_kernel"):
        weights[name].assign(rng.normal(size=weights[name].shape))
    return captioner


class Listening:
    """Targets that answer with the tokens themselves."""

    def prompt(self, question, **arguments):
        return TARGETS.prompt(question, **arguments)

    def read(self, question, ids):
        return tuple(int(token) for token in ids)


def writer_of(decoder, config=SQUARE) -> tuple[Writer, PictureFeatures]:
    features = PictureFeatures(SigLIP(config), sequence_length=None if config is SQUARE else LENGTH)
    return Writer(features, decoder, Listening()), features


@pytest.fixture
def batches(monkeypatch):
    """(steps, shapes) of every batch that a generator was given, by generator."""
    seen: list[tuple] = []
    predict = Generator.predict_on_batch

    def noted(self, batch):
        shapes = {name: np.shape(value) for name, value in batch.items()}
        seen.append((id(self), self.choices["steps"], tuple(sorted(shapes.items()))))
        return predict(self, batch)

    monkeypatch.setattr(Generator, "predict_on_batch", noted)
    return seen


@pytest.mark.parametrize("config", [SQUARE, NAFLEX])
def test_answers_come_in_order_from_batches_of_one_shape(decoder, batches, config):
    writer, features = writer_of(decoder, config)
    places = [2, 0, 2, 1, 1, 0, 2, 2, 0, 1]
    texts = ["dog", "red apple", "a", "dog", "cat, dog", "dog", "dog", "cat", "dog", "dog"]
    answers = writer("find", PICTURES[:3], [{"text": text} for text in texts], places)
    assert len(answers) == len(places)
    assert len(set(batches)) == 1  # one generator, of one shape
    assert len(batches) == 3
    # Each alone, by the definition, to as many tokens as it had room for.
    seen, steps = features(PICTURES[:3]), batches[0][1]
    distinct = dict.fromkeys(zip(places, texts, strict=True))
    for place, text in list(distinct)[:4]:
        arguments = {}
        if config is NAFLEX:
            arguments["encoder_mask"] = np.arange(LENGTH)[None] < seen["spatial_shapes"][place].prod()
        prompt = TARGETS.prompt("find", text=text)[None]
        written = generate(decoder, seen["tokens"][place : place + 1], prompt, steps=steps, **arguments)
        expected = tuple(array(written)[0].tolist())
        for own_place, own_text, answer in zip(places, texts, answers, strict=True):
            if (own_place, own_text) == (place, text):
                assert answer == expected
    first = {place: answer for place, text, answer in zip(places, texts, answers, strict=True) if text == "dog"}
    assert len(set(first.values())) == 3  # pictures count


def test_without_places_each_question_is_about_the_picture_at_its_own(decoder, batches):
    writer, _ = writer_of(decoder)
    some = PICTURES[:5]
    answers = writer("caption", some, [{}] * 5)
    assert len(set(answers)) == 5
    assert answers == writer("caption", some[::-1], [{}] * 5)[::-1]
    assert answers[3:4] == writer("caption", some, [{}], [3])
    assert len(set(batches)) == 1  # also from call to call


def test_prompts_of_another_length_leave_room_for_other_answers(decoder, batches):
    writer, _ = writer_of(decoder)
    writer("caption", PICTURES[:1], [{}])
    writer("describe", PICTURES[:1], [{"box": BOX}])
    rooms = {steps for _, steps, _ in batches}
    lengths = {len(TARGETS.prompt("caption")), len(TARGETS.prompt("describe", box=BOX))}
    assert rooms == {SHORT.context_length - length for length in lengths}


def test_drawn_answers_are_the_same_each_time_and_follow_temperature_and_share(decoder):
    writer, _ = writer_of(decoder)

    def drawn(**choices):
        return writer("caption", PICTURES[:2], [{}] * 2, **choices)

    likeliest = drawn()
    wild = drawn(temperature=50.0, top_p=1.0)
    assert wild == drawn(temperature=50.0, top_p=1.0)
    assert wild != likeliest
    assert drawn(temperature=50.0, top_p=1e-6) == likeliest  # nothing but the likeliest is left
