"""Training steps that are taken in parts and at once, to be compared: what is learnt, and all that the steps change."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import keras
import numpy as np

from diptych import backends
from diptych.core.losses.contrastive import sigmoid_loss, softmax_contrastive_loss
from diptych.core.placement import Placement
from diptych.core.training.checkpoint_parts import Pieces, own_pieces
from diptych.core.training.curated_objective import CuratedObjective
from diptych.core.training.ema import Ema
from diptych.core.training.objectives import Objective
from diptych.core.training.optimizers import AdamW
from diptych.core.training.patterns import freeze
from diptych.core.training.teacher import EmaTeacher
from diptych.engine.training.terms.classification import Classification
from diptych.engine.training.terms.contrastive import Contrastive, softmax_loss
from diptych.engine.training.terms.language import Language
from diptych.models import (
    CLIP,
    BiTConfig,
    ClassifierConfig,
    CLIPConfig,
    CLIPResNetConfig,
    CLIPTextConfig,
    CLIPVisionConfig,
    GPTConfig,
    SigLIP,
)
from diptych.models.siglip.student import Student
from tests.engine.training.small_student import ALL, CONFIG, PAIRS, objective, student
from tests.engine.training.small_student import batch as every_field
from tests.models.classifier.test_classifier import drawn

STEPS, EXAMPLES = 5, 24
EPSILON = 1e-3
"""Of AdamW: a small one would make whole steps of the rounding in gradients that are zero."""

CLIP_VISION = CLIPVisionConfig(width=16, depth=1, mlp_dim=20, num_heads=1, embed_dim=20, patch_size=4, image_size=8)
BIT = BiTConfig(stage_depths=(1, 1), width=8, num_groups=8, image_size=22)
LANGUAGE = GPTConfig(width=16, depth=2, mlp_dim=32, num_heads=2, vocab_size=23, context_length=8)
RESNET = CLIPResNetConfig(stage_depths=(1, 1, 1, 1), width=8, num_heads=4, image_size=32, embed_dim=20)


@dataclass
class Case:
    """A model with what it learns; `pieces` are micro-batches. Several processes of torch spread the state with `zero`,
    and weights as well with `fsdp`.
    """

    model: Any
    objective: Objective
    batch: Callable[[int], Mapping[str, np.ndarray]]
    teacher: EmaTeacher | None = None
    pieces: int = 1
    rate: float = 1e-2
    zero: bool = False
    fsdp: bool = False


def pair_loss(shared: bool, softmax: bool = False):
    if not shared:
        return softmax_loss if softmax else sigmoid_loss
    if softmax:
        return partial(softmax_loss, loss=partial(backends.distributed_softmax_contrastive_loss, gradients="mean"))
    return partial(backends.distributed_sigmoid_loss, gradients="mean")


def every_loss(shared: bool, pieces: int = 1, **spread: bool) -> Case:
    """Captions, of which some examples have no boxes, a teacher, views and masks."""
    model = student(ALL)
    goal, teacher = objective(model, ALL, 0.8, pair_loss(shared))
    goal.terms["contrastive"].distributed = shared
    return Case(model, goal, lambda seed: every_field(seed, EXAMPLES), teacher, pieces, **spread)


def recomputed(shared: bool) -> Case:
    """Blocks whose activations are computed again, with frozen kernels beside trained biases, and a frozen tower."""
    model = Student(CONFIG, parts={}, seed=1, rematerialize=True)
    freeze(model, ("image/encoder/.*kernel", "text/.*"))
    goal = Objective({"contrastive": Contrastive(pair_loss(shared), distributed=shared)})
    return Case(model, goal, lambda seed: every_field(seed, EXAMPLES), pieces=2, fsdp=True)


def gathered(shared: bool) -> Case:
    """A loss that compares examples and knows nothing of processes."""
    model = student(PAIRS)
    goal = Objective({"pairs": Contrastive(partial(softmax_loss, loss=softmax_contrastive_loss))})
    return Case(model, goal, lambda seed: every_field(seed, EXAMPLES), pieces=2)


def curated(shared: bool) -> Case:
    losses = {"contrastive": 1.0, "captioning": 1.0}
    model, reference = student(losses), SigLIP(CONFIG, seed=9)
    inner, _ = objective(model, losses, pair_loss=pair_loss(shared))
    inner.terms["contrastive"].distributed = shared

    def batch(seed):
        noise = np.random.default_rng([seed, 7]).gumbel(size=(EXAMPLES, 2)).astype(np.float32)
        return every_field(seed, EXAMPLES) | {"selection_noise": noise}

    return Case(model, CuratedObjective(inner, reference, size=EXAMPLES // 2), batch)


def classifier(shared: bool) -> Case:
    def batch(seed):
        rng = np.random.default_rng(seed)
        return {
            "image": rng.integers(0, 256, (EXAMPLES, 12, 12, 3), dtype=np.uint8),
            "label": rng.integers(0, 3, EXAMPLES).astype("int32"),
            "mixup": rng.uniform(0.5, 1.0, EXAMPLES).astype(np.float32),
        }

    return Case(drawn(), Objective({"classification": Classification()}), batch, pieces=2)


def language(shared: bool, **arguments) -> Case:
    """GPT-1's pre-training, with what its blocks leave out; no text knows of another."""

    def batch(seed):
        rng = np.random.default_rng(seed)
        weights = rng.random((EXAMPLES, LANGUAGE.context_length)) < 0.8
        return {
            "token_ids": rng.integers(0, LANGUAGE.vocab_size, weights.shape, dtype=np.int32),
            "token_weights": weights.astype(np.float32),
            "dropout_seeds": np.arange(EXAMPLES, dtype=np.int32) + seed,
        }

    return Case(Student(LANGUAGE, seed=2), Objective({"language": Language()}), batch, **arguments)


def bit(shared: bool, **arguments) -> Case:
    """The residual network of `recipes.resnet50`, narrow and short: normalised by groups, which know no batch."""
    model = Student(ClassifierConfig(vision=BIT, classes=("a", "b", "c")), seed=2)

    def batch(seed):
        rng = np.random.default_rng(seed)
        return {
            "image": rng.integers(0, 256, (EXAMPLES, BIT.image_size, BIT.image_size, 3), dtype=np.uint8),
            "label": rng.integers(0, 3, EXAMPLES).astype("int32"),
            "mixup": rng.uniform(0.5, 1.0, EXAMPLES).astype(np.float32),
        }

    return Case(model, Objective({"classification": Classification()}), batch, rate=1e-4, **arguments)


def pairs(shared: bool) -> Case:
    """By the sigmoid and by the softmax loss."""
    terms = {
        name: Contrastive(pair_loss(shared, softmax=name == "softmax"), distributed=shared)
        for name in ("sigmoid", "softmax")
    }
    return Case(student(PAIRS), Objective(terms), lambda seed: every_field(seed, EXAMPLES))


def clip(shared: bool, vision=CLIP_VISION, **arguments) -> Case:
    text = CLIPTextConfig(width=16, depth=1, mlp_dim=20, num_heads=1, embed_dim=20, vocab_size=20, context_length=5)

    def batch(seed):
        size = (EXAMPLES, vision.image_size, vision.image_size, 3)
        images = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
        return {"image": images, "text": every_field(seed, EXAMPLES)["text"] % 19}

    goal = Objective({"contrastive": Contrastive(pair_loss(shared, softmax=True), distributed=shared)})
    return Case(CLIP(CLIPConfig(vision=vision, text=text), seed=3), goal, batch, **arguments)


def resnet(shared: bool) -> Case:
    """Batch normalisation, and a small rate: where rounding puts an activation on the other side of zero, its gradient
    is another.
    """
    return clip(shared, RESNET, pieces=2, rate=1e-4)


CASES: dict[str, Callable[[bool], Case]] = {
    "every loss": every_loss,
    "every loss in pieces": partial(every_loss, pieces=2),
    "every loss, spread": partial(every_loss, pieces=2, zero=True),
    "every loss, in units": partial(every_loss, pieces=2, fsdp=True),
    "recomputed, in units": recomputed,
    "gathered": gathered,
    "curated": curated,
    "classifier": classifier,
    "pairs": pairs,
    "clip": clip,
    "resnet": resnet,
    "language": partial(language, pieces=2),
    "language, in units": partial(language, fsdp=True),
    "bit": partial(bit, zero=True),
}


def trained(
    build: Callable[[bool], Case], placement: Placement, saved: Pieces | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """What each step logs, and all that the steps have changed, by kind and name.

    Args:
        saved: is given what this process writes into a checkpoint at the end.
    """
    case = build(placement.processes * placement.devices > 1)
    several = placement.processes > 1
    placement = replace(
        placement, zero=several and case.zero, fsdp=max(placement.fsdp, placement.processes if case.fsdp else 1)
    )
    optimizer = AdamW(case.rate, weight_decay=1e-3, epsilon=EPSILON)
    average = Ema(case.model.trainable_variables, decay=0.9)
    step = backends.train_step(
        case.model,
        case.objective,
        optimizer,
        clip_norm=0.5,
        ema=average,
        teacher=case.teacher,
        micro_batches=case.pieces,
        placement=placement,
    )
    # As from a checkpoint, which the first step picks up. A norm would take away what is added to all channels of an
    # embedding, and a larger change would have the steps go where rounding grows.
    given = case.model.trainable_variables[-1]
    given.assign(keras.ops.convert_to_numpy(given.value) + 0.01)
    kinds = {
        "weights": {variable.path: variable for variable in case.model.variables},
        "slots": optimizer.named_slots(),
        "averages": average.named(),
        "teacher": case.teacher.named() if case.teacher else {},
        "centres": dict(case.objective.variables),
    }

    def pieces() -> Pieces:
        held = {kind: step.held(variables) for kind, variables in kinds.items()}
        return own_pieces(held, placement.process, placement.processes)

    logs, taken = [], []
    for seed in range(STEPS):
        whole = case.batch(seed)
        rows = np.concatenate(placement.rows(EXAMPLES, case.pieces))
        log = step({name: array[rows] for name, array in whole.items()}, (1.0,) if several else ())
        logs.append({name: array_of(value) for name, value in log.items() if name != "asked"})
        if seed == 1:
            step.synchronize()
        if saved is not None and seed == STEPS - 2:
            taken = [(array, array.copy()) for _, array in pieces()]
    assert all(np.array_equal(*both) for both in taken), "a step touched what was copied for a checkpoint"
    if saved is not None:
        saved += pieces()
    step.synchronize()
    found = {
        kind: {name: array_of(variable.value) for name, variable in variables.items()}
        for kind, variables in kinds.items()
    }
    with average.applied():
        example = {name: keras.ops.convert_to_tensor(array) for name, array in case.batch(STEPS).items()}
        embedded, own = case.objective.forward(case.model, case.objective.prepare(case.model, example))
    found["evaluated"] = {name: array_of(x) for name, x in (embedded | {k: x.value for k, x in own.items()}).items()}
    logged = {name: np.array([log[name] for log in logs]) for name in logs[0]}
    return found | {"norms": {"gradient_norm": logged.pop("gradient_norm")}, "logs": logged}


def array_of(x) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(x), np.float64)


def differences(one, other) -> dict[str, tuple[float, str]]:
    """The largest of each kind, where, and of numbers above 1 as a part of them."""
    assert {kind: found.keys() for kind, found in one.items()} == {kind: found.keys() for kind, found in other.items()}

    def difference(x, y):
        return float(np.max(np.abs(x - y) / np.maximum(1.0, np.abs(x))))

    return {
        kind: max((difference(x, other[kind][name]), name) for name, x in found.items())
        for kind, found in one.items()
        if found
    }
