"""Classifiers by recipe: what each preset moves, what the data say, what is left, and what is refused by name."""

import json
from dataclasses import replace
from pathlib import Path

import keras
import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from diptych.core.data.emoji import TOKENIZER_PATH
from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.data.examples.rand_augment import RandAugment
from diptych.core.data.examples.random_crop import RandomCrop
from diptych.core.data.pixels import FixedSize
from diptych.core.data.processor.processor import Processor
from diptych.core.data.sources.open import open_source
from diptych.core.data.sources.subset import Subset
from diptych.core.data.tokenizers.open import open_tokenizer
from diptych.core.training.checkpoint import load
from diptych.core.training.metrics import read_metrics
from diptych.core.training.results import read_results
from diptych.core.training.signals import StopSignals
from diptych.engine.command_line import parse_recipe
from diptych.engine.embedding.encoder import Encoder
from diptych.engine.embedding.stored_embeddings import StoredEmbeddings
from diptych.engine.judging.sets import Dataset, EvaluationSet, Labels
from diptych.engine.judging.tasks import judge
from diptych.engine.trained_run import load_run
from diptych.engine.training.build import build_student
from diptych.engine.training.run_plan import RunPlan, plan_run
from diptych.engine.training.terms import TERMS
from diptych.models import ImageClassifier, SigLIP, SigLIPConfig, TextConfig, VisionConfig
from diptych.models.counting import count_parameters
from diptych.models.siglip.adapting import to_naflex
from diptych.recipes import classifier, lit
from tests.marks import ABOVE_THE_BACKENDS

SIZE = {"width": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2}
CONFIG = SigLIPConfig(
    vision=VisionConfig(**SIZE, patch_size=4, image_size=16),
    text=TextConfig(**SIZE, vocab_size=60, context_length=6, embed_dim=16),
)
NAMES = ("blue", "green", "red")
BIG_VISION_BIT = Path(__file__).parents[1] / "models" / "foreign" / "big_vision_bit" / "weights.npz"
ON_JAX = pytest.mark.skipif(keras.config.backend() != "jax", reason="nothing in it depends on the backend")
SHORT = ("--batch-size", "16", "--val-fraction", "0.4", "--no-tensorboard")


@pytest.fixture(scope="module")
def pair() -> SigLIP:
    return SigLIP(CONFIG, seed=5)


@pytest.fixture(scope="module")
def checkpoint(pair, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    pair.save_to_preset(folder, format="transformers")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """48 noisy squares in folders by colour."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(48):
        pixels = np.random.default_rng(number).integers(0, 90, (14, 18, 3), dtype=np.uint8)
        pixels[..., 2 - number % 3] += 160
        place = folder / NAMES[number % 3]
        place.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


def plan(preset: str, *flags: str) -> RunPlan:
    recipe = classifier.PRESETS[preset]()
    return plan_run(parse_recipe(recipe, list(flags), program="classifier", description=""), TERMS)


def train(preset: str, pictures: Path, checkpoint: Path, folder: Path, *flags: str, report: bool = False) -> int:
    own = ["--train-data", str(pictures), "--pretrained", str(checkpoint), "--run-dir", str(folder)]
    return classifier.main([preset, *own, *SHORT, *(() if report else ("--no-report",)), *flags])


def weights(model) -> dict[str, np.ndarray]:
    return {weight.path: np.array(keras.ops.convert_to_numpy(weight.value)) for weight in model.weights}


def moved(model, pair) -> set[str]:
    """The parts of the image tower that are not the checkpoint's."""
    given = weights(pair)
    return {
        path.split("/")[1]
        for path, value in weights(model).items()
        if path.startswith("image/") and not np.array_equal(value, given[path])
    }


def test_a_linear_probe_learns_with_the_tower_as_it_is(pair, checkpoint, pictures, tmp_path, capsys):
    assert (
        train(
            "linear_probe", pictures, checkpoint, tmp_path, "--examples", "480", "--learning-rate", "0.1", report=True
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "a fresh head for 3 classes (blue, green, red), one label a picture" in out
    assert "fresh 2 (classifier)" in out
    assert "Zero-shot, before the first step: none, because the text tower of" in out
    model = load_run(tmp_path).model
    assert model.config.classes == NAMES
    assert moved(model, pair) == set()
    rows = [row["evaluation"] for row in read_metrics(tmp_path / "metrics.jsonl") if "evaluation" in row]
    assert rows[0]["accuracy"] == pytest.approx(1 / 3)  # a head that knows nothing
    assert rows[-1]["accuracy"] > 0.9
    scored = read_results(tmp_path / "results.json")["training"]["classification"]["Held-out pictures"]
    assert scored["accuracy"] == pytest.approx(rows[-1]["accuracy"])
    assert "By class" in (tmp_path / "report.html").read_text(encoding="utf-8")
    answers = model.classify(sorted(pictures.rglob("*.png")), top_k=1)
    truths = [path.parent.name for path in sorted(pictures.rglob("*.png"))]
    assert np.mean([next(iter(answer)) == truth for answer, truth in zip(answers, truths, strict=True)]) > 0.9


@ON_JAX
def test_adapters_learn_in_front_of_a_tower_that_is_left_with_what_they_add(pair, checkpoint, pictures, tmp_path):
    flags = (
        "--examples",
        "64",
        "--lora-rank",
        "2",
        "--learning-rate",
        "0.1",
        "--weight-decay",
        "1e-4",
        "--optimizer",
        "adamw",
    )
    assert train("full", pictures, checkpoint, tmp_path, *flags) == 0
    model = ImageClassifier.from_preset(tmp_path / "model")
    assert moved(model, pair) == {"encoder"}
    given = weights(pair)
    changed = {path for path, value in weights(model).items() if not np.array_equal(value, given.get(path))}
    assert {path.rpartition("_")[2] for path in changed - {"classifier/kernel", "classifier/bias"}} == {"kernel"}
    assert (tmp_path / "model" / "adapters.safetensors").stat().st_size < 10_000
    evaluated = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "evaluation" in row]
    held_out = Subset(open_source(str(pictures)), fraction=0.4, held_out=True)
    records = [held_out.record(place) for place in range(len(held_out))]
    logits = model.predict([held_out.read(record.images[0]) for record in records], verbose=0).astype(np.float64)
    truths = [NAMES.index(record.labels[0]) for record in records]
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[range(len(truths)), truths]
    assert evaluated[-1]["validation_loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert evaluated[-1]["validation_loss"] < evaluated[0]["validation_loss"] - 0.05


@ON_JAX
def test_words_alone_are_judged_before_the_first_step(pictures, tmp_path, capsys):
    """With the words that recipes.evaluate says, on the pictures of the checkpoint's own size."""
    text = replace(CONFIG.text, vocab_size=8_000)
    folder, model = tmp_path / "reads", SigLIP(replace(CONFIG, text=text), seed=5)
    model.save_to_preset(folder)
    pixels = FixedSize(height=16, width=16, resize="bilinear_antialias")
    Processor(pixels=pixels, tokenizer=open_tokenizer(TOKENIZER_PATH), context_length=6).save_to_preset(folder)
    flags = ("--examples", "16", "--image-size", "24", "--pooling", "gap", "--lora-rank", "2")
    assert train("full", pictures, folder, tmp_path / "run", *flags, report=True) == 0
    held_out = Subset(open_source(str(pictures)), fraction=0.4, held_out=True)
    of_records = np.array([NAMES.index(held_out.record(place).labels[0]) for place in range(len(held_out))])
    labelled = EvaluationSet(name="own", source=held_out, labels=Labels(names=NAMES, of_records=of_records))
    with StopSignals() as stop:
        store = StoredEmbeddings(tmp_path / "embedded", Encoder.open(folder), model="own", batch_size=64, stop=stop)
        (judged,) = judge(store, Dataset(name="own", sets=[labelled], tasks=("zeroshot_classification",)))
    (name, found), *others = read_results(tmp_path / "run" / "results.json")["training"]["zero_shot_before"].items()
    assert (name, others) == ("Held-out pictures", [])
    assert found["confusion"] == judged["details"]["confusion"]
    told = f"{found['accuracy']:.1%} right"
    out = capsys.readouterr().out
    assert f"Zero-shot, before the first step: {told} of held-out pictures" in out
    assert f"; zero-shot, before the first step, {told}" in out
    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert report.count("Zero-shot, before training") == 2


@ON_JAX
def test_what_is_fresh_and_locked_is_refused(checkpoint, pictures, tmp_path, capsys):
    """A pooling, a tower or a table of tokens that nobody has trained, and that would stay so."""
    flags = ("--examples", "16", "--lora-rank", "2", "--fresh-pooling")
    assert train("full", pictures, checkpoint, tmp_path, *flags) == 1
    assert "begin fresh would never move, because they are locked: image/map_head/" in capsys.readouterr().err
    for flag, message in (("--lock-image",), "--pretrained-image"), (("--lora-rank", "2"), "--pretrained (a"):
        made = plan("from_scratch", "--train-data", str(pictures), "--val-fraction", "0.4", *flag)
        (missing,) = made.task.missing_flags(made.recipe, made.start)
        assert missing.startswith(message)


@ON_JAX
def test_an_attention_probe_draws_the_pooling_anew_and_full_moves_everything(pair, checkpoint, pictures, tmp_path):
    assert train("attention_probe", pictures, checkpoint, tmp_path / "a", "--examples", "16") == 0
    assert moved(ImageClassifier.from_preset(tmp_path / "a" / "model"), pair) == {"map_head"}
    changes = ("--label-smoothing", "0.1", "--mixup", "0.2", "--random-crop", "0.5", "--flip", "0.5")
    flags = ("--examples", "48", "--pooling", "gap", "--learning-rate", "1e-2", "--rand-augment", "2", "10", *changes)
    assert train("full", pictures, checkpoint, tmp_path / "b", *flags) == 0
    model = ImageClassifier.from_preset(tmp_path / "b" / "model")
    assert model.config.vision.pooling == "gap"
    assert moved(model, pair) == {"patch_embedding", "position_embedding", "encoder"}


@ON_JAX
def test_from_scratch_changes_pictures_as_big_visions_classifiers_do(pictures):
    planned = plan("from_scratch", "--train-data", str(pictures), "--val-fraction", "0.4", "--model", "siglip_s16_224")
    assert not planned.start.pretrained
    changes = planned.preprocess.augmentation
    assert (changes.area, changes.flip, changes.then) == (0.05, 0.5, RandAugment(count=2, magnitude=10))
    with pytest.raises(ValueError, match="a magnitude from 0 to 10"):
        replace(planned.recipe, classification=replace(planned.recipe.classification, rand_augment=(0, 5)))


@pytest.mark.parametrize(
    ("preset", "parameters", "steps"), [("bit_i1k", 25_557_032, 27_869), ("vit_s16_i1k", 22_122_472, 111_476)]
)
@ON_JAX
def test_imagenets_presets_are_planned_without_data_as_big_vision_has_them(preset, parameters, steps):
    made = plan(preset)
    assert count_parameters(made.config)["total"] == parameters
    assert made.planned["training"].batches == steps
    optimization, seen = made.recipe.optimization, made.preprocess
    rate = optimization.learning_rate * optimization.batch_factor, optimization.weight_decay * optimization.batch_factor
    assert rate == pytest.approx((1.6, 1.6e-3) if preset == "bit_i1k" else (1e-3, 1e-4))
    assert (optimization.momentum_dtype, optimization.grad_clip_norm) == ("bfloat16", 1.0)
    assert (seen.image_size, seen.shortest_edge_ratio, seen.resize_method) == (224, 256 / 224, "area")
    then = None if preset == "bit_i1k" else RandAugment(count=2, magnitude=10, resize_method="bilinear")
    assert seen.augmentation == RandomCrop(area=0.05, flip=0.5, resize_method="bilinear", then=then)
    assert made.recipe.classification.mixup == (0 if preset == "bit_i1k" else 0.2)
    assert made.task.missing_flags(made.recipe, made.start) == ["--train-data (pictures with labels)"]
    smaller = plan(preset, "--batch-size", "512", "--examples", "20000000").recipe.optimization
    assert smaller.batch_factor * 0.1 == pytest.approx(0.2 if preset == "bit_i1k" else 0.1)


@ABOVE_THE_BACKENDS
def test_a_resnet_learns_from_its_npz_file_by_sgd_and_judges_the_middle_of_pictures(pictures, tmp_path, capsys):
    """From random parts of whole pictures; what is left takes pictures as they were judged, and goes on so."""
    flags = ("--image-size", "16", "--shortest-edge", "18", "--resize-method", "area", "--random-crop", "0.3")
    rates = ("--optimizer", "sgd", "--momentum-dtype", "bfloat16", "--learning-rate", "0.2", "--rate-batch-size", "64")
    assert train("full", pictures, BIG_VISION_BIT, tmp_path / "run", "--examples", "48", *flags, *rates) == 0
    assert "patches of 8, pooled by gap; a fresh head for 3 classes, where it has 5" in capsys.readouterr().out
    model = ImageClassifier.from_preset(tmp_path / "run" / "model")
    assert model.processor.pixels == FixedSize(height=16, width=16, resize="area", shortest_edge=18)
    assert np.abs(weights(model)["classifier/kernel"]).max() > 0
    kept = load(sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]).groups["optimizer"]
    momentum = kept["image/stem/conv/kernel/momentum"]
    assert np.array_equal(momentum, momentum.astype(ml_dtypes.bfloat16).astype(np.float32))
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "learning_rate" in row]
    assert max(row["learning_rate"] for row in rows) <= 0.2 * 16 / 64
    again = plan("full", "--train-data", str(pictures), "--pretrained", str(tmp_path / "run" / "model"))
    assert again.preprocess.shortest_edge_ratio == 18 / 16
    for wrong, message in (
        (("--shortest-edge", "9"), "at least as long as the square that is cut out, 22 px"),
        (("--pooling", "map"), "pools by 'gap' alone"),
    ):
        given = ("--train-data", str(pictures), "--pretrained", str(BIG_VISION_BIT), "--image-size", "22")
        with pytest.raises(ValueError, match=message):
            plan("full", *given, *wrong)


def test_random_parts_are_cut_out_of_whole_pictures_and_others_out_of_their_middle():
    picture = np.zeros((20, 60, 3), np.uint8)
    picture[:, :20], picture[:, 20:40] = 200, 100  # left, middle, right
    shared = {"image_size": 8, "context_length": 1, "tokenizer_path": "", "captions": 0, "shortest_edge_ratio": 1.0}
    judged = Preprocess(**shared).image(picture)
    flipped = Preprocess(**shared, augmentation=RandomCrop(area=1.0, flip=1.0))
    parts = Preprocess(**shared, augmentation=RandomCrop(area=0.05))
    assert (judged[:, 1:7] == 100).all()
    assert (flipped.image(picture, np.random.default_rng(0))[:, 1:7] == 100).all()
    seen = [parts.image(picture, np.random.default_rng(seed)).mean() for seed in range(40)]
    assert (min(seen), max(seen)) == (0, 200)


@ON_JAX
def test_a_resnet_may_be_locked_beside_a_fresh_text_tower(tmp_path):
    flags = ["--pretrained-image", str(BIG_VISION_BIT), "--image-size", "22", "--text-size", "mu", "--text-depth", "1"]
    made = plan_run(parse_recipe(lit.PRESETS["tiny"](), flags, program="lit", description=""), TERMS)
    assert made.config.vision.describes == "BiTResNet"
    assert made.config.text.output_width == made.config.vision.output_width == 64
    student = build_student(made.recipe, made.planned["training"])
    assert not [weight.path for weight in student.trainable_variables if weight.path.startswith("image/")]


@ON_JAX
def test_transfer_takes_big_visions_settings(checkpoint, pictures):
    data = ("--train-data", str(pictures), "--val-fraction", "0.4", "--pretrained", str(checkpoint))
    planned = plan("transfer", *data, "--batch-size", "16", "--examples", "64", "--warmup-examples", "16")
    recipe = planned.recipe.optimization
    assert (recipe.optimizer, recipe.learning_rate, recipe.weight_decay) == ("sgd", 3e-3, 0.0)
    assert (planned.preprocess.augmentation.area, planned.preprocess.augmentation.flip) == (0.75, 0.5)
    assert classifier.transfer().optimization.batch_size == 512


@ON_JAX
def test_a_run_that_was_broken_off_ends_with_the_same_bits(checkpoint, pictures, tmp_path):
    flags = ("--examples", "64", "--checkpoint-every", "1", "--mixup", "0.2")
    folders = [tmp_path / "whole", tmp_path / "broken"]
    assert [train("linear_probe", pictures, checkpoint, folder, *flags) for folder in folders] == [0, 0]
    (folders[1] / "results.json").unlink()
    saved = sorted((folders[1] / "checkpoints").iterdir())
    for path in saved[-1:]:
        for file in sorted(path.rglob("*")):
            file.unlink()
        path.rmdir()
    assert train("linear_probe", pictures, checkpoint, folders[1], *flags) == 0
    one, other = (weights(ImageClassifier.from_preset(folder / "model")) for folder in folders)
    for path, value in one.items():
        assert value.tobytes() == other[path].tobytes(), path


@ON_JAX
def test_a_probe_reads_vectors_with_the_losses_that_pictures_have(checkpoint, pictures, tmp_path, capsys):
    losses = []
    for flag in ("--embed-images-once", "--no-embed-images-once"):
        assert train("linear_probe", pictures, checkpoint, tmp_path / flag, "--examples", "64", flag) == 0
        rows = read_metrics(tmp_path / flag / "metrics.jsonl")
        losses.append([row["loss"] for row in rows if "loss" in row])
    np.testing.assert_allclose(*losses, rtol=1e-6)
    assert "the locked image tower embeds each picture once" in capsys.readouterr().out
    with pytest.raises(ValueError, match="cropped, mirrored, moved, mixed or changed"):
        plan("linear_probe", "--train-data", str(pictures), "--embed-images-once", "--flip", "0.5")
    with pytest.raises(ValueError, match="cropped, mirrored, moved, mixed or changed"):
        plan("linear_probe", "--train-data", str(pictures), "--embed-images-once", "--rand-augment", "1", "5")


@ON_JAX
def test_labels_in_a_list_are_held_against_the_classes(checkpoint, pictures, tmp_path, capsys):
    paths = sorted(pictures.rglob("*.png"))
    rows = [f"{path},{path.parent.name if place else 'mauve'}" for place, path in enumerate(paths)]
    (pictures / "train.csv").write_text("\n".join(["file_name,label", *rows]))
    (tmp_path / "classes.txt").write_text("red\ngreen\nblue\n")
    flags = ("--examples", "64", "--classes", str(tmp_path / "classes.txt"))
    assert train("linear_probe", pictures / "train.csv", checkpoint, tmp_path / "run", *flags) == 0
    assert ImageClassifier.from_preset(tmp_path / "run" / "model").config.classes == ("red", "green", "blue")
    assert "label_unknown: blue/0.png" in capsys.readouterr().out
    (line,) = (json.loads(line) for line in (tmp_path / "run" / "left_out.jsonl").read_text().splitlines())
    assert "'mauve' is none of the 3 classes: red, green, blue" in line["detail"]
    (pictures / "train.csv").unlink()


@ON_JAX
def test_several_labels_are_learned_by_a_sigmoid_each(checkpoint, pictures, tmp_path):
    paths = sorted(pictures.rglob("*.png"))
    labels = [path.parent.name + ("|bright" if path.parent.name != "blue" else "") for path in paths]
    rows = [f"{path},{label}" for path, label in zip(paths, labels, strict=True)]
    (pictures / "several.csv").write_text("\n".join(["file_name,label", *rows]))
    flags = ("--examples", "320", "--learning-rate", "0.1", "--several-labels")
    assert train("linear_probe", pictures / "several.csv", checkpoint, tmp_path, *flags) == 0
    (pictures / "several.csv").unlink()
    scored = read_results(tmp_path / "results.json")["training"]["classification"]["Held-out pictures"]
    assert scored["class_names"] == ["blue", "bright", "green", "red"]
    assert scored["mean_average_precision"] > 0.9
    assert scored["chance"] < 0.6


@ON_JAX
def test_a_naflex_tower_is_trained_on_its_own_patches(pair, pictures, tmp_path):
    to_naflex(pair, max_num_patches=9).save_to_preset(tmp_path / "naflex", format="transformers")
    assert train("linear_probe", pictures, tmp_path / "naflex", tmp_path / "run", "--examples", "16") == 0
    model = ImageClassifier.from_preset(tmp_path / "run" / "model")
    assert model.predict(next(pictures.rglob("*.png")), verbose=0).shape == (1, 3)


def test_a_classifier_goes_on_with_its_own_head_or_says_that_it_has_another(pair, pictures, tmp_path):
    flags = ("--train-data", str(pictures), "--pretrained")
    ImageClassifier(pair, ("red", "blue", "green", "mauve")).save_to_preset(tmp_path / "knows")
    made = plan("full", *flags, str(tmp_path / "knows"))
    assert made.config.classes == ("red", "blue", "green", "mauve")
    assert "its own head for 4 classes" in made.task.described(made.recipe, made.start, made.config)
    assert made.task.anew(made.recipe, made.start, made.config) == ()
    ImageClassifier(pair, ("cat", "dog")).save_to_preset(tmp_path / "other")
    made = plan("full", *flags, str(tmp_path / "other"))
    assert "a fresh head for 3 classes, where it has 2" in made.task.described(made.recipe, made.start, made.config)
    assert made.task.anew(made.recipe, made.start, made.config) == ("classifier/",)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--tokenizer", "x.model"), "--tokenizer is for pairs"),
        (("--lock-text",), "--lock-text is for pairs"),
        (("--balance", "words.json"), "--balance is for pairs"),
        (("--retention", "pets"), "--retention is for pairs"),
        (("--sequence-lengths", "16"), "takes square pictures"),
        (("--pooling", "gap", "--fresh-pooling"), "--pooling is gap: give map"),
        (("--pretrained", "siglip_b16_224"), "is a size with fresh weights"),
    ],
)
def test_what_a_classifier_cannot_use_is_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        plan("full", *flags)


def test_data_with_one_class_or_none_are_refused(pictures, tmp_path):
    (tmp_path / "list.csv").write_text("file_name,label\na.png,cat\nb.png,cat\n")
    with pytest.raises(ValueError, match="needs two classes or more, got cat"):
        plan("full", "--train-data", str(tmp_path / "list.csv"))


@ABOVE_THE_BACKENDS
def test_the_tutorials_lines_come_along_and_are_changed_as_it_says():
    planned = plan("lines_bit", "--dry-run")
    assert (planned.recipe.optimization.examples, planned.recipe.optimization.batch_size) == (30 * 128, 8)
    crop = planned.preprocess.augmentation
    assert (crop.area, crop.flip, crop.flip_vertical, crop.shift * 224) == (1, 0.5, 0.5, 16)
    assert planned.data_set.class_names.names == ("0", "1", "2")
    found = planned.data_set.sources(0)
    assert {name: len(source) for name, source in found.held_out.items()} == {
        "Validation lines": 999,
        "Test lines": 999,
    }
