"""The classification term in a step: its loss, mixup, and the weights of transformers and torch after it."""

from functools import partial

import numpy as np
import pytest

from diptych import backends
from diptych.core.training.objectives import Objective, Seen
from diptych.core.training.optimizers import AdamW
from diptych.engine.training.terms.classification import Classification
from diptych.models import ImageClassifier
from diptych.models.weights import transformers_classifier
from tests.memory_weights import MemoryWeights
from tests.models.classifier.test_classifier import ON_JAX, drawn, weights
from tests.models.examples import forward, numpy_of

RATE, BETA_2 = 1e-3, 0.95
EPSILON = 1e-4
"""The bias of the keys has no gradient but that of rounding, which a smaller one would blow up to whole steps."""


def batch(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (6, 12, 12, 3), dtype=np.uint8)
    return {"image": images, "label": rng.integers(0, 3, 6).astype("int32")}


def logits_of(model: ImageClassifier, images: np.ndarray) -> np.ndarray:
    return numpy_of(forward(model, {"images": images})).astype(np.float64)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]


def test_mixup_mixes_pictures_and_the_losses_of_their_classes():
    model, given, share = drawn(), batch(0), 0.7
    given["mixup"] = np.full(6, share, "float32")
    term = Classification()
    embedded = term.embed(Seen(partial(_called, model), given))
    images = given["image"].astype(np.float32) / 127.5 - 1
    logits = logits_of(model, (share * images + (1 - share) * np.roll(images, 1, axis=0)).astype("float32"))
    own, other = (cross_entropy(logits, labels) for labels in (given["label"], np.roll(given["label"], 1)))
    np.testing.assert_allclose(numpy_of(embedded["losses"]), share * own + (1 - share) * other, rtol=2e-5)
    assert term.independent


def _called(model, inputs, training=False):
    return forward(model, inputs)


@ON_JAX
def test_three_steps_in_pieces_give_the_weights_of_transformers_and_torch(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch = pytest.importorskip("torch", reason="transformers needs torch, which is not installed")
    model = drawn()
    model.save_to_preset(tmp_path, format="transformers")
    optimizer = AdamW(RATE, beta_2=BETA_2, epsilon=EPSILON)
    step = backends.train_step(model, Objective({"classification": Classification()}), optimizer, micro_batches=2)
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path, attn_implementation="eager")
    adam = torch.optim.AdamW(theirs.parameters(), lr=RATE, betas=(0.9, BETA_2), eps=EPSILON, weight_decay=0.0)
    losses = []
    for number in range(3):
        given = batch(number)
        ours = float(numpy_of(step(dict(given))["loss"]))
        images = torch.from_numpy((given["image"].astype(np.float32) / 127.5 - 1).transpose(0, 3, 1, 2).copy())
        adam.zero_grad()
        loss = theirs(pixel_values=images, labels=torch.from_numpy(given["label"].astype("int64"))).loss
        loss.backward()
        adam.step()
        losses.append((ours, float(loss.detach())))
    step.synchronize()
    np.testing.assert_allclose(*np.transpose(losses), rtol=1e-5)
    state = {name: value.detach().numpy() for name, value in theirs.state_dict().items()}
    expected = dict(transformers_classifier.table(model.config).load(MemoryWeights(state)))
    before = weights(drawn())["classifier/kernel"]
    for path, value in weights(model).items():
        np.testing.assert_allclose(value, expected[path], rtol=0, atol=1e-5, err_msg=path)
    assert np.abs(before - expected["classifier/kernel"]).max() > 2 * RATE
