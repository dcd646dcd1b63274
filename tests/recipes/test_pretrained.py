"""Runs that begin from a checkpoint: what comes with it, what moves, and what they leave."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import keras
import numpy as np
import pytest

from diptych.core.data.emoji import TOKENIZER_PATH
from diptych.core.data.pixels import FixedSize, Normalization
from diptych.core.data.processor.processor import Processor
from diptych.core.data.sources.open import open_source
from diptych.core.data.sources.subset import Subset
from diptych.core.data.tokenizers.clip_bpe import ClipTokenizer, released_vocabulary
from diptych.core.data.tokenizers.open import open_tokenizer
from diptych.core.report.model_card import is_unedited
from diptych.core.training.metrics import read_metrics
from diptych.core.training.recipe import Data, Model
from diptych.core.training.results import read_results
from diptych.core.weights.safetensors import write_safetensors
from diptych.engine.command_line import parse_recipe
from diptych.engine.datasets.own import own
from diptych.engine.embedding.encoder import Encoder
from diptych.engine.training.build import build_student
from diptych.engine.training.evaluation import Evaluation
from diptych.engine.training.plan_text import moving_lines
from diptych.engine.training.run_plan import RunPlan, plan_run
from diptych.engine.training.start import CLIP_PIXELS, anew, described, set_scale_and_bias
from diptych.engine.training.terms import TERMS
from diptych.models import (
    CLIP,
    CLIPConfig,
    CLIPTextConfig,
    CLIPVisionConfig,
    SigLIP,
    SigLIPConfig,
    TextConfig,
    VisionConfig,
    from_preset,
)
from diptych.models.pretrained import trained_preset
from diptych.models.siglip.adapting import to_naflex
from diptych.models.siglip.student import Student
from diptych.recipes import siglip, siglip2
from tests.marks import ABOVE_THE_BACKENDS
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
    return plan_flags("--pretrained", str(checkpoint), *flags)


def plan_flags(*flags: str) -> RunPlan:
    arguments = ["--train-data", "photos", *flags]
    return plan_run(parse_recipe(siglip.siglip(), arguments, program="siglip", description=""), TERMS)


def weights(model) -> dict[str, np.ndarray]:
    return {weight.path: np.array(keras.ops.convert_to_numpy(weight.value)) for weight in model.weights}


def train(photos: Path, checkpoint: Path | None, folder: Path, *flags: str) -> int:
    flags = ("--examples", "32", "--batch-size", "16", "--val-fraction", "0.3", "--no-report", *flags)
    begin = () if checkpoint is None else ("--pretrained", str(checkpoint))
    own = ["--train-data", str(photos), *begin, "--run-dir", str(folder), "--no-tensorboard"]
    return siglip.main([*own, *flags])


def held_out_loss(folder: Path, photos: Path) -> float:
    """The sigmoid loss of a saved model on the pairs that `train` holds out, which are fewer than a batch."""
    encoder, held_out = Encoder.open(folder), Subset(open_source(str(photos)), fraction=0.3, held_out=True)
    records = [held_out.record(place) for place in range(len(held_out))]
    images = encoder.embed_images([held_out.read(record.images[0]) for record in records])
    texts = encoder.embed_texts([record.captions[0].text for record in records])
    logits = encoder.logit_scale * images.astype(np.float64) @ texts.T + encoder.logit_bias
    return np.logaddexp(0, (1 - 2 * np.eye(len(records))) * logits).sum() / len(records)


def test_sizes_vocabulary_and_rates_come_with_a_checkpoint(checkpoint):
    made = plan(checkpoint)
    assert made.config == replace(CONFIG, init_logit_bias=made.config.init_logit_bias)
    assert (made.preprocess.image_size, made.preprocess.context_length) == (16, 6)
    assert made.preprocess.tokenizer.vocab_size == 8_000
    optimization = made.recipe.optimization
    assert (optimization.learning_rate, optimization.weight_decay) == (1e-5, 0.0)
    assert plan(checkpoint, "--lora-rank", "2").recipe.optimization.learning_rate == 1e-4
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
    own = Normalization(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    cropped = plan(with_pixels(shortest_edge=20, normalization=own), "--image-size", "24").examples["training"]
    assert cropped.fixed_size() == FixedSize(height=24, width=24, shortest_edge=30, normalization=own)


@pytest.mark.parametrize(
    ("flags", "trained"),
    [
        ((), None),
        (("--lora-rank", "2"), 2 * 2 * 2 * (64 + 32 + 40 + 40) + 2),
        (("--lock-image", "--lock-text"), 2),
    ],
)
def test_a_plan_counts_what_moves(checkpoint, flags, trained):
    made = plan(checkpoint, *flags)
    assert made.planned["training"].trained == trained
    assert [line.partition(" of ")[0] for line in moving_lines(made.recipe, made.planned, TERMS)] == (
        [] if trained is None else [f"Stage training trains {trained:,}"]
    )


@pytest.mark.parametrize(("examples", "kept"), [("1600", "99%"), ("160000", "37%"), ("800000", None)])
def test_a_moving_average_that_is_longer_than_the_run_is_told(checkpoint, examples, kept):
    made = plan(checkpoint, "--ema-decay", "0.9999", "--examples", examples, "--batch-size", "16")
    lines = moving_lines(made.recipe, made.planned, TERMS)
    assert [f"keeps {kept} of the weights" in line for line in lines] == ([True] if kept else [])


def test_data_that_are_judged_by_themselves_are_told(photos, tmp_path, capsys):
    own(Data(train_data=str(photos), val_data=str(photos))).sources(0)
    assert "--val-data is what is trained on" in capsys.readouterr().out
    own(Data(train_data=str(photos), val_data=str(write_photos(tmp_path / "others", 8)))).sources(0)
    assert "--val-data is what is trained on" not in capsys.readouterr().out


def test_a_checkpoint_for_any_aspect_is_trained_at_several_lengths(model, tmp_path):
    to_naflex(model, max_num_patches=16).save_to_preset(tmp_path, format="diptych")
    flags = ("--tokenizer", str(TOKENIZER_PATH))
    made = plan(tmp_path, *flags)
    assert made.planned["training"].stage.sequence_lengths == (8, 16, 36, 49, 64)
    assert made.examples["training"].naflex is not None
    assert plan(tmp_path, *flags, "--sequence-lengths", "9", "12").planned["training"].naflex.lengths == (9, 12)

    class HeldOut:
        """Held-out pairs that are asked for at some number of patches."""

        def evaluation_sets(self, sources, preprocess, *, sequence_length):
            return sequence_length

    stage = made.planned["training"]
    student = build_student(made.recipe, stage)
    evaluation = Evaluation(made.recipe, stage, HeldOut(), None, made.examples["training"], student)
    assert evaluation.sets == 16, "as many as the model that is left takes by itself"


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


def test_a_teacher_that_would_never_follow_adapters_is_refused(checkpoint):
    flags = ["--pretrained", str(checkpoint), "--lora-rank", "2", "--only"]
    learned, taught = (
        parse_recipe(siglip2.tiny(), [*flags, stage], program="siglip2", description="")
        for stage in ("captioning", "self_distillation")
    )
    assert "adapters" in plan_run(learned, TERMS).planned["captioning"].parts
    with pytest.raises(ValueError, match="Stage self_distillation: the teacher of distillation and masked_prediction"):
        plan_run(taught, TERMS)


def test_a_runs_folder_stands_for_its_model_and_a_checkpoints_for_itself(model, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="has not come to its end, and so no model yet"):
        trained_preset(tmp_path)
    model.save_to_preset(tmp_path / "trunk" / "model", format="diptych")
    with pytest.raises(ValueError, match="several stages: give the folder of one, .*/trunk"):
        trained_preset(tmp_path)
    model.save_to_preset(tmp_path / "model", format="diptych")
    assert trained_preset(tmp_path) == tmp_path / "model"
    model.save_to_preset(tmp_path, format="diptych")
    assert trained_preset(tmp_path) == tmp_path


def test_weights_alone_need_their_vocabulary_named(model, tmp_path):
    model.save_to_preset(tmp_path, format="diptych")
    with pytest.raises(ValueError, match=r"brings no vocabulary.*--tokenizer"):
        plan(tmp_path)


def test_a_temperature_beyond_the_bound_begins_at_it(checkpoint):
    made = plan(checkpoint, "--max-logit-scale", "5", "--loss", "softmax")
    assert (made.config.init_logit_scale, made.config.max_logit_scale) == (5.0, 5.0)
    student = Student(replace(made.config, max_logit_scale=None))
    student.pair_logits.log_logit_scale.assign(np.log(117.3))
    said = set_scale_and_bias(student, made.recipe, lambda: None)
    assert said == "scale 5, the most that --max-logit-scale leaves, where it was 117.3"
    assert float(keras.ops.convert_to_numpy(student.logit_scale)) == pytest.approx(5)


def test_a_run_begins_with_the_checkpoints_weights_and_is_judged_before_its_first_step(
    model, checkpoint, photos, tmp_path, capsys
):
    """At a rate too small to move a float32 the model that is left is the one that was given, but for its bias."""
    shown = ("--learning-rate", "1e-30", "--report", "--retention", str(photos))
    assert train(photos, checkpoint, tmp_path, *shown) == 0
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "evaluation" in row]
    assert [row["step"] for row in rows] == [0, 2]
    left, given = weights(from_preset(tmp_path / "model")), weights(model)
    assert left.keys() == given.keys()
    assert [path for path in given if np.abs(left[path] - given[path]).max() > 1e-20] == ["pair_logits/logit_bias"]
    said = capsys.readouterr().out
    assert "bias" in said
    records = len(Subset(open_source(str(photos)), fraction=0.3, held_out=False))
    cut = 48 - records
    assert f"--examples 32 are {32 / records:.3g} times all {records} records" in said
    assert f"{cut} of {cut} held-out captions are longer than 6 tokens and were cut" in said
    found = read_results(tmp_path / "results.json")["training"]
    assert found["retention"]["before"] == found["retention"]["after"]
    (name,) = found["retention"]["after"]
    assert f"{name} {found['retention']['after'][name]:.1%} -> " in said
    report = (tmp_path / "report.html").read_text()
    assert "0 find their image at once that did not before, and 0 no longer do" in report
    assert name in report
    card = (tmp_path / "model" / "README.md").read_text()
    assert is_unedited(card)
    assert f"{records} records to train on" in card
    assert '"type": "recall@1"' not in card, "metadata are YAML, and no JSON"
    assert 'type: "recall@1"' in card
    assert left["text/token_embedding/embedding"].shape == (8_100, 16)


def test_adapters_alone_move_and_the_model_that_is_left_needs_none(model, checkpoint, photos, tmp_path):
    flags = ("--lora-rank", "2", "--learning-rate", "0.1", "--lora-targets", "image/.*", "--keep-logit-bias")
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
    reported = [row["validation_loss"] for row in read_metrics(tmp_path / "metrics.jsonl") if "evaluation" in row]
    assert reported[-1] == pytest.approx(held_out_loss(tmp_path, photos), rel=1e-5)
    assert abs(reported[-1] - reported[0]) > 0.01
    kept = list((tmp_path / "retention").iterdir())
    assert len(kept) == 4, "pictures and texts are judged before and after, with what the adapters add"


def test_a_locked_tower_is_left_bit_for_bit_and_sizes_may_change(model, checkpoint, photos, tmp_path, capsys):
    flags = (
        "--lock-text",
        "--image-size",
        "24",
        "--learning-rate",
        "1e-3",
        "--image-layer-decay",
        "0.5",
        "--context-length",
        "6",
    )
    assert train(photos, checkpoint, tmp_path, *flags) == 0
    left, given = weights(from_preset(tmp_path / "model")), weights(model)
    for path in given:
        if path.startswith("text/"):
            np.testing.assert_array_equal(left[path], given[path], err_msg=path)
    assert left["image/position_embedding/embedding"].size == 36 * 16
    assert "resized 1 (image)" in capsys.readouterr().out


@ABOVE_THE_BACKENDS
def test_a_vocabulary_of_ones_own_begins_with_a_fresh_table(model, checkpoint, photos, tmp_path, capsys):
    flags = ("--tokenizer", str(TOKENIZER_PATH), "--context-length", "9", "--learning-rate", "1e-30")
    assert train(photos, checkpoint, tmp_path, *flags) == 0
    left, given = weights(from_preset(tmp_path / "model")), weights(model)
    assert left["text/token_embedding/embedding"].shape == (8_000, 16)
    positions = left["text/position_embedding/embedding"]
    np.testing.assert_array_equal(positions[:6], given["text/position_embedding/embedding"])
    assert positions.shape == (9, 16)
    assert "fresh 1 (text)" in capsys.readouterr().out


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A checkpoint with other widths, pictures and tokens."""
    folder = tmp_path_factory.mktemp("clip")
    text = CLIPTextConfig(width=8, depth=1, mlp_dim=12, num_heads=2, vocab_size=514, context_length=7, embed_dim=12)
    vision = CLIPVisionConfig(width=8, depth=1, mlp_dim=12, num_heads=2, patch_size=8, image_size=24, embed_dim=12)
    CLIP(CLIPConfig(vision=vision, text=text), seed=6).save_to_preset(folder, format="diptych")
    vocabulary = ClipTokenizer(released_vocabulary([]), [])
    pixels = replace(CLIP_PIXELS, height=24, width=24, shortest_edge=24)
    Processor(pixels=pixels, tokenizer=vocabulary, context_length=7).save_to_preset(folder)
    return folder


@ABOVE_THE_BACKENDS
def test_two_checkpoints_give_a_tower_each_with_pictures_of_the_one_and_tokens_of_the_other(
    model, checkpoint, clip, photos, tmp_path, capsys
):
    flags = (
        "--pretrained-image",
        str(checkpoint),
        "--pretrained-text",
        str(clip),
        "--learning-rate",
        "1e-30",
        "--weight-decay",
        "0",
    )
    assert train(photos, None, tmp_path, *flags) == 0
    said = capsys.readouterr().out
    assert "begins anew, to the image tower's width of 16" in said
    assert "fresh 3 (pair_logits, text)" in said
    left, image, text = (weights(from_preset(folder)) for folder in (tmp_path / "model", checkpoint, clip))
    assert left["text/projection/kernel"].shape == (8, 16)
    for path in left.keys() - {"text/projection/kernel", "pair_logits/log_logit_scale", "pair_logits/logit_bias"}:
        given = (image if path.startswith("image/") else text)[path]
        np.testing.assert_allclose(left[path], given, rtol=0, atol=1e-20, err_msg=path)
    processor = Processor.from_preset(tmp_path / "model")
    assert (processor.pixels, processor.context_length) == (Processor.from_preset(checkpoint).pixels, 7)
    assert processor.tokenizer.vocab_size == 514


def test_a_fresh_tower_takes_the_width_of_a_checkpoints_and_moves_faster(clip, checkpoint):
    made = plan_flags("--pretrained-text", str(clip), "--model", "siglip_mu16_224", "--image-size", "32")
    assert (made.config.vision.embed_dim, made.config.text.embed_dim) == (12, 12)
    assert made.preprocess.fixed_size() == FixedSize(height=32, width=32)
    optimization = made.recipe.optimization
    assert (optimization.learning_rate, optimization.learning_rate_multipliers) == (1e-3, {"text/.*": 1e-2})
    assert (optimization.weight_decay, optimization.weight_decay_multipliers) == (1e-4, {"text/.*": 0})
    assert "a fresh image tower of the size siglip_mu16_224" in described(made.recipe, made.start, made.config)
    assert {path.partition("/")[0] for path in made.start.weights().groups["weights"]} == {"text"}
    made = plan_flags("--pretrained-image", str(clip), "--model", "siglip_mu16_224", "--learning-rate", "0.1")
    own = ("--learning-rate-multipliers", "image/.*", "0.5")
    assert plan_flags("--pretrained-image", str(clip), *own).recipe.optimization.learning_rate_multipliers == {
        "image/.*": 0.5
    }
    assert (made.config.text.embed_dim, made.preprocess.tokenizer.vocab_size) == (12, 8_000)
    assert made.preprocess.normalization == CLIP_PIXELS.normalization
    assert made.recipe.optimization.learning_rate_multipliers == {"image/.*": 1e-2}
    both = plan_flags("--pretrained-image", str(checkpoint), "--pretrained-text", str(checkpoint))
    assert (both.config.vision, both.config.text) == (CONFIG.vision, CONFIG.text)
    assert both.recipe.optimization.learning_rate == 1e-5


def test_an_image_tower_alone_is_enough_for_one(model, tmp_path):
    write_safetensors(tmp_path / "model.safetensors", {p: v for p, v in weights(model).items() if "image/" in p})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "diptych_siglip", "config": asdict(CONFIG)}))
    made = plan_flags("--pretrained-image", str(tmp_path), "--model", "siglip_mu16_224")
    assert made.start.weights().groups["weights"].keys() == {p for p in weights(model) if p.startswith("image/")}
    start = plan_flags("--pretrained-text", str(tmp_path), "--tokenizer", str(TOKENIZER_PATH)).start
    with pytest.raises(ValueError, match="holds no text tower"):
        start.weights()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--pretrained-image", "CHECKPOINT", "--lock-text"), "--lock-text leaves the text tower as it is.* fresh"),
        (("--pretrained-text", "CHECKPOINT", "--lora-rank", "2"), "--lora-rank leaves the image tower as it is"),
        (("--pretrained-text", "siglip_b16_224"), "is a size with fresh weights"),
    ],
)
def test_towers_that_cannot_be_put_together_are_refused(checkpoint, flags, message):
    with pytest.raises(ValueError, match=message):
        plan_flags(*(str(checkpoint) if flag == "CHECKPOINT" else flag for flag in flags))
    with pytest.raises(ValueError, match="--pretrained begins both towers"):
        replace(siglip.siglip(), model=Model(pretrained="a", pretrained_text="b"))


def test_a_vocabulary_for_weights_that_bring_none_keeps_their_table(model, tmp_path):
    model.save_to_preset(tmp_path, format="diptych")
    made = plan(tmp_path, "--tokenizer", str(TOKENIZER_PATH))
    assert (made.config.text.vocab_size, anew(made.recipe, made.start)) == (8_100, ())
    small = replace(CONFIG, text=replace(CONFIG.text, vocab_size=40))
    SigLIP(small).save_to_preset(tmp_path, format="diptych")
    with pytest.raises(ValueError, match=r"8,000 tokens, and the table of .* 40 rows"):
        plan(tmp_path, "--tokenizer", str(TOKENIZER_PATH))
