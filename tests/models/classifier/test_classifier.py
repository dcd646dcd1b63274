"""Classifiers: transformers' logits both ways, fit and predict on pictures, and errors that say what is wrong."""

import json

import keras
import numpy as np
import pytest
from PIL import Image

from diptych.core.data.records import BadExample
from diptych.models import ImageClassifier, SigLIP, from_preset
from diptych.models.classifier.config import ClassifierConfig
from diptych.models.classifier.model import classifier_of
from diptych.models.siglip.adapting import to_naflex, with_pooling
from diptych.models.siglip.config import NaFlexVisionConfig, VisionConfig
from tests.models.examples import TINY, forward, numpy_of

SIZE = {"width": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2, "patch_size": 4}
CLASSES = ("cat", "dog", "a bird")
ON_JAX = pytest.mark.skipif(
    keras.config.backend() != "jax", reason="tests/agreement holds the towers of every backend against each other"
)
VISION = {
    "siglip": VisionConfig(**SIZE, image_size=12, pooling="gap"),
    "siglip2": NaFlexVisionConfig(**SIZE, position_grid=3, max_num_patches=9, pooling="gap"),
}


def drawn(kind: str = "siglip", **fields) -> ImageClassifier:
    """A classifier with no weight at zero or one."""
    return randomized(classifier_of(ClassifierConfig(vision=VISION[kind], classes=CLASSES, **fields)))


def randomized(model: ImageClassifier) -> ImageClassifier:
    """The model with no weight at zero or one."""
    rng = np.random.default_rng(1)
    for weight in model.weights:
        around = 1.0 if weight.path.endswith("scale") else 0.0
        weight.assign(around + 0.3 * rng.standard_normal(weight.shape).astype("float32"))
    return model


def inputs_of(kind: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    if kind == "siglip":
        return {"images": rng.uniform(-1, 1, (3, 12, 12, 3)).astype("float32")}
    shapes = np.array([[3, 4], [1, 7], [5, 2]], "int32")
    patches = rng.uniform(-1, 1, (3, 13, 48)).astype("float32")
    patches[np.arange(13) >= shapes.prod(axis=1)[:, None]] = 0
    return {"patches": patches, "spatial_shapes": shapes}


def weights(model) -> dict[str, np.ndarray]:
    return {weight.path: np.array(keras.ops.convert_to_numpy(weight.value)) for weight in model.weights}


def pictures(folder, count: int = 12) -> tuple[list, list[str]]:
    """Files of red, green and blue squares, and the class of each."""
    paths = []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 60, (14, 18, 3), dtype=np.uint8)
        pixels[..., number % 3] += 190
        Image.fromarray(pixels).save(folder / f"{number}.png")
        paths.append(folder / f"{number}.png")
    return paths, [CLASSES[number % 3] for number in range(count)]


@ON_JAX
@pytest.mark.parametrize("kind", ["siglip", "siglip2"])
def test_logits_are_those_of_transformers_both_ways(kind, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch = pytest.importorskip("torch", reason="transformers needs torch, which is not installed")
    model, inputs = drawn(kind, several_labels=kind == "siglip2"), inputs_of(kind)
    logits = numpy_of(forward(model, inputs))
    model.save_to_preset(tmp_path / "ours", format="transformers")
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "ours").eval()
    assert theirs.config.id2label == dict(enumerate(CLASSES))
    if kind == "siglip":
        given = {"pixel_values": torch.from_numpy(inputs["images"].transpose(0, 3, 1, 2).copy())}
    else:
        mask = np.arange(13) < inputs["spatial_shapes"].prod(axis=1)[:, None]
        given = {
            "pixel_values": torch.from_numpy(inputs["patches"]),
            "pixel_attention_mask": torch.from_numpy(mask.astype("int32")),
            "spatial_shapes": torch.from_numpy(inputs["spatial_shapes"].astype("int64")),
        }
    with torch.no_grad():
        expected = theirs(**given).logits.numpy()
    np.testing.assert_allclose(logits, expected, rtol=2e-5, atol=2e-5)
    assert np.abs(expected).max() > 0.1
    theirs.save_pretrained(tmp_path / "theirs")
    again = ImageClassifier.from_preset(tmp_path / "theirs")
    assert again.config == model.config
    one, other = weights(again), weights(model)
    assert {path for path in other if one[path].tobytes() != other[path].tobytes()} == set()


@ON_JAX
def test_a_checkpoint_with_an_unused_attention_pooling_computes_with_the_mean(tmp_path):
    """transformers builds the pooling for its classifier unless it is told not to."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("torch", reason="transformers needs torch, which is not installed")
    drawn().save_to_preset(tmp_path / "ours", format="transformers")
    fields = json.loads((tmp_path / "ours" / "config.json").read_text())
    fields["vision_config"]["vision_use_head"] = True
    config = transformers.SiglipConfig(**fields)
    transformers.SiglipForImageClassification(config).save_pretrained(tmp_path / "theirs")
    model = ImageClassifier.from_preset(tmp_path / "theirs")
    assert model.config.vision.pooling == "gap"


def test_the_image_tower_of_a_pair_gets_a_head_that_knows_nothing(tmp_path):
    pair = SigLIP(TINY, seed=3)
    pair.save_to_preset(tmp_path, format="diptych")
    model = ImageClassifier.from_preset(tmp_path, classes=CLASSES)
    assert model.config.vision.pooling == "map"
    values, given = weights(model), weights(pair)
    assert {path for path in values if path not in given} == {"classifier/kernel", "classifier/bias"}
    np.testing.assert_array_equal(values["image/map_head/probe"], given["image/map_head/probe"])
    assert not values["classifier/kernel"].any()
    mean = ImageClassifier.from_preset(tmp_path, classes=CLASSES, pooling="gap")
    assert [path for path in weights(mean) if "map_head" in path] == []
    fresh = with_pooling(mean.encoder, "map")
    assert weights(fresh)["image/map_head/probe"].shape == (1, 1, 16)


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
@pytest.mark.parametrize("pooling", ["map", "gap"])
def test_diptychs_own_layout_and_keras_files_keep_every_bit(pooling, tmp_path):
    model = ImageClassifier(with_pooling(drawn().encoder, pooling), CLASSES)
    model.save_to_preset(tmp_path / "preset")
    model.compile()
    model.save(tmp_path / "model.keras")
    for again in (ImageClassifier.from_preset(tmp_path / "preset"), keras.saving.load_model(tmp_path / "model.keras")):
        assert (again.config, again.processor.pixels) == (model.config, model.processor.pixels)
        one, other = weights(again), weights(model)
        assert {path for path in other if one[path].tobytes() != other[path].tobytes()} == set()


def test_it_learns_from_paths_and_tells_the_classes_of_pictures(tmp_path):
    paths, names = pictures(tmp_path)
    model = ImageClassifier(SigLIP(TINY).image_encoder, CLASSES)
    model.compile(keras.optimizers.Adam(3e-3))
    history = model.fit(paths, names, batch_size=6, epochs=8, verbose=0, validation_data=(paths[:6], names[:6]))
    assert history.history["loss"][0] == pytest.approx(np.log(3), rel=0.2)
    assert history.history["val_accuracy"][-1] == 1.0
    logits = model.predict(paths, batch_size=6, verbose=0)
    assert logits.shape == (12, 3)
    assert [CLASSES[place] for place in logits.argmax(axis=1)] == names
    (one,) = model.classify(Image.open(paths[1]))
    assert next(iter(one)) == names[1]
    assert sum(one.values()) == pytest.approx(1, abs=1e-6)


def test_several_labels_have_a_sigmoid_each(tmp_path):
    paths, names = pictures(tmp_path, 3)
    model = drawn(several_labels=True)
    model.compile()
    loss, _ = model.evaluate(paths, [["cat", "dog"], [], [2]], verbose=0)
    logits = model.predict(paths, verbose=0).astype(np.float64)
    targets = np.array([[1, 1, 0], [0, 0, 0], [0, 0, 1]])
    expected = np.mean(np.log1p(np.exp(-np.abs(logits))) + np.maximum(logits, 0) - logits * targets)
    assert loss == pytest.approx(expected, rel=1e-5)
    shown = model.classify(paths[:1], top_k=None)[0]
    assert sum(shown.values()) != pytest.approx(1, abs=1e-3)


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    paths, names = pictures(tmp_path, 3)
    model = drawn()
    model.compile()
    with pytest.raises(ValueError, match="'horse' is none of the 3 classes: cat, dog, a bird"):
        model.fit(paths, ["cat", "dog", "horse"])
    with pytest.raises(ValueError, match="got 3 and 2"):
        model.fit(paths, names[:2])
    with pytest.raises(ValueError, match=r'Save it with format="diptych"'):
        ImageClassifier(with_pooling(model.encoder, "map"), CLASSES).save_to_preset(tmp_path, format="transformers")
    model.save_to_preset(tmp_path / "saved")
    with pytest.raises(ValueError, match="3 other classes"):
        ImageClassifier.from_preset(tmp_path / "saved", classes=("a", "b"))
    with pytest.raises(ValueError, match="ImageClassifier.from_preset"):
        from_preset(tmp_path / "saved")
    SigLIP(TINY).save_to_preset(tmp_path / "pair", format="diptych")
    with pytest.raises(ValueError, match="name its classes"):
        ImageClassifier.from_preset(tmp_path / "pair")
    with pytest.raises(ValueError, match="dog is named more than once"):
        ClassifierConfig(vision=VISION["siglip"], classes=("dog", "cat", "dog"))


def test_a_picture_that_cannot_be_read_is_named_and_costs_no_weight(tmp_path):
    paths, names = pictures(tmp_path, 6)
    model = drawn()
    model.compile(keras.optimizers.SGD(0.1))
    before = weights(model)
    with pytest.raises(BadExample, match=r"nowhere\.png"):
        model.predict([*paths, tmp_path / "nowhere.png"], batch_size=2, verbose=0)
    for path, value in weights(model).items():
        np.testing.assert_array_equal(value, before[path], err_msg=path)
    with pytest.raises(BadExample, match=r"nowhere\.png"):
        model.fit([*paths, tmp_path / "nowhere.png"], [*names, "cat"], batch_size=2, shuffle=False, verbose=0)
    assert all(np.isfinite(value).all() for value in weights(model).values())


def test_a_naflex_classifier_takes_pictures_of_any_aspect(tmp_path):
    paths, _ = pictures(tmp_path, 3)
    model = ImageClassifier(to_naflex(SigLIP(TINY), max_num_patches=12), CLASSES)
    assert model.predict(paths, verbose=0).shape == (3, 3)
