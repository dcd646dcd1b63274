"""Operations and memory of the published sizes, by arithmetic, as other sources and our page have them."""

import pytest

from diptych.models.paligemma.counting import (
    answering_memory,
    attention_parameters,
    cache_bytes_per_token,
    count_paligemma_flops,
    training_memory,
)
from diptych.models.paligemma.presets import PRESETS
from tests.tree import ROOT

GIB = 2**30
PLANNED = {
    f"{family}_pt_{resolution}": length
    for family in ("paligemma_3b", "paligemma2_3b", "paligemma2_10b", "paligemma2_28b")
    for resolution, length in ((224, 128), (448, 512), (896, 512))
}
"""Sizes, and the length of texts in their pre-training."""


def plan_row(name: str, text_length: int) -> str:
    """A row of the page's table."""
    config = PRESETS[name]
    flops = count_paligemma_flops(config, text_length=text_length)
    answering = [
        answering_memory(config, dtype=dtype, text_length=text_length) for dtype in ("float32", "bfloat16", "int8")
    ]
    ways = ({}, {"optimizer_slots": 0}, {"trained": "attention", "optimizer_slots": 0, "frozen_dtype": "bfloat16"})
    training = [training_memory(config, text_length=text_length, **way) for way in ways]
    cells = [
        f"`{name.replace('_pt', '_*')}`",
        f"{text_length}",
        f"{flops['forward'] / 1e12:.1f}",
        f"{flops['token'] / 1e9:.1f}",
        f"{flops['training'] / 1e12:.1f}",
        *(f"{memory['total'] / GIB:.1f}" for memory in (*answering, *training)),
    ]
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize(
    ("name", "text_length", "forward", "image", "logits"),
    [
        ("paligemma_3b_pt_224", 8, 1.28, 0.22, 0.01),
        ("paligemma_3b_pt_224", 128, 1.90, 0.22, 0.13),
        ("paligemma_3b_pt_448", 512, 7.95, 0.97, 0.54),
        ("paligemma_3b_pt_896", 512, 27.4, 5.46, 0.54),
        ("paligemma2_3b_pt_448", 512, 8.3, 0.97, 0.61),
    ],
)
def test_operations(name, text_length, forward, image, logits):
    flops = count_paligemma_flops(PRESETS[name], text_length=text_length)
    for part, expected in {"forward": forward, "image": image, "logits": logits}.items():
        assert flops[part] / 1e12 == pytest.approx(expected, abs=0.05 if expected > 10 else 0.02)
    assert flops["training"] == 3 * flops["forward"]
    two = count_paligemma_flops(PRESETS[name], text_length=text_length, pictures=2)
    assert two["image"] == 2 * flops["image"]
    assert two["logits"] == flops["logits"]


def test_caches_and_weights():
    sizes = ("paligemma_3b", "paligemma2_3b", "paligemma2_10b", "paligemma2_28b")
    found = [cache_bytes_per_token(PRESETS[f"{size}_pt_224"]) for size in sizes]
    assert found == [18_432, 106_496, 344_064, 376_832]
    config = PRESETS["paligemma_3b_pt_224"]
    by_dtype = [answering_memory(config, dtype=dtype, text_length=128) for dtype in ("float32", "bfloat16", "int8")]
    assert [memory["weights"] for memory in by_dtype] == [2_923_335_408 * size for size in (4, 2, 1)]
    assert by_dtype[1]["caches"] == by_dtype[2]["caches"] == (256 + 128) * 18_432
    for memory in by_dtype:
        assert memory["total"] == memory["weights"] + memory["caches"] + memory["activations"]


def test_what_training_keeps():
    config = PRESETS["paligemma_3b_pt_224"]
    adam = training_memory(config, text_length=128)
    assert sum(adam[part] for part in ("weights", "gradients", "optimizer")) == 16 * 2_923_335_408
    assert attention_parameters(config.text) == 169_869_312
    few = training_memory(config, text_length=128, trained="attention", optimizer_slots=0, frozen_dtype="bfloat16")
    assert few["weights"] == 2 * 2_923_335_408 + 2 * 169_869_312
    assert few["total"] < 16e9
    # The inputs of Gemma's blocks alone: L S d values.
    assert few["activations"] > 4 * 18 * (256 + 128) * 2_048
    twice = training_memory(config, text_length=128, batch_size=2)
    assert adam["activations"] < twice["activations"] <= 2 * adam["activations"]


def test_the_pages_table_is_what_is_computed():
    page = (ROOT / "docs" / "paligemma.md").read_text(encoding="utf-8")
    assert [name for name, length in PLANNED.items() if plan_row(name, length) not in page] == []
