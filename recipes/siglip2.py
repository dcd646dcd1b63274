"""SigLIP 2 in its stages: captions, self-distillation, masked prediction, resolutions, NaFlex, curated data.

Paper:     Tschannen et al. 2025, "SigLIP 2: Multilingual Vision-Language Encoders with Improved Semantic Understanding,
           Localization, and Dense Features" (arXiv 2502.14786)
Command:   KERAS_BACKEND=jax python -m recipes.siglip2
A preset:  python -m recipes.siglip2 B/16 --dry-run
Released:  python -m recipes.siglip2 finetune --pretrained hf://google/siglip2-base-patch16-256 --train-data photos/
Own data:  python -m recipes.siglip2 --train-data "coco:annotations.json:images/" --run-dir runs/coco
Afterwards: python -m recipes.caption --model runs/siglip2/trunk/model    (captions, finds and describes)

By default ("tiny") it learns scenes composed from the embedded emoji, whose captions name their objects and whose boxes
are known, with towers of a million weights, in 14 minutes on one core of a busy CPU: English recall@1 30%, recall@5 53%
among 500 new scenes, and 39% of their things found by the trunk's decoder. The other presets have the paper's sizes,
batch, examples, rates and loss weights: B/32, B/16, L/16, So400m/14, So400m/16, g-opt/16, B/16-naflex and
So400m/16-naflex. What the paper leaves open is a choice of ours, and a field: docs/siglip2.md lists each, with its
reason and how sure the facts are.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from diptych.core.training.recipe import Data, Model, Optimization, Recipe, Run
from diptych.core.training.stages import Curation, Stage
from diptych.core.training.term_options import Captioning, Distillation
from diptych.engine.command_line import train_preset

EXAMPLES, BATCH_SIZE, WARMUP_EXAMPLES = 40_000_000_000, 32_768, 20_000 * 32_768

# size: (preset of the trunk, weight of the self-supervised losses, resolutions as (patch, pixels), NaFlex, filter
# ratio)
SIZES = {
    "B/32": ("siglip2_base_patch32_256", 0.25, (), False, 0.75),
    "B/16": ("siglip2_base_patch16_256", 0.25, ((16, 224), (16, 384), (16, 512)), False, 0.5),
    "L/16": ("siglip2_large_patch16_256", 0.5, ((16, 384), (16, 512)), False, None),
    "So400m/14": ("siglip2_so400m_patch16_256", 1.0, ((14, 224), (14, 384)), False, None),
    "So400m/16": ("siglip2_so400m_patch16_256", 1.0, ((16, 384), (16, 512)), False, None),
    "g-opt/16": ("siglip2_giant_patch16_256", 0.5, ((16, 384),), False, None),
    "B/16-naflex": ("siglip2_base_patch16_256", 0.25, (), True, None),
    "So400m/16-naflex": ("siglip2_so400m_patch16_256", 1.0, (), True, None),
}


def siglip2(size: str) -> Recipe:
    """The paper's run of a size: the trunk, and what forks from it."""
    preset, weight, resolutions, naflex, filter_ratio = SIZES[size]
    return Recipe(
        data=Data(train_data="", english_share=0.9, augment=False),
        model=Model(model=preset, precision="bfloat16", init_logit_bias=-10.0),
        optimization=Optimization(
            examples=EXAMPLES,
            batch_size=BATCH_SIZE,
            warmup_examples=WARMUP_EXAMPLES,
        ),
        run=Run(run_dir=Path("runs") / f"siglip2-{size.lower().replace('/', '')}", evaluations=4, devices=2_048),
        stages=stages(weight=weight, resolutions=resolutions, naflex=naflex, filter_ratio=filter_ratio),
    )


def stages(
    *,
    weight: float,
    resolutions: tuple[tuple[int, int], ...] = (),
    naflex: bool = False,
    filter_ratio: float | None = None,
    lengths: tuple[int, ...] = (128, 256, 576, 784, 1024),
    halve_from: int = 1024,
    teacher: str = "teacher",
) -> tuple[Stage, ...]:
    """The order of learning (section 2; table 1 has the released resolutions).

    Args:
        weight: of the self-supervised losses together, by model size (section 2.2): distillation counts it, masked
            prediction a quarter of it.
        resolutions: (patch, pixels) of the forks at 95% of the run.
        naflex: whether the run ends in a NaFlex model, forked at 90%, instead of the trunk.
        filter_ratio: share left out of super-batches in the curated fine-tuning of the smallest models; None for none.
        lengths, halve_from: NaFlex's sequence lengths, and from where on batches are halved.
        teacher: the checkpoint that judges what is learnable.
    """
    captioning = {"contrastive": 1.0, "captioning": 1.0}
    complete = captioning | {"distillation": weight, "masked_prediction": 0.25 * weight}
    learned = [
        Stage(name="captioning", schedule=(0.0, 0.8), losses=captioning),
        Stage(name="self_distillation", after="captioning", schedule=(0.8, 0.9), losses=complete),
    ]
    if naflex:
        return *learned, Stage(
            name="naflex",
            after="self_distillation",
            schedule=(0.9, 1.0),
            stretch=3.75,
            losses=captioning,
            sequence_lengths=lengths,
            halve_from=halve_from,
            order=1,
        )
    learned += [
        Stage(name="self_distillation_95", after="self_distillation", schedule=(0.9, 0.95), losses=complete),
        Stage(name="trunk", after="self_distillation_95", schedule=(0.95, 1.0), losses=complete),
    ]
    for patch, pixels in resolutions:
        learned.append(
            Stage(
                name=f"patch{patch}_{pixels}",
                after="self_distillation_95",
                schedule=(0.95, 1.0),
                losses=complete,
                patch_size=patch,
                image_size=pixels,
            )
        )
    if filter_ratio is not None:
        for ended in [stage.name for stage in learned[3:]]:
            learned.append(
                Stage(
                    name=f"{ended}_curated",
                    after=ended,
                    schedule=None,
                    stretch=0.1,
                    curation=Curation(reference=teacher, filter_ratio=filter_ratio),
                    learning_rate=1e-5,
                    weight_decay=0.0,
                    order=2,
                )
            )
    return tuple(learned)


def tiny() -> Recipe:
    """All of it on a laptop: scenes of emoji, tiny towers, forks to another resolution and to NaFlex, and curated
    fine-tuning.

    The curated stage takes the trunk for its teacher: there is no larger model here to ask.
    """
    learned = stages(weight=0.5, resolutions=((6, 54),), filter_ratio=0.5, teacher="trunk")
    flexible = Stage(
        name="naflex",
        after="self_distillation",
        schedule=(0.9, 1.0),
        stretch=3.75,
        losses={"contrastive": 1.0, "captioning": 1.0},
        sequence_lengths=(16, 25, 36, 64),
        halve_from=64,
        order=1,
    )
    kept = tuple(stage for stage in learned if stage.name != "patch6_54_curated")
    return Recipe(
        data=Data(train_data="scenes", augment=False),
        model=Model(model="scenes"),
        optimization=Optimization(examples=60_000, batch_size=32),
        captioning=Captioning(target_length=20, box_bins=10, decoder_depth=1),
        distillation=Distillation(
            teacher_momentum=0.99, head_hidden=256, head_bottleneck=64, head_outputs=1024, local_views=4
        ),
        run=Run(run_dir=Path("runs/siglip2"), evaluations=4),
        stages=(*kept, flexible),
    )


def finetune() -> Recipe:
    """All of the losses on towers that are trained already: a fresh decoder and fresh heads learn first, in front of
    towers that hold still, then all of it together; forks and curated batches go on from there (`--only naflex`).

    The checkpoint's weights move at a hundredth of the rate of the fresh ones, and without decay
    (`engine.training.defaults`).
    """
    taught = {"captioning": 1.0, "distillation": 0.25, "masked_prediction": 0.0625}
    return Recipe(
        data=Data(train_data="", augment=False),
        model=Model(),
        optimization=Optimization(examples=64_000, batch_size=32),
        captioning=Captioning(require_boxes=False),
        run=Run(run_dir=Path("runs/siglip2-finetune"), evaluations=4),
        only=("together",),
        stages=(
            Stage(name="heads", schedule=(0.0, 0.2), losses=taught, lock=("(image|text|pair_logits)/.*",)),
            Stage(name="together", after="heads", schedule=(0.2, 1.0), losses={"contrastive": 1.0, **taught}),
            Stage(
                name="naflex",
                after="together",
                schedule=None,
                stretch=0.3,
                losses={"contrastive": 1.0, "captioning": 1.0},
                sequence_lengths=(128, 256, 576, 784, 1024),
                order=1,
            ),
            Stage(
                name="curated",
                after="together",
                schedule=None,
                stretch=0.1,
                curation=Curation(reference="together"),
                order=2,
            ),
        ),
    )


def main(arguments: list[str] | None = None) -> int:
    """Runs a preset with the command line's changes; returns the exit status."""
    presets: dict[str, Callable[[], Recipe]] = {"tiny": tiny, "finetune": finetune}
    presets |= {size: partial(siglip2, size) for size in SIZES}
    return train_preset(presets, arguments, program="python -m recipes.siglip2", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
