"""PaliGemma's laws: pictures, prefix, answers, padding. That it is transformers' `tests/agreement` holds."""

from dataclasses import replace

import numpy as np
import pytest

from diptych.models import Gemma, GemmaConfig, NaFlexVisionTransformer, PaliGemma, PaliGemmaConfig, SigLIP
from diptych.models.abstract import shapes_only
from diptych.models.cached_decoder import Prefilled
from diptych.models.paligemma.config import count_paligemma_parameters
from diptych.models.paligemma.generation import AnswerGenerator
from diptych.models.paligemma.presets import PRESETS
from diptych.models.siglip.config import NaFlexVisionConfig, VisionConfig
from tests.marks import ABOVE_THE_BACKENDS
from tests.models.examples import TINY, forward, numpy_of, value_and_gradients

VISION = VisionConfig(width=8, depth=1, mlp_dim=12, num_heads=2, patch_size=4, image_size=8, pooling="gap")
TEXT = GemmaConfig(
    width=12,
    depth=2,
    mlp_dim=20,
    num_heads=2,
    num_key_value_heads=1,
    head_dim=4,
    vocab_size=40,
    context_length=32,
    post_norms=True,
    attention_soft_cap=5.0,
)
CONFIG = PaliGemmaConfig(vision=VISION, text=TEXT)
RNG = np.random.default_rng(1)
LENGTH, PREFIX = 7, 4

PUBLISHED = {
    "paligemma_3b": (2_923_335_408, 2_924_220_144, 2_927_759_088),
    "paligemma2_3b": (3_032_094_960, 3_032_979_696, 3_036_518_640),
    "paligemma2_10b": (9_662_409_456, 9_663_294_192, 9_666_833_136),
    "paligemma2_28b": (27_650_192_112, 27_651_076_848, 27_654_615_792),
}
"""Parameters at 224, 448 and 896 px, with 257,152 rows of the table."""


def batch_of(pictures: int = 1) -> dict[str, np.ndarray]:
    """One example without padding: its first four tokens are the prompt."""
    shape = (1, 8, 8, 3) if pictures == 1 else (1, pictures, 8, 8, 3)
    return {
        "images": RNG.uniform(-1, 1, shape).astype("float32"),
        "token_ids": RNG.integers(3, 40, (1, LENGTH)).astype("int32"),
        "token_mask": np.ones((1, LENGTH), bool),
        "suffix_mask": np.arange(LENGTH)[None] >= PREFIX,
    }


def random_paligemma(config: PaliGemmaConfig = CONFIG, **arguments) -> PaliGemma:
    """A model none of whose weights is where it starts."""
    model, rng = PaliGemma(config, **arguments), np.random.default_rng(2)
    for variable in model.weights:
        # With larger embeddings the likeliest token would always be the last one again.
        deviation = 0.05 if "token_embedding" in variable.path else 0.5
        variable.assign(rng.normal(0, deviation, variable.shape).astype("float32"))
    return model


def features_of(model: PaliGemma, batch: dict) -> np.ndarray:
    return numpy_of(forward(lambda x: model(x)["tokens"], batch))


def moved(model: PaliGemma, batch: dict, *changes: dict) -> list[list[int]]:
    """For each of some changes of an example, the places of the text whose features it changes."""
    rows = [batch, *(batch | change for change in changes)]
    own, *others = features_of(model, {name: np.concatenate([row[name] for row in rows]) for name in batch})
    return [np.flatnonzero(np.abs(other - own).max(axis=-1) > 1e-4).tolist() for other in others]


@ABOVE_THE_BACKENDS
def test_sizes_are_those_published():
    for family, totals in PUBLISHED.items():
        for resolution, total in zip((224, 448, 896), totals, strict=True):
            assert count_paligemma_parameters(PRESETS[f"{family}_pt_{resolution}"])["total"] == total
        assert {f"{family}_mix_224", f"{family}_mix_448"} <= PRESETS.keys()
    assert count_paligemma_parameters(PRESETS["paligemma_3b_pt_224"])["image"] == 414_803_696 - 1_153 * 2_048
    with shapes_only():
        model = PaliGemma.from_preset("paligemma2_3b_pt_448", load_weights=False)
    assert model.count_params() == PUBLISHED["paligemma2_3b"][1]


def test_pictures_and_prompt_see_each_other_and_the_answer_is_not_seen_ahead():
    model, batch = random_paligemma(), batch_of()

    def other(place):
        ids = batch["token_ids"].copy()
        ids[0, place] = 39 if ids[0, place] != 39 else 38
        return ids

    changes = [{"token_ids": other(place)} for place in (PREFIX - 1, PREFIX, LENGTH - 1)]
    everything = list(range(LENGTH))
    assert moved(model, batch, *changes, {"images": -batch["images"]}) == [
        everything,
        list(range(PREFIX, LENGTH)),
        [LENGTH - 1],
        everything,
    ]


def test_padding_changes_nothing_wherever_it_stands():
    model, batch = random_paligemma(), batch_of()
    padded = {name: np.zeros((2, LENGTH + 3), value.dtype) for name, value in batch.items() if name != "images"}
    for row, place in enumerate((slice(0, LENGTH), slice(3, LENGTH + 3))):
        for name in padded:
            padded[name][row, place] = batch[name][0]
    found = features_of(model, {**padded, "images": np.repeat(batch["images"], 2, axis=0)})
    expected = features_of(model, batch)[0]
    for row in range(2):
        np.testing.assert_allclose(found[row][padded["token_mask"][row]], expected, rtol=1e-4, atol=1e-5)


@ABOVE_THE_BACKENDS
def test_each_picture_counts_and_in_its_order():
    model, batch = random_paligemma(pictures=3), batch_of(pictures=3)
    others = [batch["images"][:, ::-1]]
    for picture in range(3):
        others.append(batch["images"].copy())
        others[-1][0, picture] *= -1
    assert moved(model, batch, *({"images": images} for images in others)) == [list(range(LENGTH))] * 4
    with pytest.raises(ValueError, match="pictures must be 1"):
        PaliGemma(CONFIG, pictures=0)


def test_a_fresh_projector_shows_nothing_and_learns():
    model, batch = PaliGemma(CONFIG), batch_of()
    assert moved(model, batch, {"images": -batch["images"]}) == [[]]
    kernel = model.projector.kernel
    _, (gradient,) = value_and_gradients(lambda: model.token_losses(batch)[0, -1], [kernel])
    assert np.abs(numpy_of(gradient)).max() > 0


def test_projected_tokens_are_not_scaled():
    model = random_paligemma()
    soft = np.full((1, 4, TEXT.width), 0.5, "float32")
    x, _ = model.decoder.placed(np.array([[3]], "int32"), soft_tokens=soft)
    np.testing.assert_array_equal(numpy_of(x)[0, :4], soft[0])


def test_answers_are_those_without_a_cache():
    """Of prompts of unequal length, the first padded behind, the others in front."""
    model, steps, rng = random_paligemma(), 4, np.random.default_rng(6)
    prompts = [rng.integers(3, 40, length) for length in (4, 2, 6)]
    images = rng.uniform(-1, 1, (3, 8, 8, 3)).astype("float32")
    ids, mask = np.zeros((3, 6), "int32"), np.zeros((3, 6), bool)
    for row, prompt in enumerate(prompts):
        place = slice(6 - len(prompt), 6) if row else slice(0, len(prompt))
        ids[row, place], mask[row, place] = prompt, True
    given = {"images": images, "ids": ids, "mask": mask}
    got = numpy_of(forward(lambda x: model.generate(x["images"], x["ids"], x["mask"], steps=steps, eos_id=None), given))
    whole = np.zeros((3, 6 + steps), "int32")
    lengths = np.array([len(prompt) for prompt in prompts])
    for row, prompt in enumerate(prompts):
        whole[row, : len(prompt)] = prompt
        whole[row, len(prompt) : len(prompt) + steps] = got[row]
    places = np.arange(6 + steps)[None]
    batch = {
        "images": images,
        "token_ids": whole,
        "token_mask": places < lengths[:, None] + steps,
        "suffix_mask": places >= lengths[:, None],
    }
    logits = numpy_of(forward(lambda x: model.logits(model(x)["tokens"]), batch))
    for row, length in enumerate(lengths):
        assert np.array_equal(got[row], logits[row, length - 1 : length - 1 + steps].argmax(-1))
    assert len(np.unique(got)) > 3


def test_given_answers_are_scored_as_they_would_be_chosen():
    """Sums of the log-probabilities that a pass over prompt and answer gives, whatever is padded behind."""
    model, batch = random_paligemma(), batch_of()
    logits = numpy_of(forward(lambda x: model.logits(model(x)["tokens"]), batch)).astype("float64")
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    expected = sum(log_p[0, place - 1, batch["token_ids"][0, place]] for place in range(PREFIX, LENGTH))
    padded = {name: x if name == "images" else np.pad(x, ((0, 0), (0, 3))) for name, x in batch.items()}
    for given in (batch, padded):
        found = numpy_of(forward(model.answer_log_probabilities, given))
        np.testing.assert_allclose(found, [expected], rtol=1e-4)


def test_the_compiled_generator_gives_the_same_answers_batch_after_batch():
    model, choices = random_paligemma(), {"steps": 3, "temperature": 1.0, "top_k": 5}
    rng = np.random.default_rng(7)
    batch = {
        "images": rng.uniform(-1, 1, (2, 8, 8, 3)).astype("float32"),
        "token_ids": rng.integers(3, 40, (2, 4)).astype("int32"),
        "token_mask": np.array([[True] * 4, [True] * 3 + [False]]),
        "noise": rng.random((2, 3), dtype="float32"),
    }
    given = {"noise": batch["noise"], **choices}
    expected = forward(lambda x: model.generate(x["images"], x["token_ids"], x["token_mask"], **given), batch)
    generator = AnswerGenerator(model, **choices)
    np.testing.assert_array_equal(generator.predict_on_batch(batch), numpy_of(expected))
    one = {name: x[:1] for name, x in batch.items()}
    np.testing.assert_array_equal(generator.predict_on_batch(one), numpy_of(expected)[:1])


@ABOVE_THE_BACKENDS
def test_beams_of_each_prompt_look_at_its_own_picture():
    model, rng = random_paligemma(), np.random.default_rng(8)
    images, ids = rng.uniform(-1, 1, (3, 8, 8, 3)).astype("float32"), rng.integers(3, 40, (3, 4)).astype("int32")

    def found(rows, **choices):
        return numpy_of(model.generate(images[rows], ids[rows], steps=3, eos_id=None, **choices))

    together = found(slice(0, 3), beams=3)
    for row in range(3):
        np.testing.assert_array_equal(found(slice(row, row + 1), beams=3)[0], together[row])
    np.testing.assert_array_equal(found(slice(0, 3), beams=1), found(slice(0, 3)))
    assert len(np.unique(together, axis=0)) > 1


def test_answers_have_the_context_that_pictures_and_prompt_leave():
    soft = np.zeros((1, 2 * 4, TEXT.width), "float32")
    ids = np.ones((1, LENGTH), "int32")
    seen = Prefilled(PaliGemma(CONFIG).decoder, soft_tokens=soft, prompt_ids=ids, causal=False)
    assert seen.context_length == 32 - 2 * 4 - LENGTH


@ABOVE_THE_BACKENDS
def test_any_of_our_towers_can_take_the_place():
    pair, text = SigLIP(TINY, seed=3), Gemma(TEXT, seed=4)
    model = PaliGemma.of(pair, text, vocab_size=44, seed=5)
    assert (model.config.vision.pooling, model.config.text.vocab_size) == ("gap", 44)
    values = {weight.path: numpy_of(weight.value) for weight in (*pair.weights, *text.weights)}
    for weight in model.weights:
        if weight.path == "decoder/token_embedding/embedding":
            new = numpy_of(weight.value)
            np.testing.assert_array_equal(new[:40], values[weight.path])
            assert 0.01 < new[40:].std() < 0.03
        elif not weight.path.startswith("projector/"):
            np.testing.assert_array_equal(numpy_of(weight.value), values[weight.path], err_msg=weight.path)
    with pytest.raises(ValueError, match="at least the table's 40, got 39"):
        PaliGemma.of(pair, text, vocab_size=39)
    with pytest.raises(ValueError, match="got TextTransformer 'text'"):
        PaliGemma.of(pair.text_encoder, text)


@ABOVE_THE_BACKENDS
def test_patches_of_any_aspect_are_read_without_their_padding():
    vision = NaFlexVisionConfig(
        width=8, depth=1, mlp_dim=12, num_heads=2, patch_size=4, position_grid=2, max_num_patches=4, pooling="gap"
    )
    tower = NaFlexVisionTransformer(vision, name="image")
    model = PaliGemma.of(tower, Gemma(TEXT))
    rng = np.random.default_rng(4)
    for variable in model.weights:
        variable.assign(rng.normal(0, 0.4, variable.shape).astype("float32"))
    batch = batch_of()
    del batch["images"]
    patches = RNG.uniform(-1, 1, (1, 4, 48)).astype("float32")
    batch |= {"patches": patches, "spatial_shapes": np.array([[1, 3]], "int32")}
    padding, patch = patches.copy(), patches.copy()
    padding[0, 3] = 0.0
    patch[0, 2] = 0.0
    assert moved(model, batch, {"patches": padding}, {"patches": patch}) == [[], list(range(LENGTH))]
    pictures = {name: batch[name] for name in ("patches", "spatial_shapes")}
    soft, mask = forward(model.soft_tokens, pictures)
    assert (soft.shape[1], numpy_of(mask).tolist()) == (4, [[1, 1, 1, 0]])


def test_a_mask_that_is_left_out_is_asked_for():
    model, batch = PaliGemma(CONFIG), batch_of()
    del batch["suffix_mask"]
    with pytest.raises((ValueError, KeyError), match="suffix_mask"):
        model(batch)


def test_configurations_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="expected pooling 'gap' and embed_dim None, got 'map'"):
        replace(CONFIG, vision=replace(VISION, pooling="map"))
