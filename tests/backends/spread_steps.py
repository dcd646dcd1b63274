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
from diptych.models.classifier.model import classifier_of
from diptych.models.siglip.student import Student
from tests.engine.training.small_student import ALL, CONFIG, PAIRS, objective, student
from tests.engine.training.small_student import batch as every_field
from tests.models.classifier.test_classifier import drawn, randomized

STEPS, EXAMPLES = 5, 24
EPSILON = 1e-3
"""Of AdamW: a small one would make whole steps of the rounding in gradients that are zero."""

CLIP_VISION = CLIPVisionConfig(width=16, depth=1, mlp_dim=20, num_heads=1, embed_dim=20, patch_size=4, image_size=8)
BIT = BiTConfig(stage_depths=(1, 2), width=8, num_groups=8, image_size=22)
GPT = GPTConfig(width=16, depth=2, mlp_dim=32, num_heads=2, vocab_size=23, context_length=8)
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


def bit(shared: bool, **spread: bool) -> Case:
    """A ResNet-50 in small, with mixup."""

    def batch(seed):
        images = np.random.default_rng(seed).integers(0, 256, (EXAMPLES, 22, 22, 3), dtype=np.uint8)
        return classifier(shared).batch(seed) | {"image": images}

    config = ClassifierConfig(vision=BIT, classes=("a", "b", "c"))
    goal = Objective({"classification": Classification()})
    return Case(randomized(classifier_of(config)), goal, batch, pieces=2, rate=1e-4, **spread)


def gpt1(shared: bool, **spread: bool) -> Case:
    """Next tokens, of which each text has its own that do not count, with dropout by each text's seed."""

    def batch(seed):
        rng = np.random.default_rng(seed)
        shape = (EXAMPLES, GPT.context_length)
        return {
            "token_ids": rng.integers(0, GPT.vocab_size, shape).astype(np.int32),
            "token_weights": (rng.random(shape) < 0.7).astype(np.float32),
            "dropout_seeds": rng.integers(0, 1 << 20, EXAMPLES).astype(np.int32),
        }

    return Case(Student(GPT, seed=4), Objective({"language": Language()}), batch, pieces=2, **spread)


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
    "bit": bit,
    "bit, in units": partial(bit, fsdp=True),
    "gpt1": gpt1,
    "gpt1, in units": partial(gpt1, fsdp=True),
    "pairs": pairs,
    "clip": clip,
    "resnet": resnet,
}


def trained(build: Callable[[bool], Case], placement: Placement) -> dict[str, dict[str, np.ndarray]]:
    """What each step logs, and all that the steps have changed, by kind and name."""
    case = build(placement.processes * placement.devices > 1)
    several = placement.processes > 1
    placement = replace(placement, zero=several and case.zero, fsdp=placement.processes if case.fsdp else 1)
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
    given = case.model.trainable_variables[0]
    given.assign(keras.ops.convert_to_numpy(given.value) + 0.01)  # as from a checkpoint, which the first step picks up
    logs = []
    for seed in range(STEPS):
        whole = case.batch(seed)
        rows = np.concatenate(placement.rows(EXAMPLES, case.pieces))
        log = step({name: array[rows] for name, array in whole.items()}, (1.0,) if several else ())
        logs.append({name: array_of(value) for name, value in log.items() if name != "asked"})
        if seed == 1:
            step.synchronize()
    step.synchronize()
    kinds = {
        "weights": {variable.path: variable for variable in case.model.variables},
        "slots": optimizer.named_slots(),
        "averages": average.named(),
        "teacher": case.teacher.named() if case.teacher else {},
        "centres": dict(case.objective.variables),
    }
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
