"""GPT-1 with a second head: its equations, its beginning, what each part of a batch may change, and its folder."""

from dataclasses import replace

import numpy as np
import pytest

from diptych.models import GPT, GPTConfig, GPTDoubleHeads
from diptych.models.abstract import shapes_only
from diptych.models.counting import count_flops, count_parameters
from diptych.models.gpt.double_heads_config import GPTDoubleHeadsConfig, count_double_heads_parameters
from diptych.models.gpt.presets import PRESETS
from tests.marks import ABOVE_THE_BACKENDS
from tests.models.examples import forward, numpy_of
from tests.models.gpt.small_double_heads import DECODER, TASKS, config_of, double_heads_of, sequences_for
from tests.oracle.gpt import double_heads


def oracle(model, batch, language_weight=0.5):
    weights = {weight.path: np.asarray(numpy_of(weight.value), "float64") for weight in model.weights}
    return double_heads(
        weights, batch, depth=2, num_heads=2, choices=bool(model.config.task.choices), language_weight=language_weight
    )


def inputs_of(batch):
    return {name: batch[name] for name in ("token_ids", "extract")}


@pytest.mark.parametrize("layout", TASKS)
def test_logits_are_those_of_the_oracle(layout):
    model = double_heads_of(config_of(layout))
    batch = sequences_for(model.config)
    logits = numpy_of(forward(model, inputs_of(batch)))
    assert logits.shape == (4, model.config.task.outputs)
    np.testing.assert_allclose(logits, oracle(model, batch).logits, rtol=2e-5, atol=2e-5)
    # What stands behind the extract token is seen by nothing.
    padded = inputs_of(batch)
    ends = np.arange(9) > batch["extract"][..., None]
    padded["token_ids"] = np.where(ends, 5, batch["token_ids"]).astype("int32")
    assert ends.any()
    np.testing.assert_allclose(numpy_of(forward(model, padded)), logits, rtol=1e-5, atol=1e-6)


@ABOVE_THE_BACKENDS
def test_both_orders_of_a_pair_answer_alike():
    model = double_heads_of(config_of("similarity"))
    batch = inputs_of(sequences_for(model.config))
    turned = {name: x[:, ::-1].copy() for name, x in batch.items()}
    np.testing.assert_allclose(numpy_of(model(turned)), numpy_of(model(batch)), rtol=1e-5, atol=1e-6)


@ABOVE_THE_BACKENDS
def test_it_begins_as_the_language_model_with_a_fresh_head():
    config = GPTDoubleHeadsConfig(
        decoder=replace(DECODER, width=64, mlp_dim=64, vocab_size=400), task=TASKS["classification"]
    )
    model, language_model = GPTDoubleHeads(config, seed=3), GPT(config.decoder, seed=3)
    own = {weight.path: numpy_of(weight) for weight in model.weights}
    for weight in language_model.weights:
        assert numpy_of(weight).tobytes() == own.pop(weight.path).tobytes()
    assert set(own) == {"classifier/kernel", "classifier/bias"}
    assert not own["classifier/bias"].any()
    kernel = own["classifier/kernel"]
    assert abs(kernel.std() / 0.02 - 1) < 4 / np.sqrt(2 * kernel.size)


@ABOVE_THE_BACKENDS
def test_the_papers_model_has_its_parameters():
    paper = replace(PRESETS["gpt1"], vocab_size=40_481)
    config = GPTDoubleHeadsConfig(decoder=paper, task=TASKS["multiple_choice"])
    counted = count_double_heads_parameters(config)
    assert counted["total"] == 116_534_784 + 2_304 + 769
    assert (config.special.start, config.special.extract) == (40_478, 40_480)
    with shapes_only():
        assert GPTDoubleHeads(config).count_params() == counted["total"]
    assert count_parameters(config) == counted
    cut = replace(config, length=100)
    of_a_text = count_flops(replace(paper, context_length=100), batch_size=1)
    assert count_flops(cut, batch_size=1)["training"] == 3 * of_a_text["training"]


@ABOVE_THE_BACKENDS
def test_dropout_of_the_head_is_one_mask_for_all_sequences_of_an_example():
    model = double_heads_of(config_of("multiple_choice", head_dropout=0.5))
    features = np.ones((4, 3, 9, 16), "float32") * np.arange(1, 4)[None, :, None, None]
    extract, seeds = np.zeros((4, 3), "int32"), np.arange(4, dtype="int32")
    bias = float(numpy_of(model.head.bias)[0])
    dropped = numpy_of(model.head(features, extract, seeds)) - bias
    np.testing.assert_allclose(dropped / dropped[:, :1], np.broadcast_to([1, 2, 3], (4, 3)), rtol=1e-4)
    assert len(np.unique(dropped[:, 0])) == 4
    whole = numpy_of(model.head(features, extract)) - bias
    np.testing.assert_allclose(whole[0], whole[1], rtol=1e-5)


@ABOVE_THE_BACKENDS
def test_it_is_saved_and_read_with_its_task(tmp_path):
    model = double_heads_of(config_of("similarity"))
    model.save_to_preset(tmp_path)
    again = GPTDoubleHeads.from_preset(tmp_path)
    assert again.config == model.config
    for before, after in zip(model.weights, again.weights, strict=True):
        assert (before.path, numpy_of(before).tobytes()) == (after.path, numpy_of(after).tobytes())
    with pytest.raises(ValueError, match="holds a GPTDoubleHeads; use GPTDoubleHeads.from_preset"):
        GPT.from_preset(tmp_path)
    with pytest.raises(ValueError, match="format must be one of diptych, got 'transformers'"):
        model.save_to_preset(tmp_path, format="transformers")


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="head_dropout must be at least 0 and below 1, got 1"):
        config_of("similarity", head_dropout=1)
    with pytest.raises(ValueError, match="a vocabulary and 3 special tokens behind it, got 3"):
        GPTDoubleHeadsConfig(decoder=replace(DECODER, vocab_size=3), task=TASKS["similarity"])
    small = GPTConfig(width=16, depth=1, mlp_dim=16, num_heads=1, vocab_size=9, context_length=5)
    with pytest.raises(ValueError, match="needs 6 positions or more, got 5"):
        GPTDoubleHeadsConfig(decoder=small, task=TASKS["similarity"])
