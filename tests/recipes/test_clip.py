"""The CLIP recipe: SigLIP's run with another loss, a model without a bias, trained and judged to the end."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from diptych import backends
from diptych.core.losses.contrastive import softmax_contrastive_loss
from diptych.core.training.checkpoint import restore_latest
from diptych.core.training.metrics import read_metrics
from diptych.core.training.results import read_results
from diptych.core.training.run_folder import RunFolder
from diptych.engine.training.plan_text import plan_text
from diptych.engine.training.run_plan import plan_run
from diptych.engine.training.start import CLIP_PIXELS
from diptych.engine.training.terms import TERMS
from diptych.engine.training.terms.contrastive import Contrastive, softmax_loss
from diptych.models import CLIPConfig, SigLIP, from_preset
from diptych.recipes.clip import clip
from diptych.recipes.siglip import siglip
from tests.marks import ABOVE_THE_BACKENDS
from tests.models.examples import TINY, numpy_of
from tests.recipes.golden import check_losses
from tests.recipes.photos import write_photos

STEPS = 40


def command(photos: Path, run_dir: Path, *more: str) -> list[str]:
    small = (
        "--model siglip_mu16_224 --image-size 32 --context-length 8 --batch-size 16 --val-fraction 0.2 --no-tensorboard"
    )
    flags = f"--examples {STEPS * 16} --train-data {photos} --run-dir {run_dir}"
    return [sys.executable, "-m", "recipes.clip", *small.split(), *flags.split(), *more]


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_photos(tmp_path_factory.mktemp("data") / "photos", 64)


@pytest.fixture(scope="module")
def run_dir(photos, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "clip"
    done = subprocess.run(command(photos, folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_it_is_siglips_run_but_for_loss_scale_and_folder():
    ours, theirs = clip(), siglip()
    assert ours.optimization.loss == "softmax"
    assert config_of(ours).init_logit_scale == pytest.approx(14.2857, abs=1e-4)
    assert (ours.model.max_logit_scale, theirs.model.max_logit_scale) == (100.0, None)
    assert ours.run.run_dir != theirs.run.run_dir
    same = replace(
        ours,
        model=replace(ours.model, max_logit_scale=None),
        optimization=replace(ours.optimization, loss=None),
        run=replace(ours.run, run_dir=theirs.run.run_dir),
    )
    assert same == theirs


def config_of(recipe):
    return plan_run(recipe, TERMS).config


def test_towers_and_tokens_are_siglips_and_only_the_bias_is_gone():
    configs = [config_of(recipe) for recipe in (clip(), siglip())]
    assert configs[0].vision == configs[1].vision
    assert configs[0].text == configs[1].text
    assert configs[0].init_logit_bias is None
    assert (configs[0].max_logit_scale, configs[1].max_logit_scale) == (100.0, None)
    assert configs[1].init_logit_bias == pytest.approx(-np.log(127))


def test_the_losses_are_the_golden_ones(run_dir):
    check_losses("clip", run_dir / "metrics.jsonl")


def test_a_users_folder_is_learned_judged_and_reported(run_dir):
    rows = [row for row in read_metrics(run_dir / "metrics.jsonl") if "loss" in row]
    assert len(rows) == STEPS
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]
    assert rows[0]["logit_scale"] == pytest.approx(1 / 0.07, rel=1e-4)
    assert not any("logit_bias" in row for row in rows)
    results = read_results(run_dir / "results.json")["training"]
    assert 0 <= results["retrieval"]["Held-out pairs"]["und"]["recall@5"] <= 1
    assert "CLIP on" in (run_dir / "report.html").read_text(encoding="utf-8")
    chosen = backends.choose_implementation(loss="softmax_contrastive_loss")
    assert json.loads((run_dir / "card.json").read_text())["implementation"] == chosen != "reference"


def test_neither_the_checkpoint_nor_the_finished_model_has_a_bias(run_dir):
    saved = restore_latest(RunFolder(run_dir).checkpoints)
    assert saved is not None
    weights = saved.groups["weights"]
    assert "pair_logits/log_logit_scale" in weights
    assert [name for name in weights if "logit_bias" in name] == []
    model = from_preset(run_dir / "model")
    assert model.logit_bias is None
    assert float(numpy_of(model.logit_scale)) == pytest.approx(
        float(np.exp(weights["pair_logits/log_logit_scale"])), rel=1e-6
    )


@ABOVE_THE_BACKENDS
def test_a_finished_run_is_not_gone_on_with_by_the_other_loss(photos, run_dir):
    other = subprocess.run(command(photos, run_dir, "--loss", "sigmoid"), capture_output=True, text=True)
    assert other.returncode == 1
    assert 'loss: stored "softmax", given "sigmoid"' in other.stderr


def test_a_bias_for_the_softmax_loss_is_refused(photos, tmp_path):
    refused = subprocess.run(
        command(photos, tmp_path, "--init-logit-bias", "-5"),
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert refused.returncode == 2
    assert "the softmax loss has no bias" in refused.stdout + refused.stderr


@pytest.mark.parametrize("name", ["clip_vit_base_patch32", "clip_rn50"])
def test_fresh_towers_of_clips_sizes_take_clips_pictures_and_read_texts_at_their_end(name):
    made = plan_run(replace(clip(), model=replace(clip().model, model=name)), TERMS)
    assert isinstance(made.config, CLIPConfig)
    assert made.preprocess.fixed_size() == replace(CLIP_PIXELS, resize="bicubic_antialias")
    tokens = made.preprocess.tokens("red apple")
    assert tokens[list(tokens).index(made.config.text.eot_id) + 1 :].max() == made.preprocess.tokenizer.pad_id
    assert made.config.text.vocab_size == made.preprocess.tokenizer.vocab_size
    assert "GFLOP" in plan_text(made.recipe, made.planned, TERMS)


@pytest.mark.parametrize("init_logit_bias", [None, -2.0])
def test_the_objective_is_the_softmax_loss_averaged_over_captions(init_logit_bias):
    """With or without a bias weight, which no softmax feels; the scale is the model's."""
    model = SigLIP(replace(TINY, init_logit_scale=5.0, init_logit_bias=init_logit_bias))
    rng = np.random.default_rng(0)
    image, text = rng.standard_normal((6, 8)), rng.standard_normal((6, 2, 8))
    image, text = (
        x.astype("float32") / np.linalg.norm(x, axis=-1, keepdims=True).astype("float32") for x in (image, text)
    )
    embedded = {"image": keras.ops.convert_to_tensor(image), "text": keras.ops.convert_to_tensor(text)}
    loss, scalars, _ = Contrastive(softmax_loss).loss(model, embedded)
    captions = [float(numpy_of(softmax_contrastive_loss(image, text[:, k], logit_scale=5.0))) for k in range(2)]
    assert abs(captions[0] - captions[1]) > 1e-3
    assert float(numpy_of(loss)) == pytest.approx(np.mean(captions), rel=1e-5)
    assert scalars.keys() == ({"logit_scale"} if init_logit_bias is None else {"logit_scale", "logit_bias"})
