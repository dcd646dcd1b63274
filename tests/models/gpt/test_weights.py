"""GPT-1's weights in and out: transformers' folders of all ages, OpenAI's shards, and what does not fit."""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest

from diptych.core.files.errors import WeightFileError
from diptych.core.weights.flat_shards import FlatShards
from diptych.core.weights.mapping import WeightsMismatch
from diptych.core.weights.open import open_weights
from diptych.core.weights.safetensors import write_safetensors
from diptych.engine.training.origins import origin_of
from diptych.models import SigLIP, from_preset
from diptych.models.checkpoints import read_checkpoint
from diptych.models.gpt.config import GPTConfig
from diptych.models.gpt.model import GPT
from diptych.models.gpt.presets import PRESETS
from diptych.models.presets import preset_config
from diptych.recipes.siglip import siglip
from tests.models.examples import forward, numpy_of, value_and_gradients
from tests.models.gpt.small_gpt import CONFIG, gpt_of, texts

OF_OPENAI = GPTConfig(width=64, depth=2, mlp_dim=256, num_heads=1, vocab_size=13, context_length=7)


def values_of(model: GPT) -> dict[str, np.ndarray]:
    return {variable.path: keras.ops.convert_to_numpy(variable.value) for variable in model.weights}


def assert_same(model: GPT, other: GPT) -> None:
    assert model.config == other.config
    expected = values_of(other)
    assert len(expected) == 2 + 12 * other.config.depth
    for path, value in values_of(model).items():
        assert value.tobytes() == expected[path].tobytes(), path


def read(path) -> dict[str, np.ndarray]:
    with open_weights(path) as files:
        return {name: files.read(name) for name in files.shapes}


@pytest.fixture
def theirs(tmp_path):
    """A model of transformers with random weights, and the folder it was saved to."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    config = transformers.OpenAIGPTConfig(
        vocab_size=23, n_positions=9, n_embd=16, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=None
    )
    model = transformers.OpenAIGPTLMHeadModel(config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2 + ("ln_" in name and "weight" in name))
    model.save_pretrained(tmp_path / "theirs")
    return model, tmp_path / "theirs"


def test_logits_hidden_states_loss_and_gradients_are_transformers(theirs):
    import torch

    model, folder = theirs
    ours, ids = GPT.from_preset(folder), texts()
    assert ours.config == CONFIG
    given = torch.tensor(ids).long()
    outputs = model(given, labels=given, output_hidden_states=True)
    outputs.loss.backward()
    close = {"rtol": 2e-5, "atol": 2e-5}
    for got, expected in zip(forward(ours.hidden_states, ids), outputs.hidden_states, strict=True):
        np.testing.assert_allclose(numpy_of(got), expected.detach().numpy(), **close)
    logits = forward(lambda ids: ours.logits(ours(ids)["tokens"]), ids)
    np.testing.assert_allclose(numpy_of(logits), outputs.logits.detach().numpy(), **close)
    variables = ours.trainable_variables
    loss, gradients = value_and_gradients(lambda: keras.ops.mean(ours.token_losses(ids)), variables)
    np.testing.assert_allclose(numpy_of(loss), outputs.loss.item(), **close)
    table = read_checkpoint(folder).names(open_weights(folder))
    named = dict(zip((variable.path for variable in variables), gradients, strict=True))
    of_theirs = dict(model.named_parameters())
    compared = 0
    for rule in table.rules:
        got, expected = numpy_of(named[rule.ours[0]]), of_theirs[rule.theirs[0]].grad.numpy()
        np.testing.assert_allclose(got, expected, **close, err_msg=rule.ours[0])
        assert np.abs(expected).max() > 1e-4 or "qkv_bias" in rule.ours[0]
        compared += 1
    assert compared == len(variables) == 26


def test_transformers_files_come_back_bit_for_bit(theirs, tmp_path):
    import transformers

    model, folder = theirs
    GPT.from_preset(folder).save_to_preset(tmp_path / "ours")
    before, after = read(folder), read(tmp_path / "ours")
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    again, found = transformers.OpenAIGPTLMHeadModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(found.values())
    given = model.dummy_inputs["input_ids"] % 23
    np.testing.assert_array_equal(again(given).logits.detach(), model(given).logits.detach())


def test_generation_is_transformers(theirs):
    import torch

    model, folder = theirs
    prompts = texts(3)
    ours = GPT.from_preset(folder)
    for choices, given in (({}, {}), ({"num_beams": 3}, {"beams": 3})):
        expected = model.generate(
            torch.tensor(prompts).long(),
            attention_mask=torch.ones(prompts.shape, dtype=torch.long),
            max_new_tokens=6,
            do_sample=False,
            use_cache=False,
            pad_token_id=0,
            **choices,
        )
        got = numpy_of(ours.generate(prompts, steps=6, **given))
        assert np.array_equal(got, expected[:, 3:].numpy()), choices


@pytest.mark.parametrize("age", ["bare", "with masks", "with heads", "old"])
def test_names_of_all_ages_are_read(age, tmp_path):
    model = gpt_of()
    model.save_to_preset(tmp_path)
    tensors = read(tmp_path)
    if age == "bare":
        tensors = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    if age in ("with masks", "old"):
        mask = np.tril(np.ones((9, 9), "float32"))[None, None]
        tensors |= {f"transformer.h.{layer}.attn.bias": mask for layer in range(2)}
        tensors |= {"transformer.position_ids": np.arange(9)}
    if age == "with heads":
        tensors |= {
            "lm_head.weight": tensors["transformer.tokens_embed.weight"],
            "multiple_choice_head.summary.weight": np.ones((1, 16), "float32"),
            "multiple_choice_head.summary.bias": np.ones(1, "float32"),
        }
    if age == "old":

        def old(name):
            if name.endswith((".attn.bias", "_embed.weight", "position_ids")):
                return name
            name = name.replace(".bias", ".b")
            return name.replace(".weight", ".g" if ".ln_" in name else ".w")

        tensors = {old(name): value for name, value in tensors.items()}
        assert "transformer.h.1.ln_2.g" in tensors
        fields = json.loads((tmp_path / "config.json").read_text()) | {"vocab_size": 20, "n_special": 3}
        (tmp_path / "config.json").write_text(json.dumps(fields))
    write_safetensors(tmp_path / "model.safetensors", tensors)
    assert_same(GPT.from_preset(tmp_path), model)


def openai_files(model: GPT) -> tuple[list[tuple[int, ...]], np.ndarray]:
    """OpenAI's shapes and numbers, from their own description."""
    values = {path.removeprefix("decoder/"): value for path, value in values_of(model).items()}
    order = ["position_embedding/embedding", "token_embedding/embedding"]
    for block in range(model.config.depth):
        parts = (
            "attention/qkv_kernel attention/qkv_bias attention/out_kernel attention/out_bias attention_norm/scale "
            "attention_norm/bias mlp/in_kernel mlp/in_bias mlp/out_kernel mlp/out_bias mlp_norm/scale mlp_norm/bias"
        )
        order += [f"block_{block:02d}/{part}" for part in parts.split()]
    shapes = [(1, *values[name].shape) if name.endswith("kernel") else values[name].shape for name in order]
    return shapes, np.concatenate([values[name].ravel() for name in order])


def test_openais_shards_are_read_and_written_bit_for_bit(tmp_path):
    model = gpt_of(OF_OPENAI)
    shapes, numbers = openai_files(model)
    (tmp_path / "params_shapes.json").write_text(json.dumps(shapes))
    for place, part in enumerate(np.array_split(numbers, 10)):
        np.save(tmp_path / f"params_{place}.npy", part)
    assert_same(GPT.from_preset(tmp_path), model)
    assert_same(GPT.from_preset(tmp_path / "params_shapes.json"), model)
    GPT.from_preset(tmp_path).save_to_preset(tmp_path / "ours", format="openai")
    for file in sorted(tmp_path.glob("params_*.npy")):
        assert (tmp_path / "ours" / file.name).read_bytes() == file.read_bytes(), file.name
    assert json.loads((tmp_path / "ours" / "params_shapes.json").read_text()) == [list(shape) for shape in shapes]


def test_the_shapes_of_the_released_files_are_those_of_the_papers_model(tmp_path):
    block = [(1, 768, 2304), (2304,), (1, 768, 768), (768,), (768,), (768,), (1, 768, 3072), (3072,), (1, 3072, 768)]
    shapes = [(512, 768), (40478, 768), *(12 * [*block, (768,), (768,), (768,)])]
    assert len(shapes) == 146
    (tmp_path / "params_shapes.json").write_text(json.dumps(shapes))
    sizes = [11_653_479] * 4 + [11_653_478] * 6
    for place, size in enumerate(sizes):
        with open(tmp_path / f"params_{place}.npy", "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (size,)})
            file.truncate(file.tell() + 4 * size)  # zeros that take no room
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.config == PRESETS["gpt1"]
    with FlatShards(tmp_path / "params_shapes.json") as files:
        checkpoint.names(files).check(None, files)
        assert files.read("145").shape == (768,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "params_4.npy").unlink(), "needs params_4.npy beside it, which is not there"),
        (lambda folder: (folder / "params_4.npy").write_bytes(b"nothing"), "'params_4.npy' is no array"),
        (lambda folder: np.save(folder / "params_4.npy", np.zeros(7, "float32")), "values, and params_0.npy to"),
        (lambda folder: np.save(folder / "params_4.npy", np.zeros(7, "float64")), "expected float32 in one axis"),
        (lambda folder: cut_short(folder / "params_4.npy"), "It was cut short or changed"),
        (lambda folder: (folder / "params_shapes.json").write_text("{"), "is not JSON"),
        (lambda folder: (folder / "params_shapes.json").write_text('{"a": 1}'), "is no list of up to"),
        (lambda folder: (folder / "params_shapes.json").write_text("[[3], [-1]]"), "is no list of up to"),
    ],
)
def test_shards_that_do_not_fit_say_which(change, message, tmp_path):
    gpt_of(OF_OPENAI).save_to_preset(tmp_path, format="openai")
    change(tmp_path)
    with pytest.raises(WeightFileError, match=message):
        GPT.from_preset(tmp_path)


def cut_short(path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def test_what_a_layout_cannot_say_is_refused(tmp_path):
    model = gpt_of()
    with pytest.raises(ValueError, match="read with heads of 64; here they are 8 wide"):
        model.save_to_preset(tmp_path, format="openai")
    with pytest.raises(ValueError, match=r"cannot express predicts 'rows' \(there 'tokens'\)"):
        gpt_of(replace(CONFIG, predicts="rows")).save_to_preset(tmp_path)
    with pytest.raises(ValueError, match="format must be one of diptych, transformers, openai, got 'open_clip'"):
        model.save_to_preset(tmp_path, format="open_clip")
    model.save_to_preset(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    for field, value, message in (
        ("afn", "relu", 'afn is "relu", expected one of gelu, gelu_new'),
        ("tie_word_embeddings", False, "expected true: the token table is the logits' kernel"),
        ("n_head", 3, "width must be a multiple of num_heads"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(fields | {field: value}))
        with pytest.raises(ValueError, match=message):
            GPT.from_preset(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(fields | {"n_layer": 3}))
    with pytest.raises(WeightsMismatch, match=r"12 missing: transformer\.h\.2\.attn\.c_attn\.weight"):
        GPT.from_preset(tmp_path)


def test_our_own_layout_keeps_every_switch(tmp_path):
    model = gpt_of(replace(CONFIG, predicts="rows", dropout_on="table"))
    model.save_to_preset(tmp_path, format="diptych")
    assert_same(GPT.from_preset(tmp_path), model)


def test_a_gpt_is_not_taken_for_two_towers(tmp_path):
    gpt_of().save_to_preset(tmp_path)
    for load in (SigLIP.from_preset, from_preset):
        for preset in (tmp_path, "gpt1_tiny"):
            with pytest.raises(ValueError, match=r"holds a GPT; use GPT\.from_preset"):
                load(preset)
    with pytest.raises(ValueError, match="--pretrained .* is a GPT, which has no tower for pictures"):
        origin_of(str(tmp_path), "--pretrained", siglip())
    with pytest.raises(ValueError, match="'gpt1' is a GPT, and two towers are expected"):
        preset_config("gpt1")
    with pytest.raises(ValueError, match=r"siglip_b16_224 holds a SigLIP; use SigLIP\.from_preset"):
        GPT.from_preset("siglip_b16_224")


def test_sizes_by_name_have_fresh_weights():
    model = GPT.from_preset("gpt1_tiny", load_weights=False, seed=4)
    assert model.config == PRESETS["gpt1_tiny"]
    assert_same(model, GPT(PRESETS["gpt1_tiny"], seed=4))
