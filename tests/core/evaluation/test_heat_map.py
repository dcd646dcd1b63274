"""Heat maps: a peak where a score is known to look, their definition, and their colours."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diptych.core.evaluation.heat_map import occlusion_map, overlay, png, probe_attention, windows_of


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


class RegionScore:
    """Looks at nothing but a region: how much of its red is left."""

    def __init__(self, rows: slice, columns: slice):
        self.rows, self.columns = rows, columns
        self.sizes: list[int] = []

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        assert pictures.dtype == np.uint8
        self.sizes.append(len(pictures))
        return pictures[:, self.rows, self.columns, 0].mean(axis=(1, 2))


def looks_at(heat: np.ndarray, rows: slice, columns: slice, *, reach: int) -> bool:
    """Whether a map peaks inside a region of cells, and is zero further than `reach` cells from it."""
    inside = np.zeros(heat.shape, bool)
    inside[rows, columns] = True
    near = np.zeros(heat.shape, bool)
    near[max(rows.start - reach, 0) : rows.stop + reach, max(columns.start - reach, 0) : columns.stop + reach] = True
    peak = np.unravel_index(np.argmax(heat), heat.shape)
    return bool(inside[peak]) and bool((heat[inside] > 0).all()) and not heat[~near].any()


def definition(picture, score, cells: int, window: int, fill) -> np.ndarray:
    """The mean drop over the windows that cover a cell, window by window and cell by cell."""
    whole = np.asarray(score(picture[None]), np.float64)[0]
    down = np.linspace(0, picture.shape[0], cells + 1).round().astype(int)
    along = np.linspace(0, picture.shape[1], cells + 1).round().astype(int)
    total = np.zeros((cells, cells, *whole.shape))
    for top in range(1 - window, cells):
        for left in range(1 - window, cells):
            rows = [r for r in range(cells) if top <= r < top + window]
            columns = [c for c in range(cells) if left <= c < left + window]
            hidden = picture.copy()
            for r in rows:
                for c in columns:
                    hidden[down[r] : down[r + 1], along[c] : along[c + 1]] = fill
            drop = whole - np.asarray(score(hidden[None]), np.float64)[0]
            for r in rows:
                for c in columns:
                    total[r, c] += drop
    return total / window**2


@pytest.mark.parametrize("window", [1, 2, 3, 5])
def test_a_map_peaks_where_the_score_looks(window):
    picture = np.full((48, 48, 3), 40, np.uint8)
    picture[8:16, 32:40] = (250, 30, 30)
    score = RegionScore(slice(8, 16), slice(32, 40))
    heat = occlusion_map(picture, score, cells=12, window=window)
    region = slice(2, 4), slice(8, 10)
    assert looks_at(heat, *region, reach=window - 1)
    for wrong in (-heat, heat.T, heat[::-1], heat[:, ::-1], np.roll(heat, 3, axis=1), np.ones_like(heat), heat * 0):
        assert not looks_at(wrong, *region, reach=window - 1)


def test_what_speaks_against_a_score_is_negative():
    picture = np.full((24, 24, 3), 200, np.uint8)
    picture[:8, :8] = 0  # the fill, the colour of the edge, is brighter: hiding this raises the score
    heat = occlusion_map(picture, RegionScore(slice(0, 8), slice(0, 8)), cells=6, window=2)
    assert heat[0, 0] < 0
    assert heat.argmin() == 0


def test_hiding_the_background_changes_nothing():
    picture = np.full((24, 36, 3), (250, 240, 230), np.uint8)
    picture[6:12, 12:18] = 30
    heat = occlusion_map(picture, lambda pictures: pictures.reshape(len(pictures), -1).std(axis=1), cells=6, window=1)
    drawn = np.zeros((6, 6), bool)
    drawn[1:3, 2:3] = True  # the cells of 4 x 6 pixels that hold some of it
    assert (heat[drawn] > 0).all()
    assert not heat[~drawn].any()
    grey = occlusion_map(
        picture,
        lambda pictures: pictures.reshape(len(pictures), -1).std(axis=1),
        cells=6,
        window=1,
        fill=(128, 128, 128),
    )
    assert grey[~drawn].all()


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_a_map_is_its_definition(data):
    height, width = data.draw(st.integers(5, 20)), data.draw(st.integers(5, 20))
    cells = data.draw(st.integers(1, min(height, width)))
    window = data.draw(st.integers(1, cells))
    seed, batch = data.draw(st.integers(0, 9)), data.draw(st.integers(1, 40))
    picture = noise(height, width, seed)
    weights = np.random.default_rng(seed + 1).normal(size=(height, width, 3))

    def score(pictures):
        return np.tanh((pictures / 255 - 0.5).reshape(len(pictures), -1) @ weights.ravel())

    fill = data.draw(st.sampled_from([None, (10, 20, 30), "picture"]))
    fill = noise(height, width, 99) if fill == "picture" else fill
    heat = occlusion_map(picture, score, cells=cells, window=window, fill=fill, batch_size=batch)
    if fill is None:
        edge = [*picture[0], *picture[-1], *picture[:, 0], *picture[:, -1]]
        fill = (
            np.array([np.median([pixel[channel] for pixel in edge]) for channel in range(3)]).round().astype(np.uint8)
        )
    if isinstance(fill, tuple):
        exact = definition(picture, score, cells, window, np.array(fill, np.uint8))
    elif fill.ndim == 1:
        exact = definition(picture, score, cells, window, fill)
    else:
        difference = picture.astype(np.int64) - fill  # a picture as fill: hide by moving towards it
        exact = definition(
            np.zeros_like(picture) + 1,
            lambda masks: score((fill + masks * difference).astype(np.uint8)),
            cells,
            window,
            0,
        )
    # Sums of some hundred products of float64 in [-1, 1], by BLAS for other batches in another order.
    assert np.abs(heat - exact).max() <= 1e-11


def test_single_cells_of_a_linear_score_add_up_to_the_whole():
    picture, fill = noise(20, 33), np.array([90, 100, 110])
    weights = np.random.default_rng(1).normal(size=picture.shape)

    def score(pictures):
        return np.einsum("nhwc,hwc->n", pictures.astype(np.float64), weights)

    heat = occlusion_map(picture, score, cells=7, window=1, fill=fill)
    everything_hidden = np.broadcast_to(fill, picture.shape).astype(np.uint8)
    assert heat.sum() == pytest.approx(score(picture[None])[0] - score(everything_hidden[None])[0], rel=1e-9)


def test_the_map_of_embeddings_gives_the_map_of_each_cosine():
    picture = noise(16, 16)
    directions = np.random.default_rng(2).normal(size=(16 * 16 * 3, 5))
    text = np.random.default_rng(3).normal(size=5)

    def embeddings(pictures):
        return np.sin(pictures.reshape(len(pictures), -1) / 255 @ directions)

    heat = occlusion_map(picture, embeddings, cells=4, window=2)
    assert heat.shape == (4, 4, 5)
    cosine = occlusion_map(picture, lambda pictures: embeddings(pictures) @ text, cells=4, window=2)
    assert np.abs(heat @ text - cosine).max() <= 1e-11


@pytest.mark.parametrize(("cells", "window", "batch"), [(1, 1, 64), (8, 3, 7), (12, 4, 64)])
def test_the_pictures_that_are_scored_are_counted(cells, window, batch):
    score = RegionScore(slice(0, 4), slice(0, 4))
    occlusion_map(noise(16, 20), score, cells=cells, window=window, batch_size=batch)
    assert sum(score.sizes) == windows_of(cells, window)
    assert max(score.sizes) <= batch


@pytest.mark.parametrize(
    ("picture", "cells", "window", "words"),
    [
        (np.zeros((8, 8, 3)), 4, 2, "uint8"),
        (np.zeros((8, 8), np.uint8), 4, 2, "height, width, 3"),
        (np.zeros((8, 6, 3), np.uint8), 7, 2, "cells <= 6"),
        (np.zeros((8, 8, 3), np.uint8), 4, 5, "window 5"),
        (np.zeros((8, 8, 3), np.uint8), 4, 0, "window 0"),
    ],
)
def test_what_cannot_be_mapped_is_refused(picture, cells, window, words):
    with pytest.raises(ValueError, match=words):
        occlusion_map(picture, lambda pictures: np.zeros(len(pictures)), cells=cells, window=window)


def test_a_score_must_have_a_row_for_each_picture():
    with pytest.raises(ValueError, match="one row for each"):
        occlusion_map(noise(8, 8), lambda pictures: np.zeros(1 + len(pictures)), cells=2, window=1)


def test_attention_is_a_softmax_of_each_head():
    rng = np.random.default_rng(0)
    length, heads, head_dim = 7, 3, 4
    width = heads * head_dim
    tokens, query = rng.normal(size=(length, width)), rng.normal(size=width)
    kernel, bias = rng.normal(size=(width, width)), rng.normal(size=width)
    attention = probe_attention(tokens, query=query, key_kernel=kernel, key_bias=bias, num_heads=heads)
    for head in range(heads):
        part = slice(head * head_dim, (head + 1) * head_dim)
        logits = [query[part] @ (token @ kernel + bias)[part] / 2 for token in tokens]  # sqrt(4)
        exact = np.exp(logits) / np.exp(logits).sum()
        assert np.abs(attention[head] - exact).max() <= 1e-14
    assert not np.allclose(attention[0], attention[1])
    sharp = probe_attention(1e4 * tokens, query=query, key_kernel=kernel, key_bias=bias, num_heads=heads)
    assert np.isfinite(sharp).all()
    assert np.abs(sharp.sum(axis=1) - 1).max() <= 1e-12


def test_an_overlay_is_clear_at_zero_red_above_and_blue_below():
    layer = overlay(np.array([[0.0, 4.0], [-4.0, 0.0]]), 80, 120, limit=4.0)
    assert layer.shape == (80, 120, 4)
    assert layer.dtype == np.uint8
    red, blue = layer[5, 115], layer[75, 5]
    assert red[0] > 2 * red[2]
    assert blue[2] > 2 * blue[0]
    assert min(red[3], blue[3]) > 180
    assert overlay(np.zeros((3, 3)), 10, 10, limit=1.0)[..., 3].max() == 0
    weak = overlay(np.full((3, 3), 0.1), 10, 10, limit=1.0)
    strong = overlay(np.full((3, 3), 0.5), 10, 10, limit=1.0)
    assert 0 < weak[..., 3].max() < strong[..., 3].min()
    beyond = overlay(np.full((3, 3), 7.0), 10, 10, limit=1.0)
    assert np.array_equal(beyond, overlay(np.ones((3, 3)), 10, 10, limit=1.0))


@pytest.mark.parametrize(
    ("heat", "limit"), [([[np.nan]], 1.0), ([[np.inf]], 1.0), ([[1.0]], 0.0), ([[1.0]], np.nan), ([1.0], 1.0)]
)
def test_an_overlay_of_no_numbers_is_refused(heat, limit):
    with pytest.raises(ValueError, match="finite"):
        overlay(np.array(heat), 4, 4, limit=limit)


def test_a_png_holds_the_pixels():
    for channels in (3, 4):
        pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(pixels)))), pixels)
