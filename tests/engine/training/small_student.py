"""A student of a few thousand weights, batches for it, and all that a step of SigLIP 2 needs."""

from collections.abc import Mapping

import numpy as np

from diptych.core.losses.contrastive import sigmoid_loss
from diptych.core.training.objectives import Objective
from diptych.core.training.teacher import EmaTeacher
from diptych.engine.training.terms import Captioning, Contrastive, Distillation, MaskedPrediction
from diptych.models import SigLIPConfig, TextConfig, VisionConfig
from diptych.models.captioner.config import CaptionerConfig
from diptych.models.siglip.parts import DecoderPart, HeadPart, MaskTokenPart, Part
from diptych.models.siglip.student import Student

SIZE = {"width": 16, "depth": 1, "mlp_dim": 32, "num_heads": 2}
CONFIG = SigLIPConfig(
    vision=VisionConfig(**SIZE, patch_size=4, image_size=16),
    text=TextConfig(**SIZE, vocab_size=20, context_length=5),
    init_logit_bias=-2.0,
)
CAPTIONER = CaptionerConfig(**SIZE, vocab_size=20, context_length=7, encoder_width=16)
OUTPUTS = 12
HEAD = {"hidden": 16, "bottleneck": 8, "outputs": OUTPUTS}
PAIRS = {"contrastive": 1.0}
ALL = {"contrastive": 1.0, "captioning": 1.0, "distillation": 0.5, "masked_prediction": 0.125}


def batch(seed: int, size: int = 8) -> dict[str, np.ndarray]:
    """Every field that a stage with squares may have."""
    rng = np.random.default_rng(seed)
    weights = (np.arange(7) >= 2) & (np.arange(7) < rng.integers(4, 8, (size, 3, 1)))
    weights[0, 1:] = False  # an example without boxes
    masked = np.sort(np.argsort(rng.random((size, 16)), axis=1)[:, :8], axis=1)
    return {
        "image": rng.integers(0, 256, (size, 16, 16, 3)).astype(np.uint8),
        "text": rng.integers(0, 20, (size, 5)).astype(np.int32),
        "target_tokens": rng.integers(0, 20, (size, 3, 7)).astype(np.int32),
        "target_weights": weights.astype(np.uint8),
        "parallel": rng.random(size) < 0.5,
        "global_view": rng.integers(0, 256, (size, 16, 16, 3)).astype(np.uint8),
        "local_views": rng.integers(0, 256, (size, 2, 8, 8, 3)).astype(np.uint8),
        "masked_patches": masked.astype(np.int32),
    }


def parts(losses: Mapping[str, float] = ALL) -> dict[str, Part]:
    """What the losses need beside the towers."""
    wanted: dict[str, dict[str, Part]] = {
        "captioning": {"captioner": DecoderPart(config=CAPTIONER)},
        "distillation": {"global_head": HeadPart(reads="pooled", **HEAD)},
        "masked_prediction": {"patch_head": HeadPart(reads="tokens", **HEAD), "mask_token": MaskTokenPart()},
    }
    return {name: part for loss, some in wanted.items() if loss in losses for name, part in some.items()}


def student(losses: Mapping[str, float] = ALL, seed: int = 1) -> Student:
    return Student(CONFIG, parts=parts(losses), seed=seed)


def objective(
    model: Student, losses: Mapping[str, float] = ALL, momentum: float = 0.9, pair_loss=sigmoid_loss
) -> tuple[Objective, EmaTeacher | None]:
    heads = [head for head in ("global_head", "patch_head") if head in model.parts]
    teacher = EmaTeacher(model.followed(heads), model.copies(heads), momentum=momentum) if heads else None
    terms = {
        "contrastive": lambda: Contrastive(pair_loss),
        "captioning": Captioning,
        "distillation": lambda: Distillation(teacher, OUTPUTS),
        "masked_prediction": lambda: MaskedPrediction(teacher, OUTPUTS),
    }
    return Objective({name: make() for name, make in terms.items() if name in losses}, losses), teacher
