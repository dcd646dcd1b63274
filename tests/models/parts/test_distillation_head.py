"""The distillation head: cosines with unit prototypes, DINO's initialisation, names and saving of weights."""

import keras
import numpy as np
import pytest
from keras import ops

from diptych.core.training.optimizers import KERNELS
from diptych.core.training.patterns import matching
from diptych.models.parts.distillation_head import DistillationHead
from tests.models.examples import forward, numpy_of, value_and_gradients
from tests.oracle.distillation import head as oracle_head
from tests.oracle.parameters import Parameters

X = np.random.default_rng(0).normal(size=(3, 4, 10)).astype("float32")
SIZES = {"hidden": 12, "bottleneck": 6, "outputs": 15}


def built(**settings) -> DistillationHead:
    head = DistillationHead(**SIZES | settings)
    head.build((None, 10))
    return head


def randomize(head, seed=1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    for weight in head.weights:
        weight.assign(rng.normal(0, 0.5, weight.shape))
    return {weight.name: weight.numpy().astype("float64") for weight in head.weights}


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_it_follows_its_formula(layers):
    head = built(layers=layers)
    weights = randomize(head)
    expected, _ = oracle_head(X.astype("float64"), Parameters(weights), layers=layers)
    logits = forward(head, X)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    np.testing.assert_allclose(numpy_of(logits), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(numpy_of(logits)).max() <= 1 + 1e-5


def test_logits_are_features_times_prototypes_of_unit_length():
    head = built()
    randomize(head)
    features, prototypes = numpy_of(head.features(X)), numpy_of(head.prototypes())
    assert features.shape == (3, 4, 6)
    assert prototypes.shape == (6, 15)
    np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(prototypes, axis=0), 1, atol=1e-6)
    np.testing.assert_allclose(numpy_of(forward(head, X)), features @ prototypes, atol=1e-6)


def test_the_last_kernels_length_is_of_no_consequence_and_gets_no_gradient():
    head = built()
    randomize(head)
    cotangent = np.random.default_rng(2).normal(size=(3, 4, 15)).astype("float32")
    before = numpy_of(forward(head, X))
    kernel = head.prototype_kernel
    _, (gradient,) = value_and_gradients(lambda: ops.sum(head(X) * ops.convert_to_tensor(cotangent)), [kernel])
    gradient = numpy_of(gradient)
    along = (gradient * kernel.numpy()).sum(0)
    assert np.abs(along).max() < 1e-5 * np.linalg.norm(gradient) * np.linalg.norm(kernel.numpy())
    kernel.assign(kernel.numpy() * np.linspace(0.1, 9, 15, dtype="float32"))
    np.testing.assert_allclose(numpy_of(forward(head, X)), before, atol=1e-6)


def test_a_zero_bottleneck_has_finite_gradients():
    head = built()
    for weight in head.weights:
        if weight is not head.prototype_kernel:
            weight.assign(np.zeros(weight.shape))
    value, gradients = value_and_gradients(lambda: ops.sum(head(X)), head.trainable_variables)
    assert float(value) == 0
    assert all(np.isfinite(numpy_of(gradient)).all() for gradient in gradients)


def test_initial_weights_are_dinos_and_wider_where_fewer_inputs_come_in():
    head = DistillationHead(hidden=64, bottleneck=32, outputs=200, seed="7/teacher")
    head.build((None, 48))
    wider = {"layer_0_kernel": 384 / 48, "layer_1_kernel": 2048 / 64, "layer_2_kernel": 2048 / 64}
    wider |= {"prototype_kernel": 256 / 32}
    for weight in head.weights:
        if weight.name.endswith("bias"):
            assert np.abs(weight.numpy()).max() == 0
        else:
            deviation = 0.02 * wider[weight.name] ** 0.5
            assert weight.numpy().std() == pytest.approx(deviation, rel=0.06)
            assert abs(weight.numpy().mean()) < 0.1 * deviation
    again, other = (DistillationHead(hidden=64, bottleneck=32, outputs=200, seed=seed) for seed in ("7/teacher", "8/x"))
    again.build((None, 48))
    other.build((None, 48))
    assert np.array_equal(head.prototype_kernel.numpy(), again.prototype_kernel.numpy())
    assert not np.array_equal(head.prototype_kernel.numpy(), other.prototype_kernel.numpy())


@pytest.mark.parametrize("width", [384, 768, 1152])
def test_at_the_papers_widths_kernels_are_drawn_as_dinos(width):
    head = DistillationHead(hidden=2048, bottleneck=256, outputs=300)
    head.build((None, width))
    kernels = [weight.numpy() for weight in head.weights if weight.name.endswith("kernel")]
    assert [kernel.std() for kernel in kernels] == pytest.approx([0.02] * 4, rel=0.02)


def test_a_narrow_heads_gradient_is_no_larger_than_a_wide_ones():
    """Features of length one hear a change of a kernel by how short they were before: at 0.02 that is twenty times."""
    sizes = []
    for width, hidden, bottleneck in ((64, 128, 32), (768, 2048, 256)):
        head = DistillationHead(hidden=hidden, bottleneck=bottleneck, outputs=64)
        head.build((None, width))
        x = np.random.default_rng(0).normal(size=(8, width)).astype("float32")
        target = ops.one_hot(np.arange(8), 64)

        def loss(head=head, x=x, target=target):
            cross_entropy = -ops.sum(target * ops.log_softmax(head(ops.convert_to_tensor(x)) / 0.1), axis=-1)
            return ops.mean(cross_entropy)

        _, gradients = value_and_gradients(loss, head.trainable_variables)
        sizes.append(float(np.sqrt(sum(np.sum(numpy_of(gradient) ** 2) for gradient in gradients))))
    assert sizes[0] < 3 * sizes[1]


def test_kernels_decay_and_biases_do_not():
    names = [weight.name for weight in built().weights]
    assert names == [
        *(f"layer_{index}_{kind}" for index in range(3) for kind in ("kernel", "bias")), "prototype_kernel",
    ]  # fmt: skip
    assert [name for name, hit in zip(names, matching(KERNELS, names), strict=True) if hit] == [
        "layer_0_kernel", "layer_1_kernel", "layer_2_kernel", "prototype_kernel",
    ]  # fmt: skip


def test_in_mixed_precision_only_the_product_with_prototypes_stays_in_float32():
    exact, mixed = built(), built(dtype="mixed_bfloat16")
    randomize(exact)
    randomize(mixed)
    logits = forward(mixed, X)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert {keras.backend.standardize_dtype(weight.dtype) for weight in mixed.weights} == {"float32"}
    # The same by either way in, although Keras casts weights only within a call.
    other_way = forward(lambda x: ops.matmul(mixed.features(x), mixed.prototypes()), X)
    np.testing.assert_allclose(numpy_of(logits), numpy_of(other_way), atol=1e-6)
    error = np.abs(numpy_of(logits) - numpy_of(forward(exact, X))).max()
    assert 1e-5 < error < 0.05


def test_it_is_saved_with_its_settings(tmp_path):
    inputs = keras.Input((10,))
    model = keras.Model(inputs, DistillationHead(**SIZES, seed="3/head", name="head")(inputs))
    assert model.output.shape == (None, 15)
    model.save(tmp_path / "head.keras")
    loaded = keras.models.load_model(tmp_path / "head.keras")
    assert loaded.get_layer("head").get_config() == model.get_layer("head").get_config()
    assert [weight.path for weight in loaded.weights] == [weight.path for weight in model.weights]
    np.testing.assert_array_equal(numpy_of(forward(loaded, X[0])), numpy_of(forward(model, X[0])))


@pytest.mark.parametrize("wrong", [{"layers": 0}, {"hidden": 0}, {"outputs": -1}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(ValueError, match="must be 1 or more"):
        DistillationHead(**SIZES | wrong)
