"""The captioning decoder: who sees whom, which weights there are, what they cost, and that files keep them."""

import json
from dataclasses import asdict, replace
from functools import cache

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from diptych.core.losses.captioning import (
    captioning_loss,
    chunked_cross_entropy,
    combine_tasks,
    cross_entropy,
    tasks_present,
)
from diptych.core.training.optimizers import KERNELS
from diptych.core.training.patterns import matching
from diptych.core.weights.safetensors import read_tensors
from diptych.models.abstract import shapes_only
from diptych.models.captioner.config import (
    CaptionerConfig,
    captioner_config,
    captioner_flops,
    count_captioner_parameters,
)
from diptych.models.captioner.model import Captioner
from diptych.models.presets import PRESETS
from tests.models.examples import numpy_of, value_and_gradients
from tests.models.operations import forward_flops
from tests.oracle.captioner import captioner as oracle
from tests.oracle.captioner_examples import draw_captioner_problem, weight_shapes

TINY = CaptionerConfig(
    width=12, depth=2, mlp_dim=20, num_heads=3, vocab_size=17, context_length=6, encoder_width=10
)  # fmt: skip
VARIANTS = {
    "reference": TINY,
    "biases": replace(TINY, use_bias=True, depth=1),
    "tied": replace(TINY, tie_embeddings=True),
}


def problem(config=TINY, **shape):
    return draw_captioner_problem(asdict(config), **{"seed": 1, "batch_size": 3, "image_tokens": 4, **shape})


def with_weights(config, weights, **arguments) -> Captioner:
    captioner = Captioner(config, **arguments)
    for name, variable in captioner.named_weights().items():
        variable.assign(weights[name])
    return captioner


@cache
def tiny() -> tuple[Captioner, dict]:
    weights, batch = problem()
    return with_weights(TINY, weights), batch


def features(captioner, batch, **changes) -> np.ndarray:
    batch = batch | changes
    return numpy_of(
        captioner(
            batch["token_ids"],
            batch["encoder_tokens"],
            parallel=batch["parallel"],
            encoder_mask=batch["encoder_mask"],
        )
    )


def loss_of(captioner, batch, encoder_tokens):
    """The oracle's loss, by the library's parts."""
    hidden = captioner(
        batch["token_ids"], encoder_tokens, parallel=batch["parallel"], encoder_mask=batch["encoder_mask"]
    )
    losses = chunked_cross_entropy(
        ops.reshape(hidden, (-1, captioner.config.width)),
        captioner.logits_kernel,
        captioner.logits_bias,
        batch["token_ids"].reshape(-1),
        tokens_per_chunk=16,
    )
    losses = captioning_loss(ops.reshape(losses, batch["token_ids"].shape), batch["weights"])
    return ops.mean(combine_tasks(losses, tasks_present(batch["weights"])))


def loss_and_gradients(captioner, batch):
    """-> loss, {name: gradient}, "encoder_tokens" among them."""
    image = keras.Variable(batch["encoder_tokens"])
    named = captioner.named_weights()
    value, gradients = value_and_gradients(lambda: loss_of(captioner, batch, image.value), [*named.values(), image])
    return float(value), dict(zip([*named, "encoder_tokens"], map(numpy_of, gradients), strict=True))


def relative_error(got, expected) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("name", VARIANTS)
def test_features_loss_and_all_gradients_are_the_oracles(name):
    config = VARIANTS[name]
    weights, batch = problem(config)
    answer = oracle(asdict(config), weights, batch)
    captioner = with_weights(config, weights)
    assert relative_error(features(captioner, batch), answer.hidden) < 1e-5
    loss, gradients = loss_and_gradients(captioner, batch)
    assert loss == pytest.approx(answer.loss, rel=1e-5)
    expected = answer.gradients | {"encoder_tokens": answer.encoder_tokens}
    assert set(gradients) == set(expected)
    for path, gradient in expected.items():
        assert relative_error(gradients[path], gradient) < 1e-4, path
    assert not relative_error(-gradients["norm/scale"], expected["norm/scale"]) < 1e-4


def test_rematerialisation_changes_neither_value_nor_gradients():
    weights, batch = problem()
    plain, again = (
        loss_and_gradients(with_weights(TINY, weights, rematerialize=choice), batch) for choice in (False, True)
    )
    assert again[0] == pytest.approx(plain[0], rel=1e-6)
    for path, gradient in plain[1].items():
        assert relative_error(again[1][path], gradient) < 1e-5, path


def test_a_causal_token_is_predicted_from_those_before_it_and_a_parallel_one_from_none():
    captioner, batch = tiny()
    before = features(captioner, batch)
    for place in range(TINY.context_length):
        changed = batch["token_ids"].copy()
        changed[..., place] = (changed[..., place] + 1) % TINY.vocab_size
        after = features(captioner, batch, token_ids=changed)
        same = np.all(np.isclose(after, before, rtol=1e-5, atol=1e-5), axis=-1)
        # The token enters one place further on, from where all later places see it.
        expected = batch["parallel"][..., None] | (np.arange(TINY.context_length) <= place)
        assert np.array_equal(same, expected)


def test_places_of_a_parallel_sequence_see_each_other():
    captioner, batch = tiny()
    everywhere = np.ones_like(batch["parallel"])
    whole = features(captioner, batch, parallel=everywhere)
    shorter = features(captioner, batch, parallel=everywhere, token_ids=batch["token_ids"][..., :-1])
    assert not np.any(np.all(np.isclose(whole[:, :, :-1], shorter, atol=1e-4), axis=-1))


def test_the_first_token_is_predicted_from_padding():
    captioner, batch = tiny()
    nowhere = np.zeros_like(batch["parallel"])
    one = features(captioner, batch, parallel=nowhere)[:, :, :1]
    zeros = np.zeros((*batch["token_ids"].shape[:2], 1), "int32")
    alone = features(captioner, batch, parallel=nowhere, token_ids=zeros)
    assert np.allclose(one, alone, atol=1e-5)
    assert np.allclose(alone, alone[:, :1], atol=1e-5)  # the same for every task


def test_sequences_of_a_batch_are_predicted_as_they_are_alone():
    captioner, batch = tiny()
    together = features(captioner, batch)
    for row in range(3):
        for task in range(3):
            alone = {name: value[row : row + 1] for name, value in batch.items()}
            changes = {name: alone[name][:, task : task + 1] for name in ("token_ids", "parallel")}
            assert np.allclose(features(captioner, alone, **changes)[0, 0], together[row, task], atol=1e-5)


def test_without_a_word_about_it_everything_is_causal_and_all_of_the_image_is_seen():
    captioner, batch = tiny()
    plain = numpy_of(captioner(batch["token_ids"], batch["encoder_tokens"]))
    named = features(
        captioner,
        batch,
        parallel=np.zeros_like(batch["parallel"]),
        encoder_mask=np.ones_like(batch["encoder_mask"]),
    )
    assert np.allclose(plain, named, atol=1e-6)


def test_padding_of_the_image_is_not_seen():
    captioner, batch = tiny()
    present = batch["encoder_mask"]
    assert not present.all()
    noisy = np.where(present[..., None], batch["encoder_tokens"], 100.0).astype("float32")
    assert np.allclose(features(captioner, batch, encoder_tokens=noisy), features(captioner, batch), atol=1e-5)
    row = np.flatnonzero(~present.all(1))[0]
    cut = {name: value[row : row + 1] for name, value in batch.items()}
    cut["encoder_tokens"] = cut["encoder_tokens"][:, present[row]]
    cut["encoder_mask"] = cut["encoder_mask"][:, present[row]]
    assert np.allclose(features(captioner, cut)[0], features(captioner, batch)[row], atol=1e-5)


def test_the_order_of_image_tokens_does_not_matter_and_their_content_does():
    captioner, batch = tiny()
    whole = np.ones_like(batch["encoder_mask"])
    before = features(captioner, batch, encoder_mask=whole)
    turned = batch["encoder_tokens"][:, ::-1].copy()
    assert np.allclose(features(captioner, batch, encoder_mask=whole, encoder_tokens=turned), before, atol=1e-5)
    other = features(captioner, batch, encoder_mask=whole, encoder_tokens=batch["encoder_tokens"][::-1].copy())
    assert not np.allclose(other[0], before[0], atol=1e-2)


def test_a_fresh_decoder_finds_every_token_equally_likely():
    captioner = Captioner(TINY)
    _, batch = problem()
    logits = numpy_of(captioner.logits(captioner(batch["token_ids"], batch["encoder_tokens"])))
    assert logits.shape == (3, 3, 6, 17)
    assert not logits.any()
    loss = float(numpy_of(loss_of(captioner, batch, batch["encoder_tokens"])))
    assert loss == pytest.approx(np.log(17), rel=1e-6)


def test_logits_are_those_of_the_loss():
    captioner, batch = tiny()
    hidden = captioner(batch["token_ids"], batch["encoder_tokens"])
    logits = numpy_of(captioner.logits(hidden)).astype("float64")
    labels = batch["token_ids"]
    by_hand = np.logaddexp.reduce(logits, -1) - np.take_along_axis(logits, labels[..., None], -1)[..., 0]
    losses = cross_entropy(
        ops.reshape(hidden, (-1, 12)), captioner.logits_kernel, captioner.logits_bias, labels.reshape(-1)
    )
    assert np.allclose(numpy_of(losses).reshape(labels.shape), by_hand, rtol=1e-4, atol=1e-5)


def test_mixed_precision_computes_in_bfloat16_and_keeps_weights_and_logits_in_float32():
    weights, batch = problem()
    mixed = with_weights(TINY, weights, dtype="mixed_bfloat16")
    hidden = mixed(batch["token_ids"], batch["encoder_tokens"])
    assert keras.backend.standardize_dtype(hidden.dtype) == "bfloat16"
    assert keras.backend.standardize_dtype(mixed.logits(hidden).dtype) == "float32"
    assert {variable.dtype for variable in mixed.variables} == {"float32"}
    loss, gradients = loss_and_gradients(mixed, batch)
    single, expected = loss_and_gradients(with_weights(TINY, weights), batch)
    assert loss == pytest.approx(single, rel=0.02)
    flat = (np.concatenate([g.ravel() for g in named.values()]) for named in (gradients, expected))
    assert relative_error(*flat) < 0.1


def test_the_weights_are_those_that_are_listed_and_kernels_alone_decay():
    for config in VARIANTS.values():
        captioner = Captioner(config)
        shapes = {name: tuple(variable.shape) for name, variable in captioner.named_weights().items()}
        assert shapes == weight_shapes(asdict(config))
        paths = [variable.path for variable in captioner.variables]
        assert all(path.startswith("captioner/") for path in paths)
        decayed = {path for path, hit in zip(paths, matching(KERNELS, paths), strict=True) if hit}
        matrices = {variable.path for variable in captioner.variables if len(variable.shape) == 2}
        assert decayed == {path for path in matrices if not path.endswith("embedding")}
        assert ("captioner/logits_kernel" in decayed) is not config.tie_embeddings


def test_weights_are_drawn_as_cappa_draws_them():
    captioner = Captioner(replace(TINY, width=96, vocab_size=500, mlp_dim=200, encoder_width=60))
    spread = {name: float(np.std(numpy_of(variable))) for name, variable in captioner.named_weights().items()}
    expected = {
        "token_embedding/embedding": 1.0,
        "position_embedding/embedding": 96**-0.5,
        "block_01/token_attention/qkv_kernel": 96**-0.5,
        "block_01/image_attention/key_value_kernel": 60**-0.5,
        "block_01/image_attention/out_kernel": 96**-0.5,
        "block_01/mlp/in_kernel": (2 / 296) ** 0.5,
        "logits_kernel": 0.0,
        "logits_bias": 0.0,
    }
    for name, value in expected.items():
        assert spread[name] == pytest.approx(value, rel=0.05), name


def test_another_seed_draws_other_weights_and_the_same_seed_the_same():
    first, again, other = (Captioner(TINY, seed=seed).named_weights() for seed in (0, 0, 1))
    for name, variable in first.items():
        assert np.array_equal(numpy_of(variable), numpy_of(again[name]))
        drawn = name.endswith(("embedding", "kernel")) and name != "logits_kernel"
        assert np.array_equal(numpy_of(variable), numpy_of(other[name])) is not drawn


def test_files_keep_every_bit(tmp_path):
    weights, batch = problem()
    captioner = with_weights(TINY, weights)
    captioner.save_to(tmp_path / "decoder")
    assert sorted(path.name for path in (tmp_path / "decoder").iterdir()) == ["captioner.json", "captioner.safetensors"]
    stored = read_tensors(tmp_path / "decoder" / "captioner.safetensors")
    assert {name: value.tobytes() for name, value in stored.items()} == {
        name: value.tobytes() for name, value in weights.items()
    }
    loaded = Captioner.from_folder(tmp_path / "decoder", rematerialize=True, name="decoder")
    assert loaded.config == TINY
    assert loaded.rematerialize
    assert all(np.array_equal(numpy_of(v), weights[name]) for name, v in loaded.named_weights().items())
    assert np.array_equal(features(loaded, batch), features(captioner, batch))


def test_a_folder_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no captioner: expected captioner\.json"):
        Captioner.from_folder(tmp_path)
    Captioner(TINY).save_to(tmp_path)
    fields = json.loads((tmp_path / "captioner.json").read_text())
    fields["config"]["depth"] = 3
    (tmp_path / "captioner.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="block_02/"):
        Captioner.from_folder(tmp_path)


def test_it_is_a_keras_layer_that_can_be_rebuilt_and_nested():
    captioner = Captioner(asdict(TINY), dtype="mixed_bfloat16", rematerialize=True, seed=3)
    twin = Captioner.from_config(json.loads(json.dumps(captioner.get_config())))
    assert (twin.config, twin.seed, twin.rematerialize, twin.compute_dtype) == (TINY, 3, True, "bfloat16")

    class Outer(keras.Model):
        def __init__(self):
            super().__init__(name="outer")
            self.captioner = Captioner(TINY)

    assert "captioner/block_00/mlp/in_kernel" in {variable.path for variable in Outer().variables}


# preset: (millions of parameters, layers)
SIZES = {
    "siglip2_base_patch16_256": (450.160384, 6),
    "siglip2_large_patch16_256": (725.9, 12),
    "siglip2_so400m_patch14_384": (857, 13),
    "siglip2_giant_patch16_384": (868.5, 13),
}


@pytest.mark.parametrize("preset", SIZES)
def test_the_papers_sizes_have_the_counted_weights(preset):
    millions, depth = SIZES[preset]
    config = captioner_config(PRESETS[preset])
    assert config.depth == depth
    counted = count_captioner_parameters(config)
    assert counted["total"] / 1e6 == pytest.approx(millions, abs=0.5 if millions > 500 else 1e-6)
    with shapes_only():
        captioner = Captioner(config)
    assert captioner.count_params() == counted["total"]


def test_the_base_decoder_is_mostly_vocabulary():
    counted = count_captioner_parameters(captioner_config(PRESETS["siglip2_base_patch16_256"]))
    table, positions, blocks, logits = 256_001 * 768, 64 * 768, 56_638_464, 769 * 256_000
    assert counted == {
        "embedding": table + positions,
        "blocks": blocks,
        "logits": logits,
        "total": table + positions + blocks + logits,
    }


@st.composite
def configs(draw):
    heads = draw(st.integers(1, 3))
    small = st.integers(1, 5)
    return CaptionerConfig(
        width=heads * draw(small),
        depth=draw(st.integers(1, 3)),
        mlp_dim=draw(st.integers(1, 20)),
        num_heads=heads,
        vocab_size=draw(st.integers(1, 40)),
        context_length=draw(small),
        encoder_width=draw(small),
        use_bias=draw(st.booleans()),
        tie_embeddings=draw(st.booleans()),
    )


@settings(max_examples=20, deadline=None)
@given(configs())
def test_the_arithmetic_counts_any_decoder(config):
    with shapes_only():
        captioner = Captioner(config)
    assert captioner.count_params() == count_captioner_parameters(config)["total"]


@pytest.mark.parametrize("name", ["reference", "biases"])
def test_the_layers_do_exactly_the_counted_products(name):
    captioner, (_, batch) = Captioner(VARIANTS[name]), problem(length=5)

    def run(batch):
        hidden = captioner(batch["token_ids"], batch["encoder_tokens"])
        return {"image_embedding": captioner.logits(hidden)}

    counted = captioner_flops(captioner.config, image_tokens=4, tasks=3, length=5)
    assert forward_flops(run, batch) == 3 * counted["total"]
    assert counted["logits"] == 2 * 3 * 5 * 12 * 17


def test_the_default_decoder_follows_the_text_tower():
    emoji = captioner_config(PRESETS["emoji"], context_length=32, tie_embeddings=True, use_bias=True)
    assert emoji == CaptionerConfig(
        width=128, depth=1, mlp_dim=256, num_heads=2, vocab_size=8_000, context_length=32, encoder_width=128,
        use_bias=True, tie_embeddings=True,
    )  # fmt: skip
    giant = captioner_config(PRESETS["siglip2_giant_patch16_384"], depth=14)
    assert (giant.width, giant.depth, giant.encoder_width, giant.context_length) == (1152, 14, 1536, 64)
    assert captioner_config(PRESETS["siglip2_base_patch16_naflex"]).encoder_width == 768


def test_impossible_decoders_are_refused():
    for field in ("width", "depth", "mlp_dim", "num_heads", "vocab_size", "context_length", "encoder_width"):
        for value in (0, -1, 1.5, None):
            with pytest.raises(ValueError, match=f"{field} must be a positive integer, got {value}"):
                replace(TINY, **{field: value})
    with pytest.raises(ValueError, match="width must be a multiple of num_heads, got width 12 and 5 heads"):
        replace(TINY, num_heads=5)


def test_a_sequence_without_positions_is_refused():
    captioner, batch = tiny()
    with pytest.raises(ValueError, match="positions for 6 tokens, got sequences of 7"):
        captioner(np.zeros((3, 1, 7), "int32"), batch["encoder_tokens"])
