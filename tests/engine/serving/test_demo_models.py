"""The demo with real models: the attention that is computed with, and the shipped model's answers."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

from diptych.core.data.emoji import TOKENIZER_PATH
from diptych.core.data.examples.naflex import NaFlex
from diptych.core.data.image import decode
from diptych.core.data.pixels import FixedSize
from diptych.core.data.processor.processor import Processor
from diptych.core.data.tokenizers.open import open_tokenizer
from diptych.engine.embedding.encoder import Encoder
from diptych.engine.embedding.image_stream import Item
from diptych.engine.serving.answers import Answers
from diptych.engine.serving.attention import attention_of, attention_of_head
from diptych.engine.serving.galleries import Examples, Gallery
from diptych.models import CLIP, CLIPConfig, CLIPTextConfig, CLIPVisionConfig, SigLIP, SigLIPConfig
from diptych.models.parts.heads import MapHead
from diptych.models.siglip.config import NaFlexVisionConfig, TextConfig, VisionConfig
from diptych.recipes.demo import DEFAULT_MODEL
from tests.engine.serving.demo_site import png_file

SIZE = {"width": 12, "depth": 1, "mlp_dim": 16, "num_heads": 3}
TEXT = TextConfig(**SIZE, vocab_size=8000, context_length=4, embed_dim=12)
# Softmaxes and sums over a dozen products, in float32 on one side: some roundings each.
TOLERANCE = 64 * 2.0**-24


def encoder_of(vision: object, pixels: object) -> SimpleNamespace:
    model = SigLIP(SigLIPConfig(vision=vision, text=TEXT), seed=3)
    rng = np.random.default_rng(0)
    for variable in model.image_encoder.trainable_variables:  # fresh weights attend evenly
        variable.assign(rng.normal(size=variable.shape).astype(np.float32) * 0.5)
    tokenizer = open_tokenizer(TOKENIZER_PATH)
    return SimpleNamespace(model=model, processor=Processor(pixels=pixels, tokenizer=tokenizer, context_length=4))


def pooled_by(head: MapHead, tokens: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """The head's output, if this is how its probe attends: values weighted by it, projected, and the MLP."""
    width, head_dim = tokens.shape[1], tokens.shape[1] // head.num_heads
    kernel, bias = (
        keras.ops.convert_to_numpy(each.value)[..., width:] for each in (head.key_value_kernel, head.key_value_bias)
    )
    values = (tokens @ kernel + bias).reshape(len(tokens), head.num_heads, head_dim)
    gathered = np.einsum("hl,lhd->hd", attention, values).reshape(1, width)
    out_kernel, out_bias = (keras.ops.convert_to_numpy(each.value) for each in (head.out_kernel, head.out_bias))
    x = keras.ops.convert_to_tensor((gathered @ out_kernel + out_bias).astype(np.float32))
    return keras.ops.convert_to_numpy(x + head.mlp.call(head.norm.call(x)))[0]


def test_it_gives_the_pooled_vector_of_the_head():
    encoder = encoder_of(VisionConfig(**SIZE, patch_size=4, image_size=16), FixedSize(height=16, width=16))
    head = next(layer for layer in encoder.model.image_encoder.layers if isinstance(layer, MapHead))
    tokens = np.random.default_rng(1).normal(size=(16, 12)).astype(np.float32)
    attention = attention_of_head(head, tokens)
    exact = keras.ops.convert_to_numpy(head(keras.ops.convert_to_tensor(tokens[None])))[0]
    scale = np.abs(exact).max()
    assert np.abs(pooled_by(head, tokens, attention) - exact).max() <= TOLERANCE * scale
    for wrong in (np.full_like(attention, 1 / 16), attention[::-1], attention[:, ::-1]):
        assert np.abs(pooled_by(head, tokens, wrong) - exact).max() > 1000 * TOLERANCE * scale


def test_it_is_laid_out_as_the_patches_of_the_picture():
    encoder = encoder_of(VisionConfig(**SIZE, patch_size=4, image_size=16), FixedSize(height=16, width=16))
    picture = np.random.default_rng(2).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    attention = attention_of(encoder)(picture)
    assert attention.shape == (4, 4)
    assert attention.sum() == pytest.approx(1, abs=1e-9)
    tower = encoder.model.image_encoder
    tokens = keras.ops.convert_to_numpy(
        tower.predict_on_batch(encoder.processor.images([picture])["images"])["tokens"]
    )[0]
    head = next(layer for layer in tower.layers if isinstance(layer, MapHead))
    by_patch = attention_of_head(head, tokens).mean(axis=0)
    assert np.abs(attention.ravel() - by_patch).max() <= TOLERANCE


def test_of_native_aspects_it_leaves_the_padding_out():
    vision = NaFlexVisionConfig(**SIZE, patch_size=4, position_grid=4, max_num_patches=30)
    encoder = encoder_of(vision, NaFlex(patch_size=4, max_num_patches=30))
    picture = np.random.default_rng(2).integers(0, 256, (40, 90, 3), dtype=np.uint8)
    rows, columns = encoder.processor.images([picture])["spatial_shapes"][0]
    attention = attention_of(encoder)(picture)
    assert attention.shape == (rows, columns)
    assert rows < columns
    assert attention.sum() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("pooling", ["gap", "cls"])
def test_models_that_pool_otherwise_have_none(pooling):
    vision = VisionConfig(**SIZE, patch_size=4, image_size=16, pooling=pooling)
    assert attention_of(encoder_of(vision, FixedSize(height=16, width=16))) is None


def test_models_that_see_the_middle_alone_have_none():
    vision = VisionConfig(**SIZE, patch_size=4, image_size=16)
    assert attention_of(encoder_of(vision, FixedSize(height=16, width=16, shortest_edge=20))) is None


def test_clip_has_none():
    vision = CLIPVisionConfig(**SIZE, patch_size=4, image_size=16, embed_dim=8)
    text = CLIPTextConfig(**SIZE, vocab_size=50, context_length=4, embed_dim=8)
    model = CLIP(CLIPConfig(vision=vision, text=text))
    assert attention_of(SimpleNamespace(model=model, processor=None)) is None


def test_the_shipped_model_answers():
    encoder, examples = Encoder.open(DEFAULT_MODEL), Examples()
    drawings = [decode(examples.picture(place)) for place in range(12)]
    items = [Item(record=0, number=0, key="", image="", caption=str(place), language="und") for place in range(12)]
    gallery = Gallery("", encoder.embed_images(drawings), None, lambda rows: [items[row] for row in rows], None)
    answers = Answers(encoder, gallery, examples, model="", queries=(), cells=8, attention=attention_of(encoder))
    names = [concept.names["en"] for concept in examples.concepts]
    best = []
    for place, drawing in enumerate(drawings):
        name = answers.keep(png_file(drawing))["picture"]
        labels = answers.probabilities(name, names)["labels"]
        assert sum(label["softmax"] for label in labels) == pytest.approx(1, abs=1e-9)
        best.append(labels[0]["label"])
        found = answers.search(picture=name)["results"]
        assert found[0]["caption"] == str(place)
        assert found[0]["cosine"] == pytest.approx(1, abs=1e-5)
    right = sum(label == name for label, name in zip(best, names, strict=True))
    assert right >= 6  # of 12; by chance one

    rocket = drawings[5]
    ground = np.full((128, 128, 3), 255, np.uint8)
    ground[60 : 60 + rocket.shape[0], 4 : 4 + rocket.shape[1]] = rocket  # below, on the left
    answer = answers.heat_maps(answers.keep(png_file(ground))["picture"], [names[5]])
    heat = np.abs(answer["maps"][0]["values"])
    assert heat[:, 6:].sum() + heat[:1].sum() < 0.05 * heat.sum()
    assert heat[4:, :4].sum() > 0.5 * heat.sum()
    shares = np.array(answer["attention"]["values"])
    assert shares.shape == (4, 4)
    assert shares.sum() == pytest.approx(1, abs=1e-4)  # each rounded to 5 decimals
