"""Runs that begin from a checkpoint: what comes with it, what moves, and what they leave."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from diptych.core.data.emoji import TOKENIZER_PATH
from diptych.core.data.pixels import FixedSize
from diptych.core.data.processor.processor import Processor
from diptych.core.data.tokenizers.open import open_tokenizer
from diptych.core.training.metrics import read_metrics
from diptych.core.training.results import read_results
from diptych.engine.command_line import parse_recipe
from diptych.engine.training.run_plan import RunPlan, plan_run
from diptych.engine.training.terms import TERMS
from diptych.models import SigLIP, SigLIPConfig, TextConfig, VisionConfig, from_preset
from diptych.models.siglip.adapting import to_naflex
from diptych.recipes import siglip
from tests.recipes.photos import write_photos

SIZE = {"width": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2}
CONFIG = SigLIPConfig(
    vision=VisionConfig(**SIZE, patch_size=4, image_size=16),
    text=TextConfig(**SIZE, vocab_size=8_100, context_length=6, embed_dim=16),
)
"""The table has rows that the vocabulary of 8,000 does not ask for."""


def save(folder: Path, model: SigLIP, format: str) -> Path:
    model.save_to_preset(folder, format=format)
    pixels = FixedSize(height=16, width=16, resize="bilinear_antialias")
    processor = Processor(pixels=pixels, tokenizer=open_tokenizer(TOKENIZER_PATH), context_length=6)
    processor.save_to_preset(folder, format=format)
    return folder


@pytest.fixture(scope="module")
def model() -> SigLIP:
    return SigLIP(CONFIG, seed=5)


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("checkpoint") / "transformers", model, "transformers")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_photos(tmp_path_factory.mktemp("data") / "photos", 48)


def plan(checkpoint: Path | str, *flags: str) -> RunPlan:
    arguments = ["--train-data", "photos", "--pretrained", str(checkpoint), *flags]
    return plan_run(parse_recipe(siglip.siglip(), arguments, program="siglip", description=""), TERMS)


def weights(model) -> dict[str, np.ndarray]:
    return {weight.path: np.array(keras.ops.convert_to_numpy(weight.value)) for weight in model.weights}


def train(photos: Path, checkpoint: Path, folder: Path, *flags: str) -> int:
    flags = ("--examples", "32", "--batch-size", "16", "--val-fraction", "0.3", "--no-report", *flags)
    own = ["--train-data", str(photos), "--pretrained", str(checkpoint), "--run-dir", str(folder), "--no-tensorboard"]
    return siglip.main([*own, *flags])


def test_sizes_vocabulary_and_rates_come_with_a_checkpoint(checkpoint):
    made = plan(checkpoint)
    assert made.config == replace(CONFIG, init_logit_bias=made.config.init_logit_bias)
    assert (made.preprocess.image_size, made.preprocess.context_length) == (16, 6)
    assert made.preprocess.tokenizer.vocab_size == 8_000
    optimization = made.recipe.optimization
    assert (optimization.learning_rate, optimization.weight_decay) == (1e-5, 0.0)
    fresh = plan_run(replace(siglip.siglip()), TERMS).recipe
    assert (fresh.optimization.learning_rate, fresh.optimization.weight_decay) == (1e-3, 1e-4)


def test_pictures_are_resized_as_the_checkpoints_are(model, tmp_path):
    model.save_to_preset(tmp_path, format="diptych")
    tokenizer = open_tokenizer(TOKENIZER_PATH)

    def with_pixels(**settings) -> Path:
        pixels = FixedSize(height=16, width=16, **settings)
        Processor(pixels=pixels, tokenizer=tokenizer, context_length=6).save_to_preset(tmp_path)
        return tmp_path

    made = plan(with_pixels(resize="bicubic_antialias"))
    assert made.examples["training"].resize_method == "bicubic_antialias"
    assert plan(tmp_path, "--resize-method", "bilinear").examples["training"].resize_method == "bilinear"
    with pytest.raises(ValueError, match="crops pictures"):
        plan(with_pixels(shortest_edge=20))


@pytest.mark.parametrize(
    ("flags", "trained"),
    [
        ((), None),
        (("--lora-rank", "2"), 2 * 2 * 2 * (64 + 32 + 40 + 40) + 2),
        (("--lock-image", "--lock-text"), 2),
    ],
)
def test_a_plan_counts_what_moves(checkpoint, flags, trained):
    stage = plan(checkpoint, *flags).planned["training"]
    assert stage.trained == trained


def test_a_checkpoint_for_any_aspect_is_trained_at_several_lengths(model, tmp_path):
    to_naflex(model, max_num_patches=16).save_to_preset(tmp_path, format="diptych")
    flags = ("--tokenizer", str(TOKENIZER_PATH))
    made = plan(tmp_path, *flags)
    assert made.planned["training"].stage.sequence_lengths == (8, 16, 36, 49, 64)
    assert made.examples["training"].naflex is not None
    assert plan(tmp_path, *flags, "--sequence-lengths", "9", "12").planned["training"].naflex.lengths == (9, 12)


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("siglip_b16_224", (), "'siglip_b16_224' is a size with fresh weights"),
        ("nowhere", (), "neither a folder"),
        ("emoji_36_languages", ("--sequence-lengths", "16"), "--sequence-lengths are NaFlex's"),
    ],
)
def test_what_cannot_be_begun_from_is_refused(name, flags, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        plan(name, *flags)


def test_weights_alone_need_their_vocabulary_named(model, tmp_path):
    model.save_to_preset(tmp_path, format="diptych")
    with pytest.raises(ValueError, match=r"brings no vocabulary.*--tokenizer"):
        plan(tmp_path)


def test_a_run_begins_with_the_checkpoints_weights_and_is_judged_before_its_first_step(
    model, checkpoint, photos, tmp_path, capsys
):
    """At a rate too small to move a float32 the model that is left is the one that was given, but for its bias."""
    shown = ("--lr", "1e-30", "--report", "--retention", str(photos))
    assert train(photos, checkpoint, tmp_path, *shown) == 0
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "evaluation" in row]
    assert [row["step"] for row in rows] == [0, 2]
    left, given = weights(from_preset(tmp_path / "model")), weights(model)
    assert left.keys() == given.keys()
    assert [path for path in given if np.abs(left[path] - given[path]).max() > 1e-20] == ["pair_logits/logit_bias"]
    assert "bias" in (said := capsys.readouterr().out)
    found = read_results(tmp_path / "results.json")["training"]
    assert found["retention"]["before"] == found["retention"]["after"]
    (name,) = found["retention"]["after"]
    assert f"{name} {found['retention']['after'][name]:.1%} -> " in said
    report = (tmp_path / "report.html").read_text()
    assert "0 find their image at once that did not before, and 0 no longer do" in report
    assert name in report
    assert left["text/token_embedding/embedding"].shape == (8_100, 16)


def test_adapters_alone_move_and_the_model_that_is_left_needs_none(model, checkpoint, photos, tmp_path):
    flags = ("--lora-rank", "2", "--lr", "0.1", "--lora-targets", "image/.*", "--keep-logit-bias")
    flags += ("--retention", str(photos))
    assert train(photos, checkpoint, tmp_path, *flags) == 0
    left, given = weights(from_preset(tmp_path / "model")), weights(model)
    moved = {path for path in given if not np.array_equal(left[path], given[path])}
    assert moved - {"pair_logits/log_logit_scale", "pair_logits/logit_bias"} == {
        f"image/encoder/block_0{block}/{product}_kernel"
        for block in range(2)
        for product in ("attention/qkv", "attention/out", "mlp/in", "mlp/out")
    }
    assert (tmp_path / "model" / "adapters.safetensors").stat().st_size < 10_000
    kept = list((tmp_path / "retention").iterdir())
    assert len(kept) == 4, "pictures and texts are judged before and after, with what the adapters add"
    if keras.backend.backend() != "jax":
        return  # jax alone takes weights of other models for constants
    assert train(photos, tmp_path / "model", tmp_path / "again", "--lr", "1e-30", "--keep-logit-bias") == 0
    judged = [
        [row["validation_loss"] for row in read_metrics(run / "metrics.jsonl") if "evaluation" in row]
        for run in (tmp_path, tmp_path / "again")
    ]
    assert judged[0][-1] == pytest.approx(judged[1][0], rel=1e-4), "the adapters are judged as the model that is left"
    assert judged[0][-1] != pytest.approx(judged[0][0], rel=1e-2)


def test_a_locked_tower_is_left_bit_for_bit_and_sizes_may_change(model, checkpoint, photos, tmp_path, capsys):
    flags = ("--lock-text", "--image-size", "24", "--lr", "1e-3", "--image-layer-decay", "0.5", "--context-length", "6")
    assert train(photos, checkpoint, tmp_path, *flags) == 0
    left, given = weights(from_preset(tmp_path / "model")), weights(model)
    for path in given:
        if path.startswith("text/"):
            np.testing.assert_array_equal(left[path], given[path], err_msg=path)
    assert left["image/position_embedding/embedding"].size == 36 * 16
    assert "resized 1 (image)" in capsys.readouterr().out


def test_a_vocabulary_of_ones_own_begins_with_a_fresh_table(model, checkpoint, photos, tmp_path, capsys):
    flags = ("--tokenizer", str(TOKENIZER_PATH), "--context-length", "9", "--lr", "1e-30")
    assert train(photos, checkpoint, tmp_path, *flags) == 0
    left, given = weights(from_preset(tmp_path / "model")), weights(model)
    assert left["text/token_embedding/embedding"].shape == (8_000, 16)
    positions = left["text/position_embedding/embedding"]
    np.testing.assert_array_equal(positions[:6], given["text/position_embedding/embedding"])
    assert positions.shape == (9, 16)
    assert "fresh 1 (text)" in capsys.readouterr().out
