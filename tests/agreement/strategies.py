"""Strategies for hypothesis: fields from few values, and seeds and shares instead of raw numbers.

Few shapes mean few compilations; a drawn configuration serves several seeds, scales and both losses.
"""

import os
from collections.abc import Sequence

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from diptych.backends.cases import Case

WIDTHS_AND_HEADS = ((8, 1), (12, 3), (16, 4), (24, 2), (40, 5), (64, 2))
PATCHES_AND_IMAGES = ((4, 8), (3, 10), (8, 16), (5, 10), (4, 14), (7, 23))  # half of them leave pixels over


def agreement_settings(examples: int) -> settings:
    """The same examples every time; with DIPTYCH_EXAMPLES, that many, drawn afresh.

    No shrinking: each smaller example would be compiled three times over, and configurations are small as they are.
    """
    asked = os.environ.get("DIPTYCH_EXAMPLES")
    return settings(
        max_examples=int(asked or examples),
        derandomize=not asked,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


def quick() -> bool:
    """Whether workers may compile for the time it takes rather than for speed: in the short, fixed run."""
    return "DIPTYCH_EXAMPLES" not in os.environ


@st.composite
def configs(draw, *, largest_depth: int = 2, smallest_width: int = 8) -> dict:
    """The fields of a `SigLIPConfig` as a dictionary; towers of different sizes that meet at one width."""
    sizes = [size for size in WIDTHS_AND_HEADS if size[0] >= smallest_width]

    def tower(poolings):
        width, num_heads = draw(st.sampled_from(sizes))
        return {
            "width": width,
            "num_heads": num_heads,
            "depth": draw(st.integers(1, largest_depth)),
            "mlp_dim": draw(st.sampled_from([7, 16, 33, 80])),
            "pooling": draw(st.sampled_from(poolings)),
        }

    patch_size, image_size = draw(st.sampled_from(PATCHES_AND_IMAGES))
    vision = tower(["map", "gap", "cls"]) | {
        "patch_size": patch_size,
        "image_size": image_size,
        "embed_dim": draw(st.sampled_from([None, 20])),
    }
    text = tower(["last", "first", "gap", "map"]) | {
        "vocab_size": draw(st.sampled_from([5, 50, 97])),
        "context_length": draw(st.sampled_from([2, 7, 16])),
    }
    meeting = vision["embed_dim"] or vision["width"]
    text["embed_dim"] = None if text["width"] == meeting and draw(st.booleans()) else meeting
    return {"vision": vision, "text": text, "init_logit_scale": 10.0, "init_logit_bias": -10.0}


@st.composite
def batch_shapes(draw, *, smallest: int = 2) -> dict[str, int]:
    """Numbers of images and of captions for each."""
    sizes = [size for size in (2, 5, 8, 16) if size >= smallest]
    return {"batch_size": draw(st.sampled_from(sizes)), "captions": draw(st.sampled_from([1, 1, 3]))}


@st.composite
def conditionings(draw) -> dict:
    """The seed of weights and batch, the logit scale, and the negatives' share of the gradient; positives have the
    rest.
    """
    return {
        "seed": draw(st.integers(0, 2**32 - 1)),
        "logit_scale": draw(st.sampled_from([1.0, 5.0, 10.0, 30.0])),
        "share": draw(st.sampled_from([0.25, 0.35, 0.65, 0.75])),
    }


@st.composite
def optimizers(draw) -> dict:
    """An optimizer as a worker's `train` takes it: name, rate or schedule, decay, and multipliers by pattern."""
    name = draw(st.sampled_from(["adamw", "adafactor", "lion"]))
    rate = {"adamw": 1e-3, "adafactor": 1e-3, "lion": 1e-4}[name]
    if draw(st.booleans()):
        rate = {
            "name": "cosine",
            "learning_rate": rate,
            "batch_size": 8,
            "total_examples": 30 * 8,
            "warmup_examples": draw(st.sampled_from([0, 5 * 8])),
        }
    multipliers = draw(st.sampled_from([{}, {"image/.*": 0.1}, {"text/.*bias": 3.0, "text/.*": 0.5}]))
    decays = draw(st.sampled_from([{}, {"image/.*": 0.0}]))
    return {
        "name": name,
        "learning_rate": rate,
        "weight_decay": draw(st.sampled_from([0.0, 1e-2])),
        "learning_rate_multipliers": multipliers,
        "weight_decay_multipliers": decays,
    }


@st.composite
def loss_cases(draw, *, largest: int = 300, widths: Sequence[int] = range(2, 71)) -> Case:
    """The sigmoid loss at any sizes, multiples of nothing, in any regime from the start of training to its end."""
    return Case(
        images=draw(st.integers(1, largest)),
        texts=draw(st.integers(1, largest)),
        width=draw(st.sampled_from(widths)),
        logit_scale=draw(st.floats(1.0, 120.0, width=32)),
        logit_bias=draw(st.floats(-17.0, 0.0, width=32)),
        positive_cosine=draw(st.floats(0.0, 0.95)),
        offset=draw(st.one_of(st.just(0), st.integers(-largest - 20, largest + 20))),
        seed=draw(st.integers(0, 2**32 - 1)),
    )
