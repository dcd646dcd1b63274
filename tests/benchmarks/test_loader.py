"""The loader's benchmark cuts photographs to size and writes a rate for each way."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import loader
from benchmarks.photographs import photographs
from tests.core.data.pictures import pixels
from tests.marks import ABOVE_THE_BACKENDS

pytestmark = ABOVE_THE_BACKENDS


def test_photographs_are_the_middles_of_those_that_are_large_enough(tmp_path):
    picture = np.zeros((120, 400, 3), np.uint8)
    picture[:, 140:260] = (200, 30, 30)
    Image.fromarray(picture).save(tmp_path / "wide.png")
    Image.fromarray(pixels(1)).save(tmp_path / "small.png")
    (file,) = photographs((100, 100), tmp_path)
    cut = np.asarray(Image.open(io.BytesIO(file)))
    assert cut.shape == (100, 100, 3)
    assert np.abs(cut.astype(int) - (200, 30, 30)).mean() < 4
    with pytest.raises(ValueError, match="no photograph of about 1000 x 900"):
        photographs((1000, 900), tmp_path)


def test_each_way_has_a_rate(tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "peers", lambda size: {})
    loader.main(["--cases", "256", "--batch-size", "2", "--batches", "1", "--out", str(tmp_path)])
    (path,) = tmp_path.rglob("loader.json")
    ways = json.loads(path.read_text())["cases"]["256"]["ways"]
    assert {"bare decoding", "ours", "ours, augmented"} <= ways.keys()
    assert all(numbers["pictures_per_cpu_second"] > 0 for numbers in ways.values())
