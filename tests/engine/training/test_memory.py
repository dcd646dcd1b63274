"""The memory of a plan: what is counted is what a run holds, and settings that fit are the first that do."""

import math
from dataclasses import replace

import pytest

from diptych.backends import shares
from diptych.core.data.loading.loader import Loader
from diptych.core.training.run_folder import RunFolder
from diptych.engine.training.batch_shapes import batch_shapes
from diptych.engine.training.build import build_learner
from diptych.engine.training.memory import first_fitting, stage_memory
from diptych.engine.training.run_plan import plan_run
from diptych.engine.training.terms import TERMS
from diptych.models.presets import PRESETS
from diptych.recipes import siglip2
from tests.marks import ABOVE_THE_BACKENDS
from tests.recipes.small_stages import recipe, small_towers

pytestmark = ABOVE_THE_BACKENDS


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Of every kind of stage, with tiny towers."""
    monkeypatch.setattr(shares, "SMALLEST", shares.SMALLEST)
    monkeypatch.setitem(PRESETS, "scenes", PRESETS["scenes"])
    small_towers()
    return dry(recipe(tmp_path))


def dry(whole):
    return plan_run(replace(whole, run=replace(whole.run, dry_run=True)), TERMS)


def test_what_a_plan_counts_is_what_a_run_holds(plan, tmp_path):
    """Weights, slots, averages, teacher and centres, to the byte, and batches by shape."""
    source = plan.data_set.sources(0).train
    for name, planned in plan.planned.items():
        examples = plan.examples[name]
        made = Loader(source, examples, batch_size=planned.loaded, seed=0, order=planned.stage.order).batch(0).arrays()
        length = made["patches"].shape[1] if planned.naflex else None
        wanted = {field: (x.shape, x.dtype.type) for field, x in made.items()}
        assert batch_shapes(plan.recipe, planned, TERMS, length) == wanted, name
        if planned.stage.curation:  # whose reference a run would have left
            continue
        learner = build_learner(plan.recipe, planned, examples, source, RunFolder(tmp_path), TERMS)
        variables = [variable for group in learner.groups().values() for variable in group.values()]
        memory = stage_memory(plan.recipe, planned, TERMS)
        held = sum(4 * math.prod(variable.shape) for variable in variables)
        assert sum(memory[part] for part in ("weights", "optimizer", "teacher", "ema")) == held, name


def test_a_plan_spreads_the_state_as_a_run_does():
    whole, spread = (memory_of("B/16", fsdp=fsdp) for fsdp in (1, 64))
    for part, small in (("weights", 1.03), ("optimizer", 1.03), ("teacher", 1.13)):  # small tensors stay whole
        assert 1 / 64 < spread[part] / whole[part] < small / 64, part
    # So400m's widths, 1,152 and 4,304, are no multiples of 256: little but the tables is cut.
    assert memory_of("So400m/14", fsdp=256)["weights"] > 20 * memory_of("So400m/14", fsdp=128)["weights"]


def memory_of(size, **run):
    whole = siglip2.siglip2(size)
    plan = plan_run(replace(whole, run=replace(whole.run, **run)), TERMS)
    return stage_memory(plan.recipe, plan.planned["trunk"], TERMS)


def test_the_first_setting_that_fits_is_named():
    whole = siglip2.siglip2("B/16")
    plan = dry(replace(whole, run=replace(whole.run, devices=64, fsdp=64)))
    trunk = plan.planned["trunk"]
    without, again, more = (
        first_fitting(plan.recipe, {"trunk": trunk}, TERMS, 1e9 * gigabytes) for gigabytes in (1_000, 84.9, 16.9)
    )
    assert without == (False, 1)
    assert again.grad_checkpointing
    assert more.accum_freq > again.accum_freq
    taken, before = (
        stage_memory(more._replace(accum_freq=pieces).of(plan.recipe), trunk, TERMS)["total"]
        for pieces in (more.accum_freq, more.accum_freq // 2)
    )
    assert taken <= 16.9e9 < before
    assert first_fitting(plan.recipe, {"trunk": trunk}, TERMS, 1e9) is None


def test_a_plan_says_what_fits_and_refuses_what_cannot_be_dealt_out(capsys):
    assert siglip2.main(["B/16", "--dry-run"]) == 0
    lines = {line.partition(":")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "fits; a billion examples of patch16_512 take" in lines["H200 (141 GB)"]
    assert "does not fit" in lines["TPU v5e (16 GB)"]
    assert siglip2.main(["B/16", "--dry-run", "--devices", "3"]) == 1
    assert "batches of 32768, which --accum-freq 1 on 3 devices does not divide" in capsys.readouterr().err
