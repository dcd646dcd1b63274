"""Exported decoders: the model's tokens with the cache in and out, rules that a caller can follow, refusals by name."""

import json
import re
from importlib.util import find_spec

import keras
import numpy as np
import pytest

from diptych.engine.export.check import ExportError
from diptych.engine.export.decoder_check import check_writing
from diptych.engine.export.decoders import graphs_of, open_writer
from diptych.engine.export.formats import FORMATS
from diptych.engine.export.greedy import greedy_tokens
from diptych.engine.export.writers import onnx_outputs
from diptych.recipes.export import CARD, Export, export_decoder, main
from tests.core.data.pictures import pixels
from tests.marks import ABOVE_THE_BACKENDS
from tests.models.examples import numpy_of
from tests.models.gpt.small_gpt import gpt_of
from tests.recipes.small_paligemma import write_small_paligemma

MISSING = [name for name in FORMATS["onnx"].packages if find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f"ONNX needs {', '.join(MISSING)}")
on_torch = pytest.mark.skipif(
    keras.config.backend() != "torch", reason="torch traces the graphs; tests/recipes/test_export.py asks the others"
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with a PaliGemma, and one with its graphs, made once."""
    model, output = tmp_path_factory.mktemp("paligemma"), tmp_path_factory.mktemp("exported")
    write_small_paligemma(model)
    assert export_decoder(Export(model=str(model), output=output)) == 0
    return model, output


@on_torch
@needs_onnx
def test_a_caller_writes_the_models_answers_by_the_files_and_their_rules(exported):
    folder, output = exported
    card = json.loads((output / CARD).read_text())
    model, processor, _ = open_writer(str(folder))
    pictures, prompts = [pixels(place, 30, 40) for place in range(3)], ["caption en", "what is it?", "cat"]
    batch = processor(images=pictures, prompts=prompts)
    expected = numpy_of(model.generate(batch["images"], batch["token_ids"], batch["token_mask"], steps=7, eos_id=None))
    order = np.argsort(batch["token_mask"], axis=1, kind="stable")
    ids, mask = (np.take_along_axis(batch[name], order, axis=1) for name in ("token_ids", "token_mask"))
    assert not mask.all()
    soft = onnx_outputs(output / card["image"]["file"])({"images": batch["images"]})["soft_tokens"]
    decoder = onnx_outputs(output / card["decoder"]["file"])
    shapes = {name: tuple(x["shape"]) for name, x in card["decoder"]["inputs"].items()}
    got, _ = greedy_tokens(decoder, shapes, ids, mask, soft, steps=7)
    assert np.array_equal(got, expected)
    assert len(np.unique(got)) > 3
    assert card["checked"]["equal_tokens"] + 16 * card["checked"]["ties"] >= 128
    assert (card["image"]["eos_id"], card["image"]["mean"]) == (1, [0.5] * 3)
    assert {"tokenizer.model", "processor.json"} <= {path.name for path in output.iterdir()}


@on_torch
@needs_onnx
@pytest.mark.parametrize("fault", ["one logit", "no number", "the cache of another call", "padding seen"])
def test_files_that_write_something_else_are_refused(exported, fault):
    folder, output = exported
    model, processor, _ = open_writer(str(folder))
    graphs = {graph.name: graph for graph in graphs_of(model, processor, name="tiny")}
    runs = {name: onnx_outputs(output / f"{name}.onnx") for name in graphs}

    def damaged(inputs):
        if fault == "padding seen":
            inputs = {**inputs, "token_mask": np.ones_like(inputs["token_mask"])}
        found = dict(runs["decoder"](inputs))
        if fault == "the cache of another call":
            found["present_keys_01"] = found["present_keys_01"][:, ::-1]
        elif fault != "padding seen":
            found["logits"] = found["logits"].copy()
            found["logits"][:, 3] += 0.1 if fault == "one logit" else np.nan
        return found

    with pytest.raises(ExportError, match=r"decoder\.onnx: (logits|token)"):
        check_writing(model, graphs, {**runs, "decoder": damaged})


@ABOVE_THE_BACKENDS
def test_what_no_decoder_is_written_in_is_refused_by_name(tmp_path, capsys):
    gpt_of().save_to_preset(tmp_path / "gpt", format="diptych")
    for flags, said in (
        (["--format", "torch_export"], "--format torch_export holds no decoder .*: expected --format onnx"),
        (["--precision", "int8"], "--precision int8 is not for a model that writes"),
    ):
        assert main(["--model", str(tmp_path / "gpt"), "--output", str(tmp_path / "out"), *flags]) == 1
        assert re.search(said, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
