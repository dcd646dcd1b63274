"""Self-distillation and masked prediction: every backend's values and gradients are the oracle's."""

import math

import numpy as np
import pytest

from tests.agreement.compare import check_values
from tests.oracle import distillation as oracle
from tests.oracle.nudging import conditions_of
from tests.oracle.parameters import Parameters
from tests.oracle.siglip import weight_shapes
from tests.tolerances import HEADROOM, LIMITS, UNIT_ROUNDOFF

SIDE = "tests.agreement.distillation_side"
TEMPERATURES = {"student_temperature": 0.1, "teacher_temperature": 0.04}
TEXT = {"width": 4, "depth": 0, "mlp_dim": 1, "num_heads": 1, "vocab_size": 1, "context_length": 1, "pooling": "last"}


def ask(pool, part, point, *, data=None, cotangents, **settings):
    arguments = {"part": part, "point": point, "data": data or {}, "cotangents": cotangents, "settings": settings}
    return pool.ask("call", module=SIDE, function="evaluate", arguments=arguments)


def judged(answer, point, length):
    """What the oracle says of a point, and how far off each may be: u sqrt(length) · condition, as everywhere."""
    base = HEADROOM * UNIT_ROUNDOFF["float32"] * math.sqrt(length)
    limits = LIMITS["float32"]
    allowed = {
        name: min(base * max(1.0, condition), limits.gradient if name.startswith("d ") else limits.output)
        for name, condition in conditions_of(answer, point).items()
    }
    return answer(point), allowed


def named(reply):
    return dict(reply["outputs"]) | {f"d {name}": x for name, x in reply["gradients"].items()}


def check(pool, part, answer, point, length, **request):
    expected, allowed = judged(answer, {name: x.astype(np.float64) for name, x in point.items()}, length)
    replies = ask(pool, part, point, **request)
    for backend, reply in replies.items():
        assert reply["sparse"] == []
        check_values(named(reply), expected, allowed, who=f"{backend}, {part}")
    return expected, allowed


def draw(rng, **shapes):
    return {name: (size * rng.normal(size=shape)).astype(np.float32) for name, (size, *shape) in shapes.items()}


def loss_problem(part, seed):
    """(point, oracle's answer, length of the sums, request)."""
    rng, temperatures = np.random.default_rng(seed), TEMPERATURES
    n, views, outputs, width = (3, 4, 70, 12) if seed % 2 else (5, 2, 33, 8)
    cotangent = rng.normal(size=n).astype(np.float32)
    request = {"cotangents": {"loss": cotangent}, **temperatures}
    teacher_rows = (views,) if "patches" in part else ()
    if not part.startswith("chunked"):
        point = draw(
            rng, student=(0.3, n, views, outputs), teacher=(0.1, n, *teacher_rows, outputs), centre=(0.1, outputs)
        )
    else:
        point = draw(
            rng, student=(0.3, n, views, width), teacher=(0.1, n, *teacher_rows, width),
            prototypes=(0.3, width, outputs),
            teacher_prototypes=(0.3, width, outputs), centre=(0.1, outputs),
        )  # fmt: skip
        request |= {"rows_per_chunk": 2}

    def answer(at, keep=1.0, student_temperature=temperatures["student_temperature"]):
        teacher = at["teacher"] if teacher_rows else at["teacher"][:, None]
        settings = temperatures | {"student_temperature": student_temperature}
        zeros = {f"d {name}": np.zeros_like(x) for name, x in at.items()}
        if "prototypes" not in at:
            loss, backward = oracle.mean_distillation(at["student"], teacher, keep * at["centre"], **settings)
            return {"loss": loss} | zeros | {"d student": backward(cotangent)}
        loss, backward = oracle.from_features(
            oracle.mean_distillation, at["student"], teacher, at["prototypes"], at["teacher_prototypes"],
            keep * at["centre"], **settings,
        )  # fmt: skip
        student, prototypes = backward(cotangent)
        return {"loss": loss} | zeros | {"d student": student, "d prototypes": prototypes}

    return point, answer, 4 * outputs + 2 * width + views, request


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("part", ["patches", "views", "chunked views", "chunked patches"])
def test_losses_and_their_gradients_agree(pool, part, seed):
    point, answer, length, request = loss_problem(part, seed)
    check(pool, part, answer, point, length, **request)


WRONG = {
    "zeros": lambda answer, at: {name: 0 * x for name, x in answer(at).items()},
    "not a number": lambda answer, at: {name: x * np.nan for name, x in answer(at).items()},
    "a flipped gradient": lambda answer, at: answer(at) | {"d student": -answer(at)["d student"]},
    "no centre": lambda answer, at: answer(at, keep=0.0),
    "another temperature": lambda answer, at: answer(at, student_temperature=0.1001),
    "a teacher that learns": lambda answer, at: answer(at) | {"d teacher": 1e-6 * np.ones_like(at["teacher"])},
    "a sum over views": lambda answer, at: {name: 2 * x for name, x in answer(at).items()},
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("part", ["patches", "chunked views"])
def test_wrong_losses_are_noticed(part, wrong):
    point, answer, length, _ = loss_problem(part, 1)
    point = {name: x.astype(np.float64) for name, x in point.items()}
    expected, allowed = judged(answer, point, length)
    rounded = {name: np.asarray(x, np.float32) for name, x in expected.items()}
    check_values(rounded, expected, allowed, who="the oracle")
    with pytest.raises(AssertionError, match="relative error"):
        check_values(WRONG[wrong](answer, point), expected, allowed, who=wrong)


HEAD = {"hidden": 24, "bottleneck": 12, "outputs": 40, "layers": 3}


def head_problem(seed, layers):
    rng = np.random.default_rng(seed)
    widths = [10, *[HEAD["hidden"]] * (layers - 1), HEAD["bottleneck"]]
    shapes = {}
    for index in range(layers):
        shapes[f"layer_{index}_kernel"] = (0.4, widths[index], widths[index + 1])
        shapes[f"layer_{index}_bias"] = (0.4, widths[index + 1])
    shapes |= {"prototype_kernel": (0.02, widths[-1], HEAD["outputs"]), "x": (1.0, 3, 2, 10)}
    point = draw(rng, **shapes)
    sizes = {"logits": (3, 2, 40), "features": (3, 2, 12), "prototypes": (12, 40)}
    cotangents = draw(rng, **{name: (1.0, *shape) for name, shape in sizes.items()})

    def answer(at):
        parameters = Parameters({name: x for name, x in at.items() if name != "x"})
        logits, backward = oracle.head(at["x"], parameters, layers=layers)
        features, backward_features = oracle.head_features(at["x"], parameters, layers=layers)
        prototypes, backward_prototypes = oracle.unit_columns(at["prototype_kernel"])
        dx = backward(cotangents["logits"]) + backward_features(cotangents["features"])
        parameters.add("prototype_kernel", backward_prototypes(cotangents["prototypes"]))
        outputs = {"logits": logits, "features": features, "prototypes": prototypes}
        return outputs | {f"d {name}": x for name, x in parameters.gradients.items()} | {"d x": dx}

    return point, answer, 3 * sum(widths) + 2 * HEAD["outputs"], {"cotangents": cotangents, **HEAD, "layers": layers}


@pytest.mark.parametrize("layers", [1, 3])
def test_the_head_agrees(pool, layers):
    point, answer, length, request = head_problem(3, layers)
    expected, allowed = check(pool, "head", answer, point, length, **request)
    wrong = expected | {"d prototype_kernel": expected["d prototype_kernel"] * 50}  # without the norm's derivative
    with pytest.raises(AssertionError, match="d prototype_kernel"):
        check_values(wrong, expected, allowed, who="no norm")


ENCODED = {
    "its own size, map": ({"pooling": "map"}, 12, False),
    "smaller, map, rematerialized": ({"pooling": "map"}, 8, True),
    "larger, gap, projected": ({"pooling": "gap", "embed_dim": 7}, 20, False),
    "smaller, cls": ({"pooling": "cls"}, 8, False),
}


def encode_problem(name):
    changes, size, rematerialize = ENCODED[name]
    config = {
        "width": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2, "patch_size": 4, "image_size": 12, "embed_dim": None,
    } | changes  # fmt: skip
    rng, grid = np.random.default_rng(len(name)), size // 4
    paths = weight_shapes({"vision": config, "text": TEXT})
    point = draw(rng, **{path[6:]: (0.3, *shape) for path, shape in paths.items() if path.startswith("image/")})
    for path in point:
        if path.endswith("scale"):
            point[path] += 1
    point |= draw(rng, mask_token=(0.5, 16))
    masked = np.stack([rng.permutation(grid * grid) < grid * grid // 2 for _ in range(3)])
    data = {"images": rng.uniform(-1, 1, (3, size, size, 3)).astype(np.float32), "masked": masked}
    length = grid * grid + (config["pooling"] == "cls")
    cotangents = draw(rng, pooled=(1.0, 3, config["embed_dim"] or 16), tokens=(1.0, 3, length, 16))

    def answer(at, masked=masked):
        parameters = Parameters({name: x for name, x in at.items() if name != "mask_token"})
        (pooled, tokens), backward = oracle.encode(
            data["images"].astype(np.float64), parameters, config, mask_token=at["mask_token"], masked=masked
        )
        mask_gradient = backward(cotangents["pooled"], cotangents["tokens"])
        gradients = parameters.gradients | {"mask_token": mask_gradient}
        return {"pooled": pooled, "tokens": tokens} | {f"d {name}": x for name, x in gradients.items()}

    sums = 48 + 3 * (5 * 16 + 24 + 2 * length) + 9 + 32
    return (
        point,
        answer,
        sums,
        {"data": data, "cotangents": cotangents, "config": config, "rematerialize": rematerialize},
    )


@pytest.mark.parametrize("name", ENCODED)
def test_encoding_with_hidden_patches_agrees_at_every_size(pool, name):
    point, answer, length, request = encode_problem(name)
    expected, allowed = check(pool, "encode", answer, point, length, **request)
    exact = {path: x.astype(np.float64) for path, x in point.items()}
    for wrong in (answer(exact, masked=~request["data"]["masked"]), answer(exact, masked=None)):
        with pytest.raises(AssertionError, match="d mask_token"):
            check_values(wrong, expected, allowed, who="another mask")


def test_the_centre_follows_the_teacher_on_every_backend(pool):
    rng, momentum = np.random.default_rng(5), 0.9
    features = [rng.normal(size=(6, 3, 8)).astype(np.float32) for _ in range(10)]
    prototypes, centre = rng.normal(size=(8, 30)).astype(np.float32), np.zeros(30, np.float32)
    expected = [centre.astype(np.float64)]
    for batch in features:
        expected.append(oracle.updated_centre(expected[-1], batch.astype(np.float64) @ prototypes, momentum=momentum))
    arguments = {"features": features, "prototypes": prototypes, "centre": centre, "momentum": momentum}
    # Each step adds the roundings of a mean over 18 rows and of a product over 8 features.
    allowed = HEADROOM * UNIT_ROUNDOFF["float32"] * math.sqrt(18 + 8 + 10) * max(map(np.linalg.norm, expected))
    for backend, got in pool.ask("call", module=SIDE, function="follow_centre", arguments=arguments).items():
        assert got.shape == (10, 30)
        for step, (one, other) in enumerate(zip(got, expected[1:], strict=True)):
            assert np.linalg.norm(one - other) <= allowed, f"{backend}, step {step}"
    late = expected[:-1]  # a centre that is updated one step late
    assert max(np.linalg.norm(one - other) for one, other in zip(late, expected[1:], strict=True)) > 100 * allowed
