"""LiT and SigLiT: the image tower stays, the text tower begins fresh, and vectors train as the tower does."""

import json
import os
import signal
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
from diptych.engine.embedding import embedding_runs
from diptych.engine.training.evaluation import Evaluation
from diptych.engine.training.run_plan import plan_run
from diptych.engine.training.terms import TERMS
from diptych.models import SigLIP, SigLIPConfig, TextConfig, VisionConfig, from_preset
from diptych.recipes import lit
from tests.marks import ABOVE_THE_BACKENDS
from tests.recipes.photos import write_photos

SIZE = {"width": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2}
CONFIG = SigLIPConfig(
    vision=VisionConfig(**SIZE, patch_size=4, image_size=16),
    text=TextConfig(**SIZE, vocab_size=8_100, context_length=6, embed_dim=16),
    init_logit_scale=50.0,
    init_logit_bias=-3.0,
)
BROKEN = "007.png"


@pytest.fixture(scope="module")
def model() -> SigLIP:
    return SigLIP(CONFIG, seed=5)


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_to_preset(folder, format="diptych")
    pixels = FixedSize(height=16, width=16, resize="bicubic_antialias")
    Processor(pixels=pixels, tokenizer=open_tokenizer(TOKENIZER_PATH), context_length=6).save_to_preset(folder)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Sixty pictures, one of which breaks off."""
    folder = write_photos(tmp_path_factory.mktemp("data") / "photos", 60)
    (folder / BROKEN).write_bytes((folder / BROKEN).read_bytes()[:60])
    return folder


def train(photos: Path, checkpoint: Path, folder: Path, *flags: str, batches: int = 12) -> int:
    small = f"--examples {16 * batches} --batch-size 16 --val-fraction 0.3 --context-length 6"
    small += " --text-size mu --no-tensorboard --no-report"
    own = ["--train-data", str(photos), "--pretrained-image", str(checkpoint), "--run-dir", str(folder)]
    return lit.main([*own, *small.split(), *flags])


def weights(model) -> dict[str, np.ndarray]:
    return {weight.path: np.array(keras.ops.convert_to_numpy(weight.value)) for weight in model.weights}


def losses(folder: Path) -> np.ndarray:
    """Of every step, and of the held-out pairs."""
    rows = read_metrics(folder / "metrics.jsonl")
    return np.array([row.get("loss", row.get("validation_loss")) for row in rows])


@pytest.fixture(scope="module")
def on_vectors(photos, checkpoint, tmp_path_factory) -> Path:
    """A run that read vectors; its held-out pictures, judged three times, went through the tower once."""
    folder, seen, inputs = tmp_path_factory.mktemp("runs") / "vectors", [], Evaluation._inputs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluation, "_inputs", lambda self, pairs, rows: seen.append(rows) or inputs(self, pairs, rows))
        assert train(photos, checkpoint, folder) == 0
    assert len(seen) == 1
    return folder


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@ABOVE_THE_BACKENDS
def test_training_on_vectors_gives_the_losses_of_training_with_the_tower(
    photos, checkpoint, on_vectors, tmp_path, loss
):
    """Every step's and the held-out pairs' loss to 1e-6, with the same bad picture replaced in both."""
    flags, folder = ("--loss", loss), on_vectors
    if loss != "sigmoid":
        folder = tmp_path / "vectors"
        assert train(photos, checkpoint, folder, *flags) == 0
    assert train(photos, checkpoint, tmp_path / "tower", "--no-embed-images-once", *flags) == 0
    expected = losses(tmp_path / "tower")
    assert len(expected) == 14
    assert expected[-2] < expected[0]
    np.testing.assert_allclose(losses(folder), expected, rtol=1e-6)
    results = [read_results(run / "results.json")["training"] for run in (folder, tmp_path / "tower")]
    assert results[0]["retrieval"] == results[1]["retrieval"]
    cards = [json.loads((run / "card.json").read_text()) for run in (folder, tmp_path / "tower")]
    assert [card["embeds_images"] for card in cards] == [True, False]
    assert cards[0]["flops_per_step"] < 0.9 * cards[1]["flops_per_step"]
    for run in (folder, tmp_path / "tower"):
        assert [json.loads(line)["name"] for line in (run / "left_out.jsonl").open()] == [BROKEN]


def test_the_image_tower_stays_and_the_text_tower_is_new(model, on_vectors):
    left, given = from_preset(on_vectors / "model"), weights(model)
    text = left.config.text
    assert left.config.vision == CONFIG.vision
    assert (text.width, text.depth, text.embed_dim, text.vocab_size) == (32, 1, 16, 8_000)
    for path, value in weights(left).items():
        if path.startswith("image/"):
            np.testing.assert_array_equal(value, given[path], err_msg=path)
    scalars = [row for row in read_metrics(on_vectors / "metrics.jsonl") if "logit_scale" in row][0]
    assert (scalars["logit_scale"], scalars["logit_bias"]) == pytest.approx((10.0, -np.log(15)), rel=1e-3)


@ABOVE_THE_BACKENDS
def test_augmented_pictures_are_embedded_in_as_many_views_as_asked(photos, checkpoint, on_vectors, tmp_path):
    folder = tmp_path / "run"
    assert train(photos, checkpoint, folder, "--augment", "--image-views", "3", batches=2) == 0
    cards = [next(run.glob("image_features/*/index.json")) for run in (folder, on_vectors)]
    views, pictures = (json.loads(card.read_text())["count"] for card in cards)
    assert views == 3 * pictures
    assert losses(folder)[1] != losses(on_vectors)[1]


@ABOVE_THE_BACKENDS
def test_stopped_while_it_embeds_it_goes_on_from_there(photos, checkpoint, on_vectors, tmp_path, monkeypatch, capsys):
    calls, embed = [], embedding_runs.embed_prepared

    def stopped_once(encoder, run, batch_size):
        calls.append(len(run.items))
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return embed(encoder, run, batch_size)

    monkeypatch.setattr(embedding_runs, "embed_prepared", stopped_once)
    monkeypatch.setattr("diptych.engine.training.embedding_once.BATCH_SIZE", 8)
    flags = ("--embeddings-dir", str(tmp_path / "vectors"))
    assert train(photos, checkpoint, tmp_path / "run", *flags) == 143
    assert "Stopped by SIGTERM" in capsys.readouterr().out
    embedded = sum(calls)
    assert train(photos, checkpoint, tmp_path / "run", *flags) == 0
    assert "going on at record" in capsys.readouterr().out
    assert sum(calls) - embedded == sum(1 for _ in photos.glob("*.png")) - embedded - held_out(on_vectors)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(on_vectors), rtol=1e-6)
    calls.clear()
    assert train(photos, checkpoint, tmp_path / "other", *flags, "--seed", "1", batches=2) == 0
    assert not calls, "another run with the same tower and pictures reads the same vectors"


def held_out(folder: Path) -> int:
    """Records that a run was judged by."""
    return next(iter(read_results(folder / "results.json")["training"]["retrieval"].values()))["und"]["queries"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--pretrained-text", "x", "--text-size", "mu"),
            "--text-size and --text-depth are those of a text tower that",
        ),
        (("--lock-text",), "here its weights are fresh and know nothing"),
        (("--text-size", "tiny"), "Unknown size 'tiny'"),
        (("--image-views", "2"), "--image-views cannot be, because without --augment all views are the same"),
        (("--image-views", "2", "--augment", "--no-embed-images-once"), "because --no-embed-images-once says so"),
        (("--embed-images-once", "--augment"), "--embed-images-once cannot be, because its pictures are augmented"),
    ],
)
def test_what_does_not_fit_together_is_refused(photos, checkpoint, tmp_path, capsys, flags, message):
    own = ["--train-data", str(photos), "--pretrained-image", str(checkpoint), "--run-dir", str(tmp_path)]
    try:
        status = lit.main([*own, *flags])
    except SystemExit as error:
        status = error.code
    assert status
    assert message in capsys.readouterr().err


def test_a_text_tower_goes_on_from_the_checkpoint_or_has_a_size_and_vocabulary_of_ones_own(checkpoint):
    def plan(*flags: str):
        arguments = ["--pretrained-image", str(checkpoint), "--train-data", "photos", *flags]
        return plan_run(parse_recipe(lit.tiny(), arguments, program="lit", description=""), TERMS)

    kept = plan("--pretrained-text", str(checkpoint))
    assert kept.config.text == CONFIG.text
    assert (kept.recipe.optimization.learning_rate, kept.recipe.optimization.weight_decay) == (1e-5, 0.0)
    fresh = plan("--text-size", "mu", "--tokenizer", str(TOKENIZER_PATH), "--context-length", "9")
    text = fresh.config.text
    assert (text.width, text.depth, text.embed_dim, text.vocab_size, text.context_length) == (32, 1, 16, 8_000, 9)
    assert (fresh.recipe.optimization.learning_rate, fresh.recipe.optimization.weight_decay) == (1e-3, 1e-4)
    assert fresh.planned["training"].embeds_images


def test_a_fresh_tower_is_not_worth_locking(photos, tmp_path, capsys):
    assert lit.main(["--pretrained-image", "None", "--train-data", str(photos), "--run-dir", str(tmp_path)]) == 1
    assert "--pretrained-image (a checkpoint whose image tower stays as it is)" in capsys.readouterr().err
