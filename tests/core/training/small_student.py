"""A student of a few thousand weights, batches for it, and all that a step of SigLIP 2 needs."""

import numpy as np

from diptych.core.training.joint_objective import JointObjective
from diptych.core.training.stages import LossWeights
from diptych.core.training.teacher import EmaTeacher
from diptych.models import SigLIPConfig, TextConfig, VisionConfig
from diptych.models.captioner.config import CaptionerConfig
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
ALL = LossWeights(captioning=1.0, distillation=0.5, masked_prediction=0.125)


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


def student(weights: LossWeights = ALL, seed: int = 1) -> Student:
    return Student(
        CONFIG,
        captioner=CAPTIONER if weights.captioning else None,
        head=HEAD if weights.self_supervised else None,
        seed=seed,
    )


def objective(
    model: Student, weights: LossWeights = ALL, momentum: float = 0.9, **arguments
) -> tuple[JointObjective, EmaTeacher | None]:
    teacher = None
    if weights.self_supervised:
        teacher = EmaTeacher(model.student_parts(), model.teacher_parts(), momentum=momentum)
    return JointObjective(weights, teacher=teacher, outputs=OUTPUTS, **arguments), teacher
