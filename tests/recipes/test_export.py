"""Exported towers: the same embeddings without Keras, everything a caller must know, and no file that is wrong."""

import json
import shutil
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest

from diptych.core.data.processor.processor import Processor
from diptych.core.data.sources.open import open_source
from diptych.engine.embedding.encoder import Encoder
from diptych.engine.export import check as export_check
from diptych.engine.export.check import ExportError, check
from diptych.engine.export.formats import FORMATS, choose_backend
from diptych.engine.export.recall import prepared_pairs, recall_cost
from diptych.engine.export.smaller import shrink
from diptych.engine.export.towers import towers
from diptych.engine.export.writers import Job, onnx_runner
from diptych.recipes import export as recipe
from diptych.recipes.export import CARD, Export, export, main
from tests.recipes.export_models import ENCODERS, clip_resnet, fixed, naflex
from tests.recipes.photos import write_photos
from tests.tree import ROOT

BACKEND = keras.config.backend()
MISSING = [name for name in FORMATS["onnx"].packages if find_spec(name) is None]
KINDS = ("fixed", "naflex", "clip")
TOLERANCE = 2e-6  # of unit vectors in float32; the recipe's own is the user's

needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f"ONNX needs {', '.join(MISSING)}")
on_torch = pytest.mark.skipif(
    BACKEND != "torch", reason="torch traces the graphs; other backends ask it to, which has its own test"
)


@pytest.fixture(autouse=True)
def _little_timing(monkeypatch):
    monkeypatch.setattr(export_check, "TIMED_SECONDS", 0.0)
    monkeypatch.setattr(export_check, "TIMED_BATCHES", (1,))


def exported(encoder: Encoder, output: Path, format: str = "onnx") -> Path:
    assert export(Export(model="some/where/tiny", output=output, format=format), lambda preset: encoder) == 0
    return output


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """kind -> (an encoder, the folder of its graphs), made once."""
    made: dict[str, tuple[Encoder, Path]] = {}

    def of(kind: str) -> tuple[Encoder, Path]:
        if kind not in made:
            encoder = ENCODERS[kind]()
            made[kind] = encoder, exported(encoder, tmp_path_factory.mktemp(kind) / "exported")
        return made[kind]

    return of


def metadata(path: Path) -> dict:
    import onnxruntime

    found = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    return {key: json.loads(value) for key, value in found.items()}


def inputs_of(path: Path) -> dict[str, list]:
    import onnxruntime

    return {x.name: x.shape for x in onnxruntime.InferenceSession(path).get_inputs()}


def noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Each row about a value of its own."""
    return (rng.normal(size=(shape[0], *[1] * (len(shape) - 1))) + rng.normal(0, 0.5, shape)).astype(np.float32)


def keras_embeddings(embedder: keras.Model, inputs: dict[str, np.ndarray]) -> np.ndarray:
    arrays = inputs if len(inputs) > 1 else next(iter(inputs.values()))
    return keras.ops.convert_to_numpy(embedder.predict_on_batch(arrays))


def grids(batch: int, length: int) -> dict[str, np.ndarray]:
    """NaFlex inputs whose first grid is one row, whose second is one column, and whose others are smaller."""
    rng = np.random.default_rng(batch)
    shapes = [(1, length), (length, 1), *((2, column) for column in range(1, batch - 1))]  # of 2, 4, ... patches
    return {"patches": noise(rng, (batch, length, 48)), "spatial_shapes": np.array(shapes[:batch], np.int32)}


@on_torch
@needs_onnx
class TestOnnx:
    @pytest.mark.parametrize("kind", KINDS)
    def test_graphs_give_the_models_embeddings_for_batches_of_any_size(self, kind, graphs):
        encoder, folder = graphs(kind)
        image, text = onnx_runner(folder / "image.onnx"), onnx_runner(folder / "text.onnx")
        rng = np.random.default_rng(1)
        for batch in (1, 2, 6):
            ids = {"token_ids": rng.integers(0, 8_000, (batch, 7)).astype(np.int32)}
            size = encoder.processor.input_size
            images = grids(batch, 12) if size is None else {"images": noise(rng, (batch, *size, 3))}
            for embedder, run, inputs in ((encoder.text_embedder, text, ids), (encoder.image_embedder, image, images)):
                expected = keras_embeddings(embedder, inputs)
                assert np.abs(run(inputs) - expected).max() < TOLERANCE
                assert np.allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-5)
                assert batch == 1 or np.abs(expected[0] - expected[1]).max() > 1e-3

    def test_naflex_takes_any_number_of_patches(self, graphs):
        encoder, folder = graphs("naflex")
        image = onnx_runner(folder / "image.onnx")
        for batch, length in ((1, 12), (3, 12), (4, 5), (2, 1), (5, 40)):
            inputs = grids(batch, length)
            expected = keras_embeddings(encoder.image_embedder, inputs)
            assert np.abs(image(inputs) - expected).max() < TOLERANCE
        padded = grids(4, 12)
        padded["patches"][2:, 4:] = 100  # their grids are of 2 and 4 patches
        assert np.abs(image(padded)[2:] - image(grids(4, 12))[2:]).max() < TOLERANCE

    def test_the_image_tower_may_be_a_resnet_and_weights_lie_in_a_file_of_their_own(self, tmp_path):
        from diptych.backends.torch.export import write_onnx

        tower = towers(clip_resnet(), name="tiny")[0]
        path = tmp_path / "image.onnx"
        write_onnx(tower.model, tower.shapes, path, metadata={"a": "1"}, external_data=True)
        assert path.with_name("image.onnx.data").stat().st_size > 3.9 * tower.model.count_params()
        assert path.stat().st_size < 4 * tower.model.count_params()
        assert metadata(path) == {"a": 1}
        assert check(tower, onnx_runner(path), "image.onnx").difference < TOLERANCE
        assert np.ptp(tower.reference(tower.draw(np.random.default_rng(0), 4)), axis=0).max() > 1e-3

    @pytest.mark.parametrize("kind", KINDS)
    def test_metadata_say_what_a_caller_must_know(self, kind, graphs):
        encoder, folder = graphs(kind)
        image, text = metadata(folder / "image.onnx"), metadata(folder / "text.onnx")
        processor = encoder.processor
        for card in (image, text):
            assert card["logit_scale"] == pytest.approx(encoder.logit_scale, rel=1e-6)
            assert card["logit_bias"] == encoder.logit_bias
            assert card["fingerprint"] == encoder.fingerprint()
            assert card["model"] == "tiny"  # without the folders of the machine
        assert ("softmax" in image["similarity"]) == (encoder.logit_bias is None)
        assert tuple(image["mean"]) == processor.pixels.normalization.mean
        assert tuple(image["std"]) == processor.pixels.normalization.std
        values = image["inputs"]["images" if processor.input_size else "patches"]
        assert tuple(values["range"]) == processor.pixels.normalization.range
        assert text["context_length"] == processor.context_length
        assert (text["pad_id"], text["eos_id"]) == (processor.tokenizer.pad_id, processor.tokenizer.eos_id)
        assert text["lower_case"] is processor.tokenizer.lower_case
        for name, card in (("image", image), ("text", text)):
            found = inputs_of(folder / f"{name}.onnx")
            assert found == {key: said["shape"] for key, said in card["inputs"].items()}
            assert all(shape[0] == "batch" for shape in found.values())
            assert json.loads((folder / CARD).read_text())[name].items() >= card.items()

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_processor_is_beside_the_graphs(self, kind, graphs):
        encoder, folder = graphs(kind)
        assert Processor.from_preset(folder).fingerprint() == encoder.processor.fingerprint()
        assert {"tokenizer.json", "preprocessor_config.json"} <= {path.name for path in folder.iterdir()}

    def test_graphs_know_nothing_of_the_machine_they_were_made_on(self, graphs):
        for path in graphs("fixed")[1].glob("*.onnx"):
            content = path.read_bytes()
            assert str(ROOT).encode() not in content
            assert sys.prefix.encode() not in content
            assert b"stack_trace" not in content

    def test_a_caller_needs_no_diptych(self, graphs):
        definition = pytest.importorskip("tokenizers", reason="the caller's tokenizer").Tokenizer
        encoder, folder = graphs("fixed")
        picture = np.random.default_rng(2).integers(0, 256, (10, 10, 3), dtype=np.uint8)
        texts = ["red fox", "Ein sehr langer Satz über viele kleine Füchse im Wald"]

        card, session = metadata(folder / "image.onnx"), onnx_runner(folder / "image.onnx")
        pixels = (picture * card["scale"] - card["mean"]) / card["std"]
        image_embedding = session({"images": pixels[None].astype(np.float32)})
        tokenizer = definition.from_file(str(folder / "tokenizer.json"))
        ids = np.array([tokenizer.encode(text).ids for text in texts], np.int32)
        text_embeddings = onnx_runner(folder / "text.onnx")({"token_ids": ids})

        assert np.abs(image_embedding - encoder.embed_images([picture])).max() < TOLERANCE
        assert np.abs(text_embeddings - encoder.embed_texts(texts)).max() < TOLERANCE

    @pytest.mark.parametrize("damage", [lambda x: -x, np.zeros_like, lambda x: x[::-1], lambda x: x * np.nan])
    def test_a_damaged_graph_is_found(self, tmp_path, graphs, damage):
        onnx = pytest.importorskip("onnx", reason="it is damaged by this package")
        encoder, folder = graphs("fixed")
        tower = towers(encoder, name="tiny")[1]
        graph = onnx.load(folder / "text.onnx")
        table = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        value = np.ascontiguousarray(damage(onnx.numpy_helper.to_array(table)))
        table.CopyFrom(onnx.numpy_helper.from_array(value, table.name))
        onnx.save(graph, tmp_path / "damaged.onnx")
        assert check(tower, onnx_runner(folder / "text.onnx"), "text.onnx").difference < TOLERANCE
        with pytest.raises(ExportError, match="damaged.onnx.*differ"):
            check(tower, onnx_runner(tmp_path / "damaged.onnx"), "damaged.onnx")


@on_torch
@needs_onnx
class TestSmaller:
    @pytest.mark.parametrize(("precision", "share"), [("float16", 0.6), ("int8", 0.4)])
    def test_weights_take_less_space_and_embeddings_are_nearly_the_same(self, precision, share, graphs, tmp_path):
        encoder, folder = graphs("naflex")
        for tower in towers(encoder, name="tiny"):
            path = Path(shutil.copy(folder / f"{tower.name}.onnx", tmp_path))
            before, said = path.stat().st_size, metadata(path)
            shrink(path, precision)
            assert metadata(path) == said
            assert tower.name == "image" or path.stat().st_size < share * before
            found = check(tower, onnx_runner(path), path.name, precision=precision)
            assert found.difference > 0
        assert sorted(file.name for file in tmp_path.iterdir()) == ["image.onnx", "text.onnx"]

    def test_weights_in_a_file_of_their_own_stay_in_one(self, tmp_path):
        from diptych.backends.torch.export import write_onnx

        tower = towers(fixed(), name="tiny")[1]
        (tmp_path / "float32").mkdir()
        write_onnx(tower.model, tower.shapes, tmp_path / "float32" / "text.onnx", metadata={}, external_data=True)
        before = (tmp_path / "float32" / "text.onnx.data").stat().st_size
        for precision in ("float16", "int8"):
            path = Path(shutil.copytree(tmp_path / "float32", tmp_path / precision)) / "text.onnx"
            shrink(path, precision)
            assert path.with_name("text.onnx.data").stat().st_size < 0.6 * before
            assert len(list(path.parent.iterdir())) == 2
            check(tower, onnx_runner(path), path.name, precision=precision)

    def test_the_command_says_what_it_costs(self, tmp_path, graphs, capsys, monkeypatch):
        encoder, folder = graphs("fixed")
        write_photos(tmp_path / "photos", 12)
        copies = replace(FORMATS["onnx"], write=lambda job: copy_and_shrink(folder, job))
        monkeypatch.setitem(FORMATS, "onnx", copies)
        options = Export(model="tiny", output=tmp_path / "out", precision="int8", data=str(tmp_path / "photos"))
        assert export(options, lambda preset: encoder) == 0
        card = json.loads((tmp_path / "out" / CARD).read_text())
        assert card["precision"] == "int8"
        assert card["recall"]["pairs"] == 12
        assert card["recall"]["model"].keys() == card["recall"]["file"].keys() == {"recall@1", "recall@5"}
        assert "the files in int8" in capsys.readouterr().out


def copy_and_shrink(folder: Path, job: Job) -> None:
    for tower in job.towers:
        shrink(Path(shutil.copy(folder / f"{tower.name}.onnx", job.folder)), job.precision)


def test_recall_is_that_of_the_pairs(tmp_path):
    encoder = fixed()
    write_photos(tmp_path / "photos", 12)
    both = towers(encoder, name="tiny")
    pairs = prepared_pairs(open_source(str(tmp_path / "photos")), encoder.processor, name="photos")
    right = {"image": one_hot, "text": one_hot}
    found = recall_cost(
        pairs, right, right | {"text": lambda inputs: np.roll(one_hot(inputs), 1, axis=0)}, name="photos"
    )
    assert found["model"] == {"recall@1": 1.0, "recall@5": 1.0}
    assert found["file"]["recall@1"] == 0.0
    own = recall_cost(pairs, *[{tower.name: tower.reference for tower in both}] * 2, name="photos")
    assert own["model"] == own["file"]
    write_photos(tmp_path / "one", 1)
    with pytest.raises(ValueError, match="one: 1 of 1 records are pictures with captions"):
        prepared_pairs(open_source(str(tmp_path / "one")), encoder.processor, name="one")


def one_hot(inputs: dict[str, np.ndarray]) -> np.ndarray:
    return np.eye(len(next(iter(inputs.values()))), dtype=np.float32)


@needs_onnx
@pytest.mark.skipif(BACKEND != "jax", reason="torch needs no other process, and of the others jax is asked")
def test_other_backends_have_torch_write_the_graphs_and_judge_them(tmp_path, capsys):
    encoder = fixed()
    encoder.model.save_to_preset(tmp_path / "model", format="diptych")
    encoder.processor.save_to_preset(tmp_path / "model")
    opened: list[str] = []

    def opens(preset: str) -> Encoder:
        opened.append(preset)
        return encoder

    assert export(Export(model=str(tmp_path / "model"), output=tmp_path / "out"), opens) == 0
    assert opened == [str(tmp_path / "model")]
    assert f"{BACKEND} says what they must give" in capsys.readouterr().out
    assert metadata(tmp_path / "out" / "text.onnx")["fingerprint"] == encoder.fingerprint()
    ids = {"token_ids": np.arange(21, dtype=np.int32).reshape(3, 7)}
    expected = keras_embeddings(encoder.text_embedder, ids)
    assert np.abs(onnx_runner(tmp_path / "out" / "text.onnx")(ids) - expected).max() < TOLERANCE


# "naflex": patches, and SigLIP's text tower. "clip": images of a fixed size, and a causal text tower read at its
# end-of-text.
OTHER_FORMATS = {
    "openvino": ("fixed",),
    "saved_model": ("naflex",),
    "litert": ("naflex", "clip"),
    "torch_export": ("naflex", "clip"),
    "stablehlo": ("naflex",),
    "keras": ("fixed",),
}
CASES = [(name, kind) for name, kinds in OTHER_FORMATS.items() for kind in kinds if BACKEND in FORMATS[name].backends]


def test_every_format_is_tried():
    assert {"onnx", *OTHER_FORMATS} == set(FORMATS)


@pytest.mark.parametrize(("format", "kind"), CASES)
def test_other_formats_give_the_models_embeddings(format, kind, tmp_path, capsys):
    missing = [name for name in FORMATS[format].packages if find_spec(name) is None]
    if missing:
        pytest.skip(f"{format} needs {', '.join(missing)}")
    encoder = ENCODERS[kind]()
    folder = exported(encoder, tmp_path / "out", format)
    card = json.loads((folder / CARD).read_text())
    assert card["format"] == format
    length = card["image"]["inputs"].get("patches", {}).get("shape", [None, None])[1]
    assert length == (None if kind != "naflex" else 12 if format == "litert" else "num_patches")
    for name in ("image", "text"):
        assert card[name]["checked"]["greatest_difference"] < TOLERANCE
        assert (folder / card[name]["file"]).exists()
    job = Job(preset="", module="", encoder=encoder, towers=towers(encoder, name="tiny"), folder=folder)
    text = job.towers[1]
    inputs = text.draw(np.random.default_rng(5), 4)
    expected = keras_embeddings(encoder.text_embedder, inputs)
    assert np.abs(FORMATS[format].load(job, text)(inputs) - expected).max() < TOLERANCE
    table = capsys.readouterr().out
    assert "greatest difference" in table
    assert "ms/item, batch 1" in table


class TestCheck:
    tower = property(lambda self: towers(fixed(), name="tiny")[0])

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            (lambda right: right + 2e-4, "differ from the model's by 0.0002"),
            (np.zeros_like, "differ"),
            (lambda right: -right, "differ"),
            (lambda right: right * np.nan, "differ from the model's by nan"),
            (lambda right: right[::-1], "differ"),
            (lambda right: right[:1], "shape"),
            (lambda right: right[:, :-1], "shape"),
            (lambda right: 1 / 0, "does not run on images.*ZeroDivisionError"),
        ],
    )
    def test_wrong_embeddings_are_refused(self, wrong, words):
        tower = self.tower
        with pytest.raises(ExportError, match=words):
            check(tower, lambda inputs: wrong(tower.reference(inputs)), "image.onnx")

    def test_right_embeddings_pass(self):
        tower = self.tower
        found = check(tower, lambda inputs: tower.reference(inputs) + np.float32(2e-5), "image.onnx")
        assert 1.9e-5 < found.difference < 2.1e-5
        assert found.compared == sum(export_check.BATCHES)
        assert all(milliseconds > 0 for milliseconds in found.milliseconds.values())

    def test_drawn_inputs_are_such_as_the_processor_makes(self):
        encoder = naflex()
        image, text = towers(encoder, name="tiny")
        rng = np.random.default_rng(0)
        for _ in range(20):
            drawn = image.draw(rng, 5, 12) | text.draw(rng, 5)
            encoder.processor.check(drawn)
            rows, columns = drawn["spatial_shapes"].T
            assert (drawn["patches"][np.arange(12) >= (rows * columns)[:, None]] == 0).all()


def test_a_wrong_export_leaves_nothing_and_touches_nothing(tmp_path, monkeypatch):
    before = {"model.keras": b"an earlier export", CARD: b"{}"}
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)
    right = FORMATS["keras"].write

    def moves_a_weight(job: Job) -> None:
        right(job)
        assert (job.folder / "model.keras").exists()
        bias = next(weight for weight in job.encoder.model.weights if weight.path.endswith("projection/bias"))
        bias.assign(bias + np.arange(8, dtype=np.float32))

    monkeypatch.setitem(FORMATS, "keras", replace(FORMATS["keras"], write=moves_a_weight))
    with pytest.raises(ExportError, match="differ"):
        exported(fixed(), tmp_path, "keras")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_earlier_export_is_replaced(tmp_path):
    source, output = tmp_path / "source", tmp_path / "output"
    for folder in (source / "image", output / "image"):
        folder.mkdir(parents=True)
        (folder / folder.parent.name).write_text("")
    for name in ("text.onnx", "export.json"):
        (source / name).write_text("new")
        (output / name).write_text("old")
    (output / "text.onnx.data").write_text("of a larger model")
    recipe._publish(source, output)
    assert sorted(str(path.relative_to(output)) for path in output.rglob("*")) == [
        "export.json",
        "image",
        "image/source",
        "text.onnx",
    ]
    assert (output / "text.onnx").read_text() == "new"


def test_models_beyond_a_formats_limit_are_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, "keras", replace(FORMATS["keras"], most_bytes=10_000))
    with pytest.raises(ValueError, match="tower has .* of weights, a keras file holds .* Use --format onnx"):
        exported(fixed(), tmp_path, "keras")


def test_the_backend_follows_from_the_format_unless_one_is_asked_for(monkeypatch):
    formats = sys.modules["diptych.engine.export.formats"]
    monkeypatch.setattr(formats, "find_spec", lambda name: object())
    monkeypatch.setattr(formats, "installed_backends", lambda: ("jax", "torch", "tensorflow"))
    assert choose_backend("onnx", None) == "torch"
    assert choose_backend("onnx", "jax") == "jax"
    assert choose_backend("saved_model", None) == "tensorflow"
    assert choose_backend("stablehlo", None) == "jax"
    with pytest.raises(
        ValueError, match="expected KERAS_BACKEND=tensorflow or KERAS_BACKEND=jax.*With torch .* torch_export"
    ):
        choose_backend("saved_model", "torch")
    monkeypatch.setattr(formats, "installed_backends", lambda: ("jax",))
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name in ("torch", "onnxscript") else object())
    with pytest.raises(ValueError, match="pip install torch onnxscript"):
        choose_backend("onnx", None)
    with pytest.raises(ValueError, match="pip install torch$"):
        choose_backend("torch_export", None)


def test_few_bits_are_for_onnx(capsys):
    assert main(["--format", "keras", "--precision", "int8"]) == 2
    assert "--precision int8 is not for --format keras: expected --format onnx" in capsys.readouterr().err


def test_the_command_says_which_backend_to_use(capsys, monkeypatch):
    cannot = next(name for name, format in FORMATS.items() if BACKEND not in format.backends)
    monkeypatch.setenv("KERAS_BACKEND", BACKEND)
    assert main(["--format", cannot]) == 2
    assert f"KERAS_BACKEND={BACKEND} cannot write --format {cannot}: expected" in capsys.readouterr().err
