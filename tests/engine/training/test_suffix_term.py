"""The loss of answers: big_vision's rule, step after step, on transformers' PaliGemma with the same weights."""

import numpy as np
import pytest

from diptych import backends
from diptych.core.losses.captioning import cross_entropy
from diptych.core.training.objectives import Objective
from diptych.core.training.optimizers import SGD
from diptych.engine.training.terms.suffix import Suffix
from diptych.models import PaliGemma
from diptych.models.siglip.student import Student
from tests.agreement.reference_gemma import build_reference, draw_batch, reference_inputs, save_reference
from tests.marks import ABOVE_THE_BACKENDS
from tests.models.examples import numpy_of

RATE, SMOOTHING, STEPS, CLIP = 0.05, 0.1, 3, 1.0


def smoothed(logits, labels, smoothing):
    """-Σ target · log softmax, float64."""
    logits = np.asarray(logits, np.float64)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = np.full(logs.shape, smoothing / (logs.shape[-1] - 1))
    np.put_along_axis(targets, labels[:, None], 1 - smoothing, axis=1)
    return -(targets * logs).sum(-1)


def test_smoothing_gives_the_others_their_share():
    rng = np.random.default_rng(0)
    hidden, kernel, labels = rng.normal(size=(5, 3)), rng.normal(size=(3, 7)), rng.integers(0, 7, 5)
    given = (hidden.astype("float32"), kernel.astype("float32"), np.zeros(7, "float32"), labels)
    for smoothing in (0.0, 0.3):
        found = numpy_of(cross_entropy(*given, label_smoothing=smoothing))
        np.testing.assert_allclose(found, smoothed(hidden @ kernel, labels, smoothing), rtol=1e-5)


def reference_step(model, batch: dict[str, np.ndarray], *, by_token: bool) -> float:
    """One step by big_vision's or transformers' mean, gradients clipped to a norm of 1; returns the loss."""
    import torch

    inputs = reference_inputs(batch, pictures=1)
    labels = inputs.pop("labels")[:, 1:]
    logs = torch.log_softmax(model(**inputs).logits[:, :-1].float(), -1)
    target = labels.clamp(min=0)[..., None]
    at_label = logs.gather(-1, target)[..., 0]
    others = (logs.sum(-1) - at_label) / (logs.shape[-1] - 1)
    losses = -((1 - SMOOTHING) * at_label + SMOOTHING * others)
    counted = (labels >= 0).float()
    sums, counts = (losses * counted).sum(1), counted.sum(1)
    loss = sums.sum() / counts.sum() if by_token else (sums / counts).mean()
    weights = list(model.parameters())
    gradients = torch.autograd.grad(loss, weights)
    norm = torch.sqrt(sum((g**2).sum() for g in gradients))
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients, strict=True):
            weight -= RATE * gradient * min(1.0, CLIP / norm)
    return loss.item()


@ABOVE_THE_BACKENDS
@pytest.mark.parametrize("by_token", [False, True])
def test_steps_are_those_of_the_reference(tmp_path, by_token):
    """Two micro-batches by token, whose denominators are the batch's."""
    pytest.importorskip("transformers", reason="the optional package transformers is not installed")
    reference = build_reference("gemma2", pictures=1, seed=0)
    save_reference(reference, tmp_path)
    ours = PaliGemma.from_preset(tmp_path)
    student = Student(ours.config)
    values = {weight.path: weight.value for weight in ours.weights}
    for weight in student.weights:
        weight.assign(values[weight.path])
    term = Suffix(label_smoothing=SMOOTHING, by_token=by_token)
    step = backends.train_step(
        student, Objective({"suffix": term}), SGD(RATE, momentum=0.0), clip_norm=CLIP, micro_batches=1 + by_token
    )
    for number in range(STEPS):
        batch = draw_batch(pictures=1, seed=number)
        pixels = np.random.default_rng(number).integers(0, 256, batch.pop("images").shape).astype(np.uint8)
        weights = batch.pop("weights").astype(np.float32)
        expected = reference_step(
            reference, {**batch, "weights": weights > 0, "images": pixels / np.float32(127.5) - 1}, by_token=by_token
        )
        logs = step({**batch, "image": pixels, "token_weights": weights})
        assert float(numpy_of(logs["loss"])) == pytest.approx(expected, rel=2e-5), number
    changed = batch["token_ids"].copy()
    changed[:, 1] = 7  # within each prompt; the reference has been moved as far as ours
    again = {**batch, "token_ids": changed, "weights": weights > 0, "images": pixels / np.float32(127.5) - 1}
    logs = step({**batch, "token_ids": changed, "image": pixels, "token_weights": weights})
    assert float(numpy_of(logs["loss"])) == pytest.approx(reference_step(reference, again, by_token=by_token), rel=2e-5)
