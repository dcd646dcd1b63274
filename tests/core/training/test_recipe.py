"""Options that exclude each other, say nothing alone or lie outside their range are refused before anything begins."""

from dataclasses import replace

import pytest

from diptych.core.training.recipe import Recipe
from diptych.recipes.siglip import siglip


def with_options(**options) -> Recipe:
    """The default recipe with fields named "group__field" changed."""
    recipe = siglip()
    for name, value in options.items():
        group, _, field = name.partition("__")
        recipe = replace(recipe, **{group: replace(getattr(recipe, group), **{field: value})})
    return recipe


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (f"run__{name}", 0)
            for name in ("evaluations", "evaluate_every", "checkpoint_every", "log_every", "devices")
        ),
        *((f"data__{name}", -1) for name in ("workers", "cache_megabytes", "language_temperature", "stall_seconds")),
        *((f"optimization__{name}", -0.1) for name in ("weight_decay", "warmup_examples", "grad_clip_norm")),
        ("optimization__learning_rate_multipliers", {"text/.*": 1.0, "image/.*": -1.0}),
        ("optimization__weight_decay_multipliers", {"image/.*": -1.0}),
        ("optimization__beta_2", 2.0),
        ("optimization__ema_decay", 1.0),
        ("optimization__image_layer_decay", 75.0),
        ("optimization__grad_clip_norm", 0.0),
        ("run__seed", -1),
        ("data__context_length", 1),
        ("model__sequence_lengths", (16, 0)),
    ],
)
def test_a_number_outside_its_range_is_refused_by_its_flag(name, value):
    flag = f"--{name.partition('__')[2].replace('_', '-')}"
    with pytest.raises(ValueError, match=f"^{flag} .*got "):
        with_options(**{name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model__lora_alpha": 4.0}, "--lora-alpha says more of --lora-rank, which is not given"),
        ({"model__lora_targets": ("text/.*",)}, "--lora-targets says more of --lora-rank"),
        ({"model__lock_text_unlocked_blocks": 1}, "--lock-text-unlocked-blocks says more of --lock-text"),
        ({"model__keep_logit_bias": True}, "--keep-logit-bias says more of --pretrained"),
        (
            {"model__pretrained": "a", "model__keep_logit_bias": True, "model__init_logit_bias": -5.0},
            "Leave it out .* with --init-logit-bias",
        ),
        (
            {"optimization__loss": "softmax", "model__pretrained": "a", "model__keep_logit_bias": True},
            "Leave it out with --loss softmax",
        ),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        with_options(**options)


def test_a_run_is_not_written_into_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="is the folder of --pretrained, which stays as it is"):
        with_options(model__pretrained="./checkpoint/", run__run_dir=tmp_path / "checkpoint")
