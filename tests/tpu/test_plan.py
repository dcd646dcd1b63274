"""The plan of a training step against what the compiler for TPUs says of it: arguments to the byte, on eight chips."""

from dataclasses import replace
from importlib.util import find_spec

import pytest

pytest.importorskip("jax", reason="steps for TPUs are jax's")
if find_spec("libtpu") is None:
    pytest.skip("libtpu is not on the path: nox -s tpu has it there", allow_module_level=True)

from benchmarks.tpu_plan import chips, compared
from diptych.backends import shares
from diptych.engine.training.run_plan import plan_run
from diptych.engine.training.terms import TERMS
from diptych.models.presets import PRESETS
from tests.recipes.small_stages import recipe


def test_a_steps_arguments_are_those_of_the_plan(tmp_path, monkeypatch):
    """Weights, slots, teacher, centres and the batch, of which each chip has its share."""
    monkeypatch.setattr(shares, "SMALLEST", 256)
    size, scenes = {"width": 16, "depth": 1, "mlp_dim": 32, "num_heads": 2}, PRESETS["scenes"]
    small = replace(scenes, vision=replace(scenes.vision, **size), text=replace(scenes.text, **size, embed_dim=16))
    monkeypatch.setitem(PRESETS, "scenes", small)
    whole = recipe(tmp_path)
    run, optimization = replace(whole.run, devices=8, fsdp=2, dry_run=True), replace(whole.optimization, ema_decay=None)
    distillation = replace(whole.distillation, head_outputs=512)  # whose centres are cut, too
    whole = replace(whole, run=run, optimization=optimization, distillation=distillation)
    plan = plan_run(replace(whole, only=("self_distillation",)), TERMS)
    found = compared(plan.recipe, plan.planned["self_distillation"], chips("v5e:2x4"))
    assert found["arguments"] == found["arguments_planned"]
    assert found["arguments"] <= found["arguments_laid_out"]
    assert found["scratch"] > 0
