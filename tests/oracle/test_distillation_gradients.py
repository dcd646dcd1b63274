"""The oracle of self-distillation and masked prediction: gradients by finite differences, Pillow's resize."""

import numpy as np
import pytest
from PIL import Image

from tests.oracle.distillation import (
    LAST_KERNEL,
    distillation_loss,
    encode,
    exact_gelu,
    from_features,
    head,
    mean_distillation,
    resize_matrix,
    sinkhorn_knopp,
    unit_columns,
)
from tests.oracle.finite_differences import check_gradient
from tests.oracle.parameters import Parameters
from tests.oracle.siglip import weight_shapes

RNG = np.random.default_rng(0)
TEACHER, CENTRE = RNG.normal(size=(3, 1, 7)), RNG.normal(size=7)
VISION = {"width": 6, "depth": 1, "mlp_dim": 7, "num_heads": 2, "patch_size": 2, "image_size": 6}
TEXT = {"width": 4, "depth": 0, "mlp_dim": 1, "num_heads": 1, "vocab_size": 1, "context_length": 1, "pooling": "last"}


def check(function, point, rng, *, wrong=None):
    """Gradients of Σ dy · y; `wrong` changes them first."""
    y, backward = function(**point)
    dy = rng.normal(size=y.shape)
    gradients = backward(dy)
    gradients = dict(zip(point, gradients if isinstance(gradients, tuple) else (gradients,), strict=True))
    check_gradient(
        lambda at: float(np.sum(dy * function(**at)[0])),
        point,
        wrong(gradients) if wrong else gradients,
        rng,
        entries=6,
    )


@pytest.mark.parametrize("temperatures", [{}, {"student_temperature": 0.7, "teacher_temperature": 0.2}])
@pytest.mark.parametrize("loss", [distillation_loss, mean_distillation])
def test_gradient_of_the_losses(loss, temperatures):
    check(
        lambda student: loss(student, TEACHER, CENTRE, **temperatures),
        {"student": 0.3 * RNG.normal(size=(3, 4, 7))},
        np.random.default_rng(1),
    )


def test_gradient_through_features_and_prototypes():
    teacher, last = RNG.normal(size=(3, 1, 5)), RNG.normal(size=(5, 7))
    check(
        lambda features, prototypes: from_features(mean_distillation, features, teacher, prototypes, last, CENTRE),
        {"features": 0.2 * RNG.normal(size=(3, 4, 5)), "prototypes": 0.3 * RNG.normal(size=(5, 7))},
        np.random.default_rng(2),
    )


def test_gradient_of_the_heads_parts():
    check(lambda x: exact_gelu(x), {"x": RNG.normal(size=(3, 5))}, np.random.default_rng(3))
    check(lambda kernel: unit_columns(kernel), {"kernel": RNG.normal(size=(4, 6))}, np.random.default_rng(4))


@pytest.mark.parametrize("layers", [1, 3])
def test_gradient_of_the_head(layers):
    widths = [6, *[5] * (layers - 1), 4]
    weights = {LAST_KERNEL: RNG.normal(size=(4, 7))}
    for index, shape in enumerate(zip(widths, widths[1:], strict=False)):
        weights |= {f"layer_{index}_kernel": RNG.normal(size=shape), f"layer_{index}_bias": RNG.normal(size=shape[1])}
    point = {"x": RNG.normal(size=(2, 3, 6))} | weights
    dy = RNG.normal(size=(2, 3, 7))

    def run(at):
        parameters = Parameters({name: value for name, value in at.items() if name != "x"})
        return parameters, head(at["x"], parameters, layers=layers)

    parameters, (_, backward) = run(point)
    gradients = {"x": backward(dy)} | parameters.gradients
    check_gradient(lambda at: float(np.sum(dy * run(at)[1][0])), point, gradients, np.random.default_rng(5))


@pytest.mark.parametrize("size", [4, 6, 10])
@pytest.mark.parametrize("pooling", ["map", "gap", "cls"])
def test_gradient_of_an_encoded_image(pooling, size):
    config = VISION | {"pooling": pooling, "embed_dim": 5 if pooling == "gap" else None}
    shapes = weight_shapes({"vision": config, "text": TEXT})
    point = {
        path.removeprefix("image/"): 0.5 * RNG.normal(size=shape)
        for path, shape in shapes.items()
        if path.startswith("image/")
    }
    point["mask_token"] = RNG.normal(size=6)
    grid = size // 2
    images, masked = RNG.uniform(-1, 1, (2, size, size, 3)), RNG.random((2, grid * grid)) < 0.5
    dpooled = RNG.normal(size=(2, config["embed_dim"] or 6))
    dtokens = RNG.normal(size=(2, grid * grid + (pooling == "cls"), 6))

    def run(at):
        parameters = Parameters({name: value for name, value in at.items() if name != "mask_token"})
        return parameters, encode(images, parameters, config, mask_token=at["mask_token"], masked=masked)

    def value(at):
        pooled, tokens = run(at)[1][0]
        return float(np.sum(dpooled * pooled) + np.sum(dtokens * tokens))

    parameters, (_, backward) = run(point)
    mask_gradient = backward(dpooled, dtokens)
    check_gradient(value, point, {"mask_token": mask_gradient} | parameters.gradients, np.random.default_rng(6))


@pytest.mark.parametrize(("old", "new"), [(3, 3), (3, 5), (7, 2), (5, 4), (1, 4)])
def test_positions_are_resized_as_pillow_resizes_a_picture(old, new):
    table = RNG.uniform(-1, 1, (old, old)).astype(np.float32)
    expected = np.asarray(Image.fromarray(table).resize((new, new), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(resize_matrix(old, new) @ table.ravel(), expected.ravel(), atol=1e-6)


def test_sinkhorn_knopp_tends_to_even_use_of_the_prototypes():
    q = sinkhorn_knopp(0.1 * RNG.normal(size=(6, 4)), iterations=200)
    np.testing.assert_allclose(q.sum(0), 6 / 4)
    np.testing.assert_allclose(q.sum(1), 1)


@pytest.mark.parametrize("factor", [0.0, -1.0, np.nan, 1.001, 0.1])
def test_differences_refuse_a_wrong_gradient(factor):
    with pytest.raises(AssertionError):
        check(
            lambda student: mean_distillation(student, TEACHER, CENTRE),
            {"student": 0.3 * RNG.normal(size=(3, 4, 7))},
            np.random.default_rng(1),
            wrong=lambda gradients: {name: factor * value for name, value in gradients.items()},
        )
