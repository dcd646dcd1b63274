"""BiT's ResNets: timm's and flax's results with the same weights, the published sizes, files that go in and out."""

import math
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from diptych.core.weights.safetensors import read_tensors
from diptych.models import BiTConfig, BiTResNet, ClassifierConfig, ImageClassifier, SigLIP, SigLIPConfig, TextConfig
from diptych.models.abstract import shapes_only
from diptych.models.bit.config import STAGE_DEPTHS
from diptych.models.bit.presets import bit_size
from diptych.models.captioner.config import captioner_config
from diptych.models.classifier.model import classifier_of
from diptych.models.counting import count_flops, count_parameters, count_tower_parameters, estimate_memory
from diptych.models.parts.convolutions import StandardizedConvolution
from diptych.models.parts.norms import GroupNorm
from diptych.models.siglip.adapting import with_pooling
from diptych.models.weights import bit
from tests.marks import ABOVE_THE_BACKENDS
from tests.models.examples import forward, numpy_of, value_and_gradients
from tests.models.operations import operations_of

FOREIGN = Path(__file__).parents[1] / "foreign"
BIG_VISION, TIMM = FOREIGN / "big_vision_bit" / "weights.npz", FOREIGN / "timm_bit"
TINY = BiTConfig(stage_depths=(1, 2), width=8, num_groups=8, image_size=22)
PRE = replace(TINY, pre_activation=True)
CLASSES = tuple(f"LABEL_{number}" for number in range(5))
# Layers, width factor, parameters without a head: big_vision's bit.py, and with 1,000 classes those of the papers.
BACKBONES = {(26, 0.5): 3_496_608, (26, 1): 13_946_176, (50, 1): 23_508_032}
WITH_HEAD = {
    (26, 1): 15_995_176,
    (50, 1): 25_557_032,
    (50, 2): 98_004_072,
    (50, 3): 217_342_120,
    (101, 1): 44_549_160,
    (152, 1): 60_192_808,
    (152, 2): 236_350_568,
    (200, 1): 64_673_832,
}
PRE_WITH_HEAD = {
    (50, 1): 25_549_352,
    (50, 3): 217_319_080,
    (101, 1): 44_541_480,
    (101, 3): 387_934_888,
    (152, 2): 236_335_208,
    (152, 4): 936_533_224,
}


def expected_of(folder: Path) -> dict[str, np.ndarray]:
    return dict(np.load(folder / "expected.npz"))


def read(preset: Path) -> ImageClassifier:
    """A foreign classifier, for pictures of 22 px, of which an .npz file says nothing."""
    model = ImageClassifier.from_preset(preset)
    same = classifier_of(replace(model.config, vision=replace(model.config.vision, image_size=22)))
    for old, new in zip(model.weights, same.weights, strict=True):
        new.assign(numpy_of(old.value).copy())
    return same


@pytest.mark.parametrize("preset", [BIG_VISION, TIMM], ids=["big_vision", "timm"])
def test_it_computes_what_flax_and_timm_do(preset):
    expected = expected_of(preset.parent if preset.is_file() else preset)
    model = read(preset)
    assert replace(model.config.vision, variance_epsilon=1e-10) == (TINY if preset == BIG_VISION else PRE)
    assert model.config.vision.variance_epsilon == (1e-10 if preset == BIG_VISION else 1e-8)
    pooled, logits = forward(lambda x: (model.encoder(x)["pooled"], model({"images": x})), expected["images"])
    np.testing.assert_allclose(numpy_of(pooled), expected["pooled"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(numpy_of(logits), expected["logits"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("preset", [BIG_VISION, TIMM], ids=["big_vision", "timm"])
@ABOVE_THE_BACKENDS
def test_they_get_their_own_weights_back_bit_for_bit(preset, tmp_path, monkeypatch):
    model = ImageClassifier.from_preset(preset)
    assert model.config.classes == CLASSES
    if preset == TIMM:
        with pytest.raises(ValueError, match="timm has BiT with pre-activation in the sizes 50x1"):
            model.save_to_preset(tmp_path, format="timm")
        monkeypatch.setattr(bit, "known_by_timm", lambda vision: "50x1")
        model.save_to_preset(tmp_path, format="timm")
        theirs, ours = read_tensors(TIMM / "model.safetensors"), read_tensors(tmp_path / "model.safetensors")
        assert ImageClassifier.from_preset(tmp_path).config == replace(model.config, classes=CLASSES)
    else:
        model.save_to_preset(tmp_path, format="big_vision")
        theirs, ours = dict(np.load(BIG_VISION)), dict(np.load(tmp_path / "weights.npz"))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name].tobytes() != theirs[name].tobytes()] == []
    assert [name for name in ours if ours[name].shape != theirs[name].shape] == []


@ABOVE_THE_BACKENDS
def test_older_files_and_those_of_the_released_checkpoints_are_read(tmp_path):
    """Norms with four axes and names without `params/`; big_transfer's names, numbered or not."""
    arrays = {name.removeprefix("params/"): value for name, value in np.load(BIG_VISION).items()}
    older = {name: value[None, None, None] if "/gn" in f"/{name}" else value for name, value in arrays.items()}
    np.savez(tmp_path / "older.npz", **older)
    now, before = (ImageClassifier.from_preset(path) for path in (BIG_VISION, tmp_path / "older.npz"))
    for one, other in zip(now.weights, before.weights, strict=True):
        np.testing.assert_array_equal(numpy_of(one.value), numpy_of(other.value))
    model = classifier_of(ClassifierConfig(vision=PRE, classes=CLASSES), seed=3)
    for weight in model.weights:
        weight.assign(np.random.default_rng(len(weight.path)).standard_normal(weight.shape))
    released = {}
    for rule in bit.rules(model.config, bit.RELEASED):
        (weight,) = [weight for weight in model.weights if weight.path == rule.ours[0]]
        name = rule.theirs[0].replace("b/standardized_conv2d", "b/standardized_conv2d_17")
        released[name] = rule.layout.to_theirs([numpy_of(weight.value)], 1)[0]
    assert released["resnet/head/conv2d/kernel"].shape == (1, 1, 64, 5)
    assert released["resnet/block2/unit02/b/standardized_conv2d_17/kernel"].shape == (3, 3, 16, 16)
    np.savez(tmp_path / "BiT-M-R26x1.npz", **released)
    again = ImageClassifier.from_preset(tmp_path / "BiT-M-R26x1.npz")
    assert again.config == replace(model.config, vision=replace(PRE, image_size=224))
    for one, other in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(numpy_of(one.value), numpy_of(other.value))
    del released["resnet/head/conv2d/kernel"], released["resnet/head/conv2d/bias"]
    np.savez(tmp_path / "headless.npz", **released)
    tower = BiTResNet.from_preset(tmp_path / "headless.npz")
    np.testing.assert_array_equal(numpy_of(tower.weights[0].value), numpy_of(model.weights[0].value))
    fresh = ImageClassifier.from_preset(tmp_path / "headless.npz", classes=["a", "b"])
    assert fresh.config.classes == ("a", "b")


def test_published_sizes_have_the_published_numbers_of_parameters():
    def sized(layers, factor, pre_activation=False):
        return bit_size(f"R{layers}x{factor}", pre_activation=pre_activation)

    assert {size: count_tower_parameters(sized(*size)) for size in BACKBONES} == BACKBONES
    for counts, pre_activation in ((WITH_HEAD, False), (PRE_WITH_HEAD, True)):
        found = {}
        for size in counts:
            vision = sized(*size, pre_activation)
            found[size] = count_tower_parameters(vision) + (vision.channels + 1) * 1_000
        assert found == counts
    assert set(STAGE_DEPTHS) == {26, 50, 101, 152, 200}
    for name in ("R34x1", "50x1", "R50", "R50x", "r50x1"):
        with pytest.raises(ValueError, match="written like 'R50x1'"):
            bit_size(name)


@pytest.mark.parametrize("config", [TINY, PRE, replace(PRE, embed_dim=7), replace(bit_size("R26x1"), image_size=64)])
@ABOVE_THE_BACKENDS
def test_the_arithmetic_counts_what_is_built(config):
    with shapes_only():
        tower = BiTResNet(config)
    assert sum(math.prod(weight.shape) for weight in tower.trainable_variables) == count_tower_parameters(config)
    assert not tower.non_trainable_variables  # no statistics that training moves
    assert tower.output["tokens"].shape[1:] == (config.num_patches, config.channels)
    assert tower.output["pooled"].shape[1:] == (config.output_width,)


@pytest.mark.skipif(keras.config.backend() != "torch", reason="torch alone counts the operations of convolutions")
def test_a_forward_pass_does_the_counted_operations():
    config = ClassifierConfig(vision=TINY, classes=CLASSES)
    tower = BiTResNet(TINY)
    counted = operations_of(lambda: tower(keras.ops.zeros((1, 22, 22, 3)))["pooled"])
    assert counted == pytest.approx(count_flops(config, batch_size=1)["image"], rel=0.02)


@ABOVE_THE_BACKENDS
def test_computing_units_again_costs_operations_and_saves_memory_in_the_plan():
    config = ClassifierConfig(vision=bit_size("R50x1"), classes=CLASSES)
    usual, again = (count_flops(config, batch_size=8, rematerialize=answer)["training"] for answer in (False, True))
    assert 1.3 < again / usual < 1.34
    kept, less = (
        estimate_memory(config, batch_size=8, rematerialize=answer)["activations"] for answer in (False, True)
    )
    assert 0.05 < less / kept < 0.5


def test_computing_units_again_gives_the_same_loss_and_gradients():
    config = BiTConfig(stage_depths=(1,), width=4, num_groups=2, image_size=12)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 12, 12, 3)).astype("float32")
    found = []
    for rematerialize in (False, True):
        tower = BiTResNet(config, rematerialize=rematerialize)
        for weight in tower.weights:
            if weight.path.endswith("norm_3/scale"):  # zero at first: nothing behind it would get a gradient
                weight.assign(np.ones(weight.shape))
        found.append(
            value_and_gradients(
                lambda tower=tower: keras.ops.sum(keras.ops.square(tower(images)["pooled"])), tower.trainable_variables
            )
        )
    (value, gradients), (same, others) = found
    np.testing.assert_allclose(numpy_of(value), numpy_of(same), rtol=1e-6)
    for one, other in zip(gradients, others, strict=True):
        scale = np.abs(numpy_of(one)).max()
        assert scale > 0
        np.testing.assert_allclose(numpy_of(one), numpy_of(other), rtol=1e-4, atol=1e-5 * scale)


def test_kernels_are_standardised_over_all_that_an_output_sees():
    """Written out in NumPy, with an epsilon that counts; a kernel of equal numbers has a finite gradient."""
    kernel = np.random.default_rng(1).normal(2, 0.5, (3, 3, 4, 5)).astype("float32")
    centred = kernel - kernel.mean((0, 1, 2))
    for in_root, expected in (
        (False, centred / (centred.std((0, 1, 2)) + 0.3)),
        (True, centred / np.sqrt(centred.var((0, 1, 2)) + 0.3)),
    ):
        layer = StandardizedConvolution(filters=5, kernel_size=3, epsilon=0.3, epsilon_in_root=in_root)
        layer.build((None, 8, 8, 4))
        layer.kernel.assign(kernel)
        np.testing.assert_allclose(numpy_of(layer.applied_kernel()), expected, rtol=1e-5, atol=1e-5)
    layer = StandardizedConvolution(filters=5, kernel_size=3, epsilon=1e-5)
    layer.build((None, 8, 8, 4))
    layer.kernel.assign(np.ones_like(kernel))
    _, (gradient,) = value_and_gradients(lambda: keras.ops.sum(layer.applied_kernel()), [layer.kernel])
    assert np.isfinite(numpy_of(gradient)).all()


@pytest.mark.parametrize(("side", "margins"), [(8, (2, 3)), (7, (3, 3)), (9, (3, 3))])
def test_padding_is_that_of_tensorflow_and_xla(side, margins):
    """A kernel of one pixel in a corner shows where the first place looks: `margins` in front of the picture."""
    images = np.arange(side * side, dtype="float32").reshape(1, side, side, 1)
    layer = StandardizedConvolution(filters=2, kernel_size=7, stride=2, padding="same", epsilon=1e-5)
    layer.build(images.shape)
    layer.kernel.assign(np.random.default_rng(0).standard_normal((7, 7, 1, 2)))
    kernel = numpy_of(layer.applied_kernel()).astype("float64")
    padded = np.pad(images[0, :, :, 0], (margins, margins))
    places = range(0, padded.shape[0] - 6, 2)
    expected = [[np.tensordot(padded[i : i + 7, j : j + 7], kernel[:, :, 0], 2) for j in places] for i in places]
    np.testing.assert_allclose(numpy_of(layer(images))[0], expected, rtol=1e-4, atol=1e-3)


def test_groups_are_of_neighbouring_channels_and_an_offset_costs_no_digits():
    x = (100 + np.random.default_rng(3).standard_normal((2, 3, 4, 6))).astype("float32")
    norm = GroupNorm(num_groups=2, epsilon=0.1)
    norm.build(x.shape)
    halves = [x[..., :3].astype("float64"), x[..., 3:].astype("float64")]
    expected = [
        (half - half.mean((1, 2, 3), keepdims=True)) / np.sqrt(half.var((1, 2, 3), keepdims=True) + 0.1)
        for half in halves
    ]
    np.testing.assert_allclose(numpy_of(norm(x)), np.concatenate(expected, axis=-1), rtol=1e-4, atol=1e-4)


def test_a_fresh_tower_starts_as_its_shortcuts_and_is_the_same_for_the_same_seed():
    one, same, other = (BiTResNet(TINY, seed=seed) for seed in (1, 1, 2))
    for mine, its, others in zip(one.weights, same.weights, other.weights, strict=True):
        np.testing.assert_array_equal(numpy_of(mine.value), numpy_of(its.value))
        assert mine.path.endswith("kernel") != np.array_equal(numpy_of(mine.value), numpy_of(others.value))
    second = one.get_layer("stage_2").blocks[1]
    x = np.abs(np.random.default_rng(2).standard_normal((1, 4, 4, 64))).astype("float32")
    np.testing.assert_array_equal(numpy_of(second(x)), x)
    scales = {float(numpy_of(w.value).max()) for w in BiTResNet(PRE).weights if w.path.endswith("scale")}
    assert scales == {1.0}


@ABOVE_THE_BACKENDS
def test_a_text_tower_stands_beside_it_and_files_keep_both(tmp_path):
    text = TextConfig(width=8, depth=1, mlp_dim=8, num_heads=2, vocab_size=9, context_length=4, embed_dim=64)
    model = SigLIP(SigLIPConfig(vision=TINY, text=text), seed=2)
    assert model.output["image_embedding"].shape == model.output["text_embedding"].shape == (None, 64)
    model.save_to_preset(tmp_path / "pair", format="diptych")
    again = SigLIP.from_preset(tmp_path / "pair")
    assert again.config == model.config
    np.testing.assert_array_equal(numpy_of(again.weights[0].value), numpy_of(model.weights[0].value))
    for format in ("transformers", "open_clip", "big_vision"):
        with pytest.raises(ValueError, match='format="diptych"'):
            model.save_to_preset(tmp_path / "other", format=format)
    tower = BiTResNet.from_preset(tmp_path / "pair")
    classifier = ImageClassifier(tower, ["a", "b"])
    classifier.save_to_preset(tmp_path / "classifier")
    assert ImageClassifier.from_preset(tmp_path / "classifier").config == classifier.config
    assert count_parameters(classifier.config)["total"] == classifier.count_params()
    with pytest.raises(ValueError, match="has no ResNet"):
        classifier.save_to_preset(tmp_path / "other", format="transformers")
    assert captioner_config(model.config).encoder_width == tower.output["tokens"].shape[-1]
    assert with_pooling(tower, "gap") is tower
    with pytest.raises(ValueError, match="pools by 'gap' alone, got pooling 'map'"):
        with_pooling(tower, "map")
    tower.save(tmp_path / "tower.keras")
    loaded = keras.saving.load_model(tmp_path / "tower.keras")
    assert loaded.get_config() == tower.get_config()


def test_mixed_precision_keeps_weights_in_float32_and_standardises_in_it():
    images = np.random.default_rng(1).uniform(-1, 1, (2, 12, 12, 3)).astype("float32")
    config = BiTConfig(stage_depths=(1,), width=8, num_groups=2, image_size=12)
    outputs = forward(BiTResNet(config, dtype="mixed_bfloat16"), images)
    assert keras.backend.standardize_dtype(outputs["tokens"].dtype) == "bfloat16"
    single = numpy_of(forward(BiTResNet(config), images)["pooled"])
    assert np.linalg.norm(numpy_of(outputs["pooled"]) - single) < 0.05 * np.linalg.norm(single)
    layer = StandardizedConvolution(filters=2, kernel_size=1, epsilon=1e-5, dtype="mixed_bfloat16")
    layer.build((None, 4, 4, 3))
    layer.kernel.assign(1_000 + np.arange(6).reshape(1, 1, 3, 2))  # all alike in bfloat16
    assert np.abs(numpy_of(layer(np.eye(3, dtype="float32")[None, None]))).max() > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage_depths": ()}, "one number or more"),
        ({"stage_depths": (3, 0)}, "positive"),
        ({"num_groups": 3}, "num_groups must divide the width, got 3 groups of 8"),
        ({"embed_dim": 0}, "embed_dim must be a positive integer, or None"),
        ({"variance_epsilon": 0.0}, "variance_epsilon must be positive"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def test_other_layouts_than_its_own_say_so(tmp_path):
    np.savez(tmp_path / "weights.npz", conv=np.zeros(3))
    with pytest.raises(ValueError, match="no image-text model of big_vision"):
        ImageClassifier.from_preset(tmp_path / "weights.npz")
    config = ClassifierConfig(vision=replace(TINY, embed_dim=4), classes=CLASSES)
    with pytest.raises(ValueError, match="have no projection"):
        bit.write_npz_file(tmp_path, config, {})
