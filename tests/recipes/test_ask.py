"""Asking about pictures: answers in words, boxes and masks in pixels, drawn, and what cannot be asked."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from diptych.core.data.detections import code_text, mask_in_picture, place_text
from diptych.engine.answering import Answerer, bucket
from diptych.models import MaskDecoder, MaskDecoderConfig, PaliGemma
from diptych.recipes.ask import Ask, ask, main
from tests.core.data.pictures import encoded, pixels
from tests.marks import ABOVE_THE_BACKENDS
from tests.recipes.small_paligemma import write_small_paligemma

BOX, OTHER = (0.25, 0.125, 0.75, 0.5), (0.5, 0.5, 1.0, 1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small PaliGemma with random weights, its processor, a picture, and a decoder of masks."""
    path = tmp_path_factory.mktemp("paligemma")
    write_small_paligemma(path)
    MaskDecoder(MaskDecoderConfig(width=8, code_width=4)).save_to_preset(path / "masks", format="big_vision")
    (path / "photo.png").write_bytes(encoded(pixels(3, 40, 60)))
    (path / "other.png").write_bytes(encoded(pixels(4, 30, 30)))
    return path


def test_lengths_fall_into_buckets():
    assert [bucket(length) for length in (1, 16, 17, 32, 33)] == [16, 16, 32, 32, 64]


def test_answers_are_those_of_the_model(folder):
    """Batches are filled up, prompts padded to a bucket; neither changes an answer."""
    answerer, model = Answerer.open(folder), PaliGemma.from_preset(folder)
    pictures, prompts = [pixels(place, 30, 40) for place in range(3)], ["caption en", "what is it?", "cat"]
    found = answerer.answers(pictures, prompts, steps=4, batch_size=2)
    for picture, prompt, answer in zip(pictures, prompts, found, strict=True):
        batch = answerer.processor(images=picture, prompts=prompt)
        tokens = model.generate(batch["images"], batch["token_ids"], steps=4)
        assert answer == answerer.processor.read(np.asarray(tokens)[0])
    assert len(set(found)) > 1
    drawn = answerer.answers(pictures, prompts, steps=4, batch_size=2, temperature=3.0, seed=1)
    assert drawn == answerer.answers(pictures, prompts, steps=4, batch_size=2, temperature=3.0, seed=1) != found
    scores = answerer.log_probabilities(pictures, prompts, ["cat", "en", "a cat"], batch_size=2)
    alone = answerer.log_probabilities(pictures[2:], prompts[2:], ["a cat"])
    np.testing.assert_allclose(scores[2:], alone, rtol=1e-4)


@ABOVE_THE_BACKENDS
def test_the_command_prints_answers_and_shares(folder, capsys):
    photo = str(folder / "photo.png")
    assert main(["--model", str(folder), "--image", photo, "--prompt", "caption en", "cat", "--steps", "3"]) == 0
    printed = capsys.readouterr().out
    assert printed.count(f"{photo}: ") == 2
    assert main(["--model", str(folder), "--image", photo, "--prompt", "cat", "--answers", "a", "b", "c"]) == 0
    printed = capsys.readouterr().out
    shares = [float(line.split("%")[0]) for line in printed.splitlines() if "log p" in line]
    assert len(shares) == 3
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.2)


def told(answers: list[str], decoder: MaskDecoder | None = None):
    """In place of `Answerer.open`: an answerer that gives these answers."""

    class Told(Answerer):
        def answers(self, pictures, prompts, **choices):
            return answers[: len(prompts)]

    return lambda model, **options: Told(None, None, decoder)


@ABOVE_THE_BACKENDS
def test_boxes_and_masks_are_printed_and_drawn(folder, tmp_path, capsys):
    codes = tuple(range(16))
    answer = f"{place_text(BOX)}{code_text(codes)} cat ; {place_text(OTHER)} dog ; nothing"
    decoder = MaskDecoder.from_preset(folder / "masks" / "vae-oid.npz")
    options = Ask(
        model="m", images=(folder / "photo.png",), prompt=("segment cat",), masks="x", output=tmp_path / "answer.png"
    )
    assert ask(options, told([answer], decoder)) == 0
    printed = capsys.readouterr().out
    assert "cat: rows 10 to 30, columns 8 to 30" in printed
    assert "dog: rows 20 to 40, columns 30 to 60" in printed
    assert "1 parts are no boxes: nothing" in printed
    drawn = np.asarray(Image.open(tmp_path / "answer.png"))
    assert drawn.shape == (240, 360, 3)
    plain = np.repeat(np.repeat(pixels(3, 40, 60), 6, axis=0), 6, axis=1)
    changed = (drawn != plain).any(axis=2)
    mask = mask_in_picture(keras.ops.convert_to_numpy(decoder(np.array([codes])))[0], (10, 8, 30, 30), 40, 60)
    enlarged = np.repeat(np.repeat(mask, 6, axis=0), 6, axis=1)
    assert mask.any()
    assert changed[enlarged].mean() > 0.99
    assert changed[60:180:7, 48].all()  # the left side of the cat's box
    assert not changed[200:, :100].any()


@ABOVE_THE_BACKENDS
def test_several_drawings_are_numbered(folder, tmp_path):
    pictures = (folder / "photo.png", folder / "other.png")
    options = Ask(model="m", images=pictures, prompt=("detect cat",), output=tmp_path / "found" / "it.png")
    assert ask(options, told([f"{place_text(BOX)} cat"] * 2)) == 0
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == ["it_1.png", "it_2.png"]


@ABOVE_THE_BACKENDS
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to ask: give --model"),
        (["--model", "FOLDER", "--image", "missing.png"], "none of 1 pictures could be used.*missing.png"),
        (["--model", "FOLDER", "--image", "PHOTO", "--prompt", "what is in <image>?"], "prompt 0 contains <image>"),
        (["--model", "emoji_36_languages", "--image", "PHOTO"], "holds a siglip, expected a PaliGemma"),
        (["--model", "FOLDER", "--image", "PHOTO", "--temperature", "1", "--beams", "2"], "drawn or searched for"),
    ],
)
def test_what_cannot_be_asked_ends_with_a_sentence(folder, words, message, capsys):
    given = [{"FOLDER": str(folder), "PHOTO": str(folder / "photo.png")}.get(word, word) for word in words]
    assert main(given) == 1
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert "Traceback" not in error


@ABOVE_THE_BACKENDS
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"output": Path("a.jpg")}, "must be a PNG"),
        ({"masks": "vae-oid.npz"}, "give --output"),
        ({"steps": 0}, "--steps must be at least 1"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        Ask(model="m", **flags)
