"""Runs that embed their pictures once: which ones, what they say about it, and what a plan then counts."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from diptych.core.data.records import Record
from diptych.core.training.recipe import Recipe
from diptych.core.training.stages import Curation, Stage
from diptych.engine.command_line import parse_recipe
from diptych.engine.training.costs import training_flops
from diptych.engine.training.embedding_once import as_it_pays, described
from diptych.engine.training.memory import activation_bytes
from diptych.engine.training.run_plan import RunPlan, plan_run
from diptych.engine.training.terms import TERMS
from diptych.models.counting import count_flops, estimate_memory
from diptych.recipes import lit, siglip

SMALL = ("--train-data", "photos", "--model", "siglip_mu16_224", "--image-size", "32", "--batch-size", "16")


def parsed(*flags: str) -> Recipe:
    arguments = [*SMALL, "--examples", "320", *flags]
    return parse_recipe(siglip.siglip(), arguments, program="siglip", description="")


def plan(*flags: str, **stage) -> RunPlan:
    recipe = parsed(*flags)
    return plan_run(replace(recipe, stages=(Stage(name="training", **stage),)), TERMS)


@pytest.mark.parametrize(
    ("flags", "stage", "once"),
    [
        (("--lock-image",), {}, True),
        (("--lock", "image/.*"), {}, True),
        ((), {"lock": ("image/.*",)}, True),
        (("--lora-rank", "2", "--lora-targets", "text/.*"), {}, True),
        (("--lock-image", "--no-embed-images-once"), {}, False),
        ((), {}, False),
        (("--lora-rank", "2"), {}, False),
        (("--lock-image", "--lock-image-unlocked-blocks", "1"), {}, False),
        (("--lock", "image/encoder/.*"), {}, False),
    ],
)
def test_pictures_are_embedded_once_where_nothing_of_their_tower_moves(flags, stage, once):
    assert plan(*flags, **stage).planned["training"].embeds_images is once


@pytest.mark.parametrize(
    ("flags", "stage", "why"),
    [
        ((), {}, "its image tower moves: --lock-image"),
        (("--lock-image", "--augment"), {}, "augmented: --no-augment"),
        (("--lock-image",), {"losses": {"contrastive": 1.0, "captioning": 1.0}}, "its loss captioning looks at more"),
        (("--lock-image",), {"sequence_lengths": (4, 9)}, "NaFlex"),
        (("--lock-image",), {"curation": Curation(reference="teacher", chunks=4)}, "its batches are chosen"),
    ],
)
def test_where_it_cannot_be_it_is_refused_and_said(flags, stage, why):
    flags = (*flags, "--no-require-boxes") if "losses" in stage else flags
    recipe = replace(parsed(), stages=(Stage(name="training", **stage),))
    arguments = [*SMALL, "--examples", "320", *flags]
    recipe = parse_recipe(recipe, arguments, program="siglip", description="")
    planned = plan_run(recipe, TERMS).planned
    assert not planned["training"].embeds_images
    if "image" in planned["training"].locked:
        assert why in described(recipe, planned, TERMS)[0]
    with pytest.raises(ValueError, match=f"--embed-images-once cannot be, because.*{why}"):
        plan_run(replace(recipe, run=replace(recipe.run, embed_images_once=True)), TERMS)


class Records:
    """Records of two pictures each."""

    def __init__(self, size: int):
        self.size = size

    def __len__(self) -> int:
        return self.size

    def record(self, index: int) -> Record:
        return Record(str(index), ("a", "b"), ())


def test_more_pictures_than_examples_are_embedded_only_when_asked_for():
    def settled(records: int, *flags: str) -> bool:
        made = plan("--lock-image", *flags)
        sources = SimpleNamespace(train=Records(records))
        planned = as_it_pays(made.recipe, made.planned, sources)
        said = described(made.recipe, planned, TERMS)[0]
        assert ("embeds each picture once" in said) is planned["training"].embeds_images
        return planned["training"].embeds_images

    assert settled(160)
    assert not settled(161)
    assert settled(161, "--embed-images-once")
    assert not settled(160, "--no-embed-images-once")


def test_a_plan_leaves_out_what_the_image_tower_does_not_do():
    """A locked tower has no backward pass and keeps no activations; with pictures embedded before it has no forward
    pass either.
    """
    made = {flags: plan(*flags) for flags in ((), ("--lock-image", "--no-embed-images-once"), ("--lock-image",))}
    config = made[()].config
    one = count_flops(config, batch_size=16)
    flops = [training_flops(m.recipe, m.planned["training"], TERMS)["total"] for m in made.values()]
    assert flops == [one["training"], one["training"] - 2 * one["image"], 3 * one["text"] + one["loss"]]
    memory = [activation_bytes(m.recipe, m.planned["training"], TERMS) for m in made.values()]
    locked = estimate_memory(config, batch_size=16, locked=["image"])["activations"]
    assert memory == [estimate_memory(config, batch_size=16)["activations"], locked, locked]
    assert locked < memory[0]


def test_presets_have_the_papers_numbers():
    made = {name: preset() for name, preset in lit.PRESETS.items()}
    for recipe in made.values():
        assert recipe.model.lock_image
        assert recipe.data.augment is False
    steps = {name: recipe.optimization.examples / recipe.optimization.batch_size for name, recipe in made.items()}
    assert [steps[name] for name in list(steps)[1:]] == [60_000, 60_000, 65_000, 107_000]
    assert (made["LiT-B16B"].optimization.loss, made["SigLiT-B8L"].optimization.loss) == ("softmax", "sigmoid")
    planned = plan_run(made["SigLiT-B8L"], TERMS).config
    assert (planned.text.width, planned.text.depth, planned.text.embed_dim) == (1024, 12, planned.vision.width)
    assert (planned.init_logit_scale, planned.init_logit_bias) == (10.0, -10.0)
    assert lit.main(["no-such-preset"]) == 2
