"""A loss from outside the package: its own field of the batch, its own part, beside the pairs or alone."""

from dataclasses import dataclass, replace
from typing import ClassVar

import keras
import numpy as np
import pytest
from keras import ops

from diptych.core.data.batch import ArrayField
from diptych.core.data.emoji.scenes import SEPARATOR
from diptych.core.training.checkpoint import restore_latest
from diptych.core.training.metrics import read_metrics
from diptych.core.training.objectives import Loss
from diptych.core.training.stages import Stage
from diptych.engine.training.run import run
from diptych.engine.training.terms import TERMS
from diptych.engine.training.terms.stage_term import StageTerm
from diptych.models import presets
from diptych.recipes.siglip2 import tiny
from tests.marks import ABOVE_THE_BACKENDS
from tests.tolerances import UNIT_ROUNDOFF

STEPS = 24


@dataclass(frozen=True)
class CountThings:
    """Label 1 for a scene of more than one thing."""

    declared: ClassVar = {"label": ArrayField(np.int32, (("batch",),), (0, 1), "whether there are several things")}

    def __call__(self, record, pixels, rng):
        return {"label": np.array(SEPARATOR in record.captions[0].text, np.int32)}


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A linear map from the pooled vector to two classes."""

    classes: int = 2

    def build(self, towers, *, name, seed, dtype, rematerialize):
        layer = keras.layers.Dense(self.classes, name=name, kernel_initializer=keras.initializers.GlorotUniform(seed))
        layer.build((None, towers.vision.output_width))
        return layer

    def parameters(self, towers):
        return (towers.vision.output_width + 1) * self.classes


class Counting(StageTerm):
    """The cross-entropy of the label."""

    independent = True

    @classmethod
    def parts(cls, recipe, towers):
        return {"classifier": Classifier()}

    @classmethod
    def examples(cls, recipe, planned, preprocess):
        return {"makers": {**preprocess.makers, "label": CountThings()}}

    def embed(self, seen):
        logits = seen.model.parts["classifier"](seen.image["pooled"])
        return {"logits": logits, "label": seen.batch["label"]}

    def loss(self, model, embedded):
        chosen = ops.one_hot(embedded["label"], 2)
        right = ops.equal(ops.argmax(embedded["logits"], axis=-1), ops.cast(embedded["label"], "int64"))
        losses = ops.categorical_crossentropy(chosen, embedded["logits"], from_logits=True)
        return Loss(ops.mean(losses), {"accuracy": ops.mean(ops.cast(right, "float32"))})

    @classmethod
    def flops(cls, recipe, planned, towers):
        return 3 * towers.image


def trained(folder, losses, monkeypatch, **optimization):
    """The rows of metrics of a run that weighs the own term, and its last checkpoint."""
    size = {"width": 16, "depth": 1, "mlp_dim": 32, "num_heads": 2}
    config = presets.PRESETS["scenes"]
    small = replace(config, vision=replace(config.vision, **size), text=replace(config.text, **size, embed_dim=16))
    monkeypatch.setitem(presets.PRESETS, "scenes", small)
    monkeypatch.setattr("diptych.engine.datasets.scenes.EVALUATION_SCENES", 16)
    recipe = tiny()
    recipe = replace(
        recipe,
        stages=(Stage(name="training", losses=losses),),
        optimization=replace(
            recipe.optimization,
            examples=STEPS * 16,
            batch_size=16,
            warmup_examples=16,
            learning_rate=1e-2,
            **optimization,
        ),
        run=replace(recipe.run, run_dir=folder, report=False, tensorboard=False),
    )
    assert run(recipe, terms={**TERMS, "counting": Counting}) == 0
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "loss" in row]
    saved = restore_latest(folder / "checkpoints")
    assert saved is not None
    return rows, saved.groups["weights"]


@ABOVE_THE_BACKENDS
def test_a_stage_weighs_it_beside_the_pairs(tmp_path, monkeypatch):
    rows, weights = trained(tmp_path, {"contrastive": 1.0, "counting": 0.5}, monkeypatch)
    assert len(rows) == STEPS
    for row in rows:
        total = row["contrastive_loss"] + 0.5 * row["counting_loss"]
        assert row["loss"] == pytest.approx(total, rel=8 * UNIT_ROUNDOFF["float32"])
    assert {"classifier/kernel", "classifier/bias", "pair_logits/logit_bias"} < weights.keys()
    assert np.mean([row["counting_loss"] for row in rows[-6:]]) < rows[0]["counting_loss"]


@ABOVE_THE_BACKENDS
def test_an_objective_need_not_be_contrastive_and_micro_batches_are_then_a_plain_mean(tmp_path, monkeypatch):
    whole, at_once = trained(tmp_path / "whole", {"counting": 1.0}, monkeypatch)
    cut, in_pieces = trained(tmp_path / "cut", {"counting": 1.0}, monkeypatch, accum_freq=4)
    assert not any("contrastive_loss" in row for row in whole)
    for one, other in zip(whole[:4], cut[:4], strict=True):
        for name in ("loss", "gradient_norm", "accuracy"):
            assert other[name] == pytest.approx(one[name], rel=1e-3), name
    np.testing.assert_array_equal(at_once["pair_logits/logit_bias"], in_pieces["pair_logits/logit_bias"])


def test_a_term_that_nobody_knows_is_refused_by_name(tmp_path, capsys):
    recipe = tiny()
    stages = (Stage(name="training", losses={"contrastive": 1.0, "counting": 1.0}),)
    assert run(replace(recipe, stages=stages, run=replace(recipe.run, run_dir=tmp_path / "run", dry_run=True))) == 1
    assert "weighs the loss counting, which no term has the name of" in capsys.readouterr().err
