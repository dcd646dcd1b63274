"""The line between two checkpoints: its points, what is judged on it, what is kept, and what it says when misused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diptych.core.data.emoji import TOKENIZER_PATH
from diptych.core.data.pixels import FixedSize
from diptych.core.data.processor.processor import Processor
from diptych.core.data.tokenizers.open import open_tokenizer
from diptych.core.training.card import plain
from diptych.models import SigLIP, SigLIPConfig, TextConfig, VisionConfig, from_preset
from diptych.models.interpolation import WeightLine, weights_of
from diptych.recipes import evaluate, interpolate, siglip
from tests.marks import ABOVE_THE_BACKENDS
from tests.recipes.photos import write_photos

pytestmark = ABOVE_THE_BACKENDS

SIZE = {"width": 16, "depth": 1, "mlp_dim": 24, "num_heads": 2}
CONFIG = SigLIPConfig(
    vision=VisionConfig(**SIZE, patch_size=4, image_size=16),
    text=TextConfig(**SIZE, vocab_size=8_000, context_length=6, embed_dim=16),
)


def save(folder: Path, seed: int) -> Path:
    SigLIP(CONFIG, seed=seed).save_to_preset(folder, format="diptych")
    pixels = FixedSize(height=16, width=16, resize="bilinear_antialias")
    Processor(pixels=pixels, tokenizer=open_tokenizer(TOKENIZER_PATH), context_length=6).save_to_preset(folder)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_photos(tmp_path_factory.mktemp("data") / "photos", 32)


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("given"), seed=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory, photos, given) -> Path:
    """What a run leaves that began from a checkpoint: its model, and a card that says from which, on what."""
    folder = tmp_path_factory.mktemp("run")
    recipe = siglip.siglip()
    recipe = replace(
        recipe,
        data=replace(recipe.data, train_data=str(photos), val_fraction=0.5),
        model=replace(recipe.model, pretrained=str(given)),
    )
    (folder / "card.json").write_text(json.dumps({"config": plain(recipe)}))
    save(folder / "model", seed=2)
    return folder


def results(output: Path, *flags: str) -> dict:
    assert interpolate.main(["--output", str(output), *flags]) == 0
    return json.loads(output.read_text())


def test_a_run_says_where_it_began_and_what_it_held_out(run, given, photos, tmp_path, capsys):
    output = tmp_path / "line.json"
    flags = ("--after", str(run), "--retention", str(photos), "--alphas", "0", "0.5", "1")
    found = results(output, *flags, "--alpha", "0.25")
    assert [point["alpha"] for point in found["points"]] == [0, 0.25, 0.5, 1]
    assert (found["before"], found["chosen"]) == (str(given), 0.25)
    assert all(list(point["own"]) == ["Held-out pairs, recall@1"] for point in found["points"])
    printed = capsys.readouterr().out
    assert "0.25*" in printed
    assert "<svg" in output.with_suffix(".html").read_text()
    before, tuned, kept = (weights_of(from_preset(folder)) for folder in (given, run / "model", tmp_path / "model"))
    for path, value in kept.items():
        np.testing.assert_allclose(value, 0.75 * before[path] + 0.25 * tuned[path], rtol=1e-6, atol=1e-8, err_msg=path)
    Processor.from_preset(tmp_path / "model")
    again = results(output, *flags)
    assert "Embedding" not in capsys.readouterr().out, "what was embedded is used again"
    means = [sum(point["own"].values()) + sum(point["retention"].values()) for point in again["points"]]
    assert again["chosen"] == again["points"][int(np.argmax(means))]["alpha"]


def test_the_ends_of_the_line_score_as_the_two_checkpoints(run, given, photos, tmp_path):
    """By `recipes.evaluate`, on the same pictures."""
    for place, path in enumerate(sorted(photos.glob("*.png"))[:12]):
        folder = tmp_path / "colours" / ("red", "green")[place % 2]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    flags = ("--retention", str(tmp_path / "colours"), "--data", str(photos), "--alphas", "0", "1")
    points = results(tmp_path / "line" / "line.json", "--after", str(run), *flags)["points"]
    for point, model in zip(points, (given, run / "model"), strict=True):
        output = tmp_path / model.name / "results.json"
        both = (str(photos), str(tmp_path / "colours"))
        assert evaluate.main(["--model", str(model), "--data", *both, "--output", str(output)]) == 0
        own, other = (result["metrics"] for result in json.loads(output.read_text())["results"])
        assert point["own"] == {"photos, recall@1": own["image_retrieval_recall@1"]}
        assert point["retention"] == {"colours, zero-shot accuracy": other["acc1"]}


@pytest.mark.parametrize(("flags", "asked"), [((), "--before"), (("--before", "emoji_36_languages"), "--data")])
def test_what_no_card_says_is_asked_for(tmp_path, given, capsys, flags, asked):
    output = ("--output", str(tmp_path / "line.json"))
    assert interpolate.main(["--after", str(given), *flags, *output]) == 1
    assert f"{asked}" in capsys.readouterr().err


def test_points_outside_the_line_are_refused(capsys):
    with pytest.raises(SystemExit):
        interpolate.main(["--alphas", "0", "1.5"])
    assert "between 0" in capsys.readouterr().err


def test_both_ends_are_exact_and_positions_are_resized():
    before = weights_of(SigLIP(CONFIG, seed=1))
    larger = replace(CONFIG, vision=replace(CONFIG.vision, image_size=24))
    model = SigLIP(larger, seed=2)
    after = weights_of(model)
    line = WeightLine(model, before)
    line.go_to(0.0)
    at_zero = weights_of(model)
    resized = "image/position_embedding/embedding"
    assert at_zero[resized].size == 36 * 16
    assert all(np.array_equal(at_zero[path], before[path]) for path in before if path != resized)
    line.go_to(1.0)
    assert all(np.array_equal(value, after[path]) for path, value in weights_of(model).items())


def test_models_of_other_vocabularies_or_kinds_have_no_line():
    model = SigLIP(CONFIG)
    before = weights_of(SigLIP(replace(CONFIG, text=replace(CONFIG.text, vocab_size=9))))
    with pytest.raises(ValueError, match="vocabularies"):
        WeightLine(model, before)
    with pytest.raises(ValueError, match="two kinds"):
        WeightLine(model, {"other": np.zeros(1)})
