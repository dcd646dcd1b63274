"""Fast decoding for models that are used: nearly the same arrays, told apart by their fingerprint."""

import io

import numpy as np
import pytest
from PIL import Image

from diptych.core.data.examples.naflex import NaFlex
from diptych.core.data.pixels import FixedSize
from diptych.core.data.processor.image_processor import ImageProcessor

CLIP = FixedSize(height=24, width=24, shortest_edge=28)


@pytest.mark.parametrize("pixels", [FixedSize(height=24, width=24), CLIP, NaFlex(patch_size=8, max_num_patches=9)])
def test_pictures_are_nearly_those_of_pillow(pixels):
    pytest.importorskip("simplejpeg")
    rows, columns = np.mgrid[:300, :400]
    smooth = np.stack([rows % 256, columns % 256, (rows + columns) // 3 % 256], axis=-1).astype(np.uint8)
    photo = io.BytesIO()
    Image.fromarray(smooth).resize((390, 290)).save(photo, "JPEG", quality=95)
    exact = ImageProcessor(pixels=pixels)
    fast = exact.decoding("fast")
    assert (exact.decode, fast.decode) == ("exact", "fast")
    first, second = exact.images(photo.getvalue()), fast.images(photo.getvalue())
    assert first.keys() == second.keys()
    for name, x in first.items():
        assert x.shape == second[name].shape
        assert np.abs(x - second[name]).mean() < 0.02, name
    assert not np.array_equal(first[name := next(iter(first))], second[name]), "a flag that does nothing"
