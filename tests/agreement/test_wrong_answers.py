"""The checkers accept the oracle's own answer in float32 and refuse wrong ones."""

import math

import numpy as np
import pytest

from tests.agreement.compare import check_answer, check_training
from tests.agreement.oracle_side import answer_and_tolerances, trajectory
from tests.agreement.test_training import CONFIG, SIMPLE, STEPS, draw_run
from tests.oracle import attention, contrastive, encoder, layer_norm, siglip
from tests.oracle.contrastive import sigmoid, sigmoid_loss
from tests.oracle.examples import draw_problem
from tests.oracle.optimizers import AdamW
from tests.oracle.siglip import LOG_LOGIT_SCALE, LOGIT_BIAS
from tests.tolerances import LIMITS

TABLE = "text/token_embedding/embedding"
KERNEL = "image/encoder/block_00/attention/qkv_kernel"


def as_reply(named: dict) -> dict:
    """An oracle's answer in the form and precision of a worker's."""
    values = {name: np.asarray(value, np.float32) for name, value in named.items()}
    gradients = {name: value for name, value in values.items() if "/" in name}
    return {name: value for name, value in values.items() if "/" not in name} | {"gradients": gradients, "sparse": []}


@pytest.fixture(scope="module")
def problem():
    return draw_problem(CONFIG, batch_size=8, logit_scale=10.0, seed=1, share=0.65, captions=2)


def without_negatives(image, text, *, logit_scale, logit_bias):
    count = len(image)
    cosines = np.sum(image * text, axis=1)
    dlogits = -sigmoid(-logit_scale * cosines - logit_bias)[:, None] / count
    gradients = (logit_scale * dlogits * text, logit_scale * dlogits * image, np.sum(dlogits[:, 0] * cosines))
    return np.logaddexp(0, -logit_scale * cosines - logit_bias).mean(), (*gradients, dlogits.sum())


def per_pair(image, text, **scalars):
    loss, gradients = sigmoid_loss(image, text, **scalars)
    return loss / len(image), tuple(gradient / len(image) for gradient in gradients)


def neighbours_paired(image, text, **scalars):
    loss, (dimage, dtext, *others) = sigmoid_loss(image, np.roll(text, 1, axis=0), **scalars)
    return loss, (dimage, np.roll(dtext, -1, axis=0), *others)


def gelu_by_error_function(x):
    phi = 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    return x * phi, lambda dy: dy * (phi + x * np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi))


def causal_softmax(x, softmax=attention.softmax):
    mask = np.triu(np.ones(x.shape[-2:], bool), 1) if x.shape[-1] == x.shape[-2] else np.zeros(x.shape[-2:], bool)
    return softmax(np.where(mask, -1e30, x))


# What is replaced in the oracle, to make a model that is almost right.
OTHER_MODELS = {
    "negatives dropped": (siglip.LOSSES, "sigmoid", without_negatives),
    "divided by pairs": (siglip.LOSSES, "sigmoid", per_pair),
    "rows of neighbours paired": (siglip.LOSSES, "sigmoid", neighbours_paired),
    "GELU by the error function": (vars(encoder), "gelu", gelu_by_error_function),
    "epsilon of Keras's own layer norm": (vars(layer_norm), "EPSILON", 1e-3),
    "a causal mask": (vars(attention), "softmax", causal_softmax),
    "embeddings left as they are": (vars(siglip), "normalize", lambda x: (x, lambda dy: dy)),
    "normalisation without its gradient": (
        vars(siglip),
        "normalize",
        lambda x: (contrastive.normalize(x)[0], lambda dy: dy / np.linalg.norm(x, axis=-1, keepdims=True)),
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_the_right_answer_is_accepted(problem, dtype):
    for loss in ("sigmoid", "softmax"):
        expected, allowed = answer_and_tolerances(CONFIG, *problem, loss=loss, dtype=dtype)
        check_answer(as_reply(expected), expected, allowed, who="the oracle")


@pytest.mark.parametrize("name", OTHER_MODELS)
def test_another_model_is_refused(problem, monkeypatch, name):
    expected, allowed = answer_and_tolerances(CONFIG, *problem, loss="sigmoid", dtype="float32")
    monkeypatch.setitem(*OTHER_MODELS[name])
    other = siglip.siglip(CONFIG, *problem).named()
    with pytest.raises(AssertionError, match="relative error"):
        check_answer(as_reply(other), expected, allowed, who=name)


def _zeros(reply):
    reply["gradients"] = {path: np.zeros_like(value) for path, value in reply["gradients"].items()}


def _flipped(reply):
    reply["gradients"] = {path: -value for path, value in reply["gradients"].items()}


def _without(path):
    def change(reply):
        reply["gradients"][path] = np.zeros_like(reply["gradients"][path])

    return change


def _not_a_number(reply):
    reply["gradients"][KERNEL][3, 5] = np.nan


def _output_not_a_number(reply):
    reply["image_embedding"][0, 0] = np.nan


def _loss_not_a_number(reply):
    reply["loss"] = np.float32(np.nan)


def _missing(reply):
    del reply["gradients"][LOGIT_BIAS]


def _unknown(reply):
    reply["gradients"]["image/encoder/block_01/mlp/in_bias"] = np.zeros(33, np.float32)


def _broadcast(reply):
    reply["text_embedding"] = reply["text_embedding"][:, :, None]


def _sparse(reply):
    reply["sparse"] = [TABLE]


GROSS = [
    _zeros,
    _flipped,
    _not_a_number,
    _output_not_a_number,
    _loss_not_a_number,
    _missing,
    _unknown,
    _broadcast,
    _sparse,
]
GROSS += [_without(LOG_LOGIT_SCALE), _without(LOGIT_BIAS), _without(KERNEL), _without(TABLE)]


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("change", GROSS)
def test_a_wrong_answer_is_refused(problem, change, dtype):
    expected, allowed = answer_and_tolerances(CONFIG, *problem, loss="sigmoid", dtype=dtype)
    reply = as_reply(expected)
    change(reply)
    with pytest.raises(AssertionError):
        check_answer(reply, expected, allowed, who="a wrong one")


def test_a_lost_row_of_a_table_is_refused(problem):
    expected, allowed = answer_and_tolerances(CONFIG, *problem, loss="sigmoid", dtype="float32")
    reply = as_reply(expected)
    row = np.argmax(np.abs(reply["gradients"][TABLE]).sum(1) > 0)
    reply["gradients"][TABLE][row] = 0
    with pytest.raises(AssertionError, match=TABLE):
        check_answer(reply, expected, allowed, who="a lost row")


def test_dropped_negatives_are_refused_in_bfloat16(problem, monkeypatch):
    expected, allowed = answer_and_tolerances(CONFIG, *problem, loss="sigmoid", dtype="mixed_bfloat16")
    monkeypatch.setitem(siglip.LOSSES, "sigmoid", without_negatives)
    with pytest.raises(AssertionError, match="relative error"):
        check_answer(as_reply(siglip.siglip(CONFIG, *problem).named()), expected, allowed, who="without negatives")


class LazyAdamW(AdamW):
    """Leaves the rows of a batch's absent tokens alone, as sparse updates do."""

    def direction(self, gradient, state):
        return np.where(gradient == 0, 0.0, super().direction(gradient, state))


class LateAdamW(AdamW):
    """Moves tables one step late."""

    def direction(self, gradient, state):
        now = super().direction(gradient, state)
        if gradient.shape != (CONFIG["text"]["vocab_size"], CONFIG["text"]["width"]):
            return now
        late, state["late"] = state.get("late", np.zeros_like(now)), now
        return late


class UncorrectedAdamW(AdamW):
    """Forgets the bias corrections."""

    def direction(self, gradient, state):
        super().direction(gradient, state)
        return state["m"] / (np.sqrt(state["v"]) + self.epsilon)


class DecayedEverywhere(AdamW):
    """Decays biases, norms and embeddings, too."""

    def step(self, weights, gradients, *, schedule=1.0):
        self.decay_share = lambda path: 1.0
        return super().step(weights, gradients, schedule=schedule)


class LateSchedule(AdamW):
    """Asks the schedule one step too early."""

    def step(self, weights, gradients, *, schedule=1.0):
        before, self.before = getattr(self, "before", 0.0), schedule
        return super().step(weights, gradients, schedule=before)


ADAMW = {
    "name": "adamw",
    "learning_rate": {
        "name": "cosine",
        "learning_rate": 1e-3,
        "batch_size": 8,
        "total_examples": 240,
        "warmup_examples": 0,
    },
    "weight_decay": 1e-2,
}
TRAINING = {
    "optimizer": ADAMW,
    "loss": "sigmoid",
    "dtype": "float32",
    "clip_norm": 0.5,
    "ema_decay": 0.9,
    "keep": (1, STEPS),
}


@pytest.fixture(scope="module")
def right_run():
    weights, batches = draw_run(CONFIG, SIMPLE)
    return weights, batches, trajectory(CONFIG, weights, batches, **TRAINING)


def as_training_reply(run, **changes) -> dict:
    def rounded(weights):
        return {path: value.astype(np.float32) for path, value in weights.items()}

    logs = [
        {"loss": np.float32(loss), "gradient_norm": np.float32(norm), "finite": 1.0}
        for loss, norm in zip(run.losses, run.gradient_norms, strict=True)
    ]
    weights = {step: rounded(values) for step, values in run.weights.items()}
    return {"logs": logs, "weights": weights, "averages": rounded(run.averages)} | changes


def test_the_right_run_is_accepted(right_run):
    *_, run = right_run
    check_training(as_training_reply(run), run, LIMITS["float32"], who="the oracle")


@pytest.mark.parametrize("kind", [LazyAdamW, LateAdamW, UncorrectedAdamW, DecayedEverywhere, LateSchedule])
def test_another_optimizer_is_refused(right_run, kind):
    weights, batches, run = right_run
    other = trajectory(CONFIG, weights, batches, kind=kind, **TRAINING)
    reply = as_training_reply(other, logs=as_training_reply(run)["logs"])
    with pytest.raises(AssertionError, match="entries off"):
        check_training(reply, run, LIMITS["float32"], who=kind.__name__)


@pytest.mark.parametrize("change", [{"clip_norm": None}, {"ema_decay": 0.91}, {"loss": "softmax"}])
def test_another_training_is_refused(right_run, change):
    weights, batches, run = right_run
    other = trajectory(CONFIG, weights, batches, **TRAINING | change)
    with pytest.raises(AssertionError):
        check_training(as_training_reply(other), run, LIMITS["float32"], who=str(change))


def test_the_losses_of_another_rate_are_refused_where_signs_may_flip(right_run):
    """What flipped signs may change of a loss does not excuse a rate that is off by a hundredth."""
    weights, batches, _ = right_run
    lion = TRAINING | {"optimizer": {"name": "lion", "learning_rate": 1e-4}, "clip_norm": None, "ema_decay": None}
    run = trajectory(CONFIG, weights, batches, **lion)
    check_training(as_training_reply(run), run, LIMITS["float32"], who="the oracle")
    other = trajectory(CONFIG, weights, batches, **lion | {"optimizer": {"name": "lion", "learning_rate": 1.01e-4}})
    with pytest.raises(AssertionError, match="losses: off"):
        check_training(as_training_reply(other), run, LIMITS["float32"], who="another rate")


def test_an_average_taken_before_the_update_is_refused(right_run):
    *_, run = right_run
    late = {path: (value - 0.1 * run.weights[STEPS][path]) / 0.9 for path, value in run.averages.items()}
    with pytest.raises(AssertionError, match="moving average"):
        check_training(as_training_reply(run, averages=late), run, LIMITS["float32"], who="a late average")


def test_a_skipped_step_is_refused(right_run):
    *_, run = right_run
    reply = as_training_reply(run)
    reply["logs"][3]["finite"] = 0.0
    with pytest.raises(AssertionError, match="skipped"):
        check_training(reply, run, LIMITS["float32"], who="a skipping one")
