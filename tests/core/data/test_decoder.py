"""A decoder makes what decoding and then resizing make: to the bit when exact, within some grey levels when fast."""

import io
import random
import sys
import warnings
from collections import Counter
from contextlib import contextmanager
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from benchmarks.photographs import photographs
from diptych.core.data import fast_pixels
from diptych.core.data.decoder import Decoder
from diptych.core.data.examples.augmentation import Augmentation
from diptych.core.data.examples.naflex import NaFlexLengths
from diptych.core.data.examples.rand_augment import RandAugment
from diptych.core.data.examples.random_crop import RandomCrop
from diptych.core.data.image import decode, resize
from diptych.core.data.loading.loader import Loader
from diptych.core.data.pixels import FixedSize
from diptych.core.data.records import BadExample, Record
from diptych.core.data.sampling import Place
from diptych.core.data.sources.cache import CachedSource
from tests.core.data.hostile import accepted_pictures, refused_pictures
from tests.core.data.parts import SmallViews
from tests.core.data.pictures import MemorySource, encoded, pixels, preprocess

SQUARE = FixedSize(height=96, width=96)
ODD = (413, 275)  # whose halves are no whole numbers

fast = pytest.mark.skipif(
    not all(find_spec(name) for name in ("simplejpeg", "cv2")),
    reason="needs simplejpeg and OpenCV: pip install 'diptych[fast]'",
)


@contextmanager
def quiet():
    """Pillow warns of some pictures before it is asked for their pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def apart(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Mean and 99th percentile of the differences in grey levels."""
    assert one.shape == other.shape
    differences = np.abs(one.astype(int) - other)
    return float(differences.mean()), float(np.percentile(differences, 99))


def turned(orientation: int, **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.open(io.BytesIO(photographs(ODD)[0])), "JPEG", exif=exif, quality=95, **options)


class PhotographSource(MemorySource):
    """Records whose pictures are JPEG photographs, larger than what examples need."""

    def __init__(self, size: int):
        super().__init__(size)
        self.files, self.reads = list(photographs(ODD)), 0

    def read(self, reference: int) -> bytes:
        self.reads += 1
        return super().read(reference)


@pytest.mark.parametrize(
    ("method", "edge"), [("bilinear_antialias", None), ("bicubic_antialias", 24), ("area", None), ("bilinear", 24)]
)
def test_an_exact_decoder_makes_the_bits_of_decoding_and_resizing(method, edge):
    whole = FixedSize(height=16, width=20, resize=method, shortest_edge=edge)
    kinds = {**accepted_pictures(), "turned": turned(6), "same size": encoded(pixels(1, 16, 20))}
    for name, data in kinds.items():
        with quiet():
            assert np.array_equal(Decoder()(data), decode(data)), name
            made = whole.picture(Decoder(whole=whole)(data))
            assert np.array_equal(made, whole.picture(decode(data))), name


@fast
def test_what_is_refused_is_refused_for_its_reason():
    decoder = Decoder(whole=SQUARE, fast=True)
    for name, (data, reason) in refused_pictures().items():
        with quiet(), pytest.raises(BadExample) as caught:
            decoder(data)
        assert caught.value.reason == reason, name


@fast
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_in_full_fast_pixels_are_pillows(options):
    for orientation in range(1, 9):
        data = turned(orientation, **options)
        assert np.array_equal(Decoder(fast=True)(data), decode(data)), orientation
    grey = encoded(Image.open(io.BytesIO(photographs(ODD)[1])).convert("L"), "JPEG", **options)
    assert np.array_equal(Decoder(fast=True)(grey), decode(grey))
    assert fast_pixels.jpeg_pixels(grey, ODD[1] + 1, ODD[0]) is None, "a size that Pillow did not weigh"


@fast
@pytest.mark.parametrize("size", [(128, 128), (256, 192), ODD, (619, 413), (640, 240)])
def test_fast_pixels_are_within_some_grey_levels(size):
    """Reduced by the decoder or not, of whole and of odd sides, in the middle and at the edges."""
    whole = FixedSize(height=96, width=96)
    for data in photographs(size)[:2]:
        exact, made = Decoder(whole=whole)(data), Decoder(whole=whole, fast=True)(data)
        mean, most = apart(exact, made)
        assert mean < 1.2
        assert most < 8
        assert apart(exact[:, -2:], made[:, -2:])[0] < 2.5
        assert apart(exact, np.roll(made, 1, axis=1))[0] > 3, "a test that a picture shifted by a pixel passes"


@fast
def test_fast_pictures_stand_upright_and_other_kinds_are_as_exact():
    for orientation in range(1, 9):
        data = turned(orientation)
        whole = FixedSize(height=60, width=90)
        assert apart(Decoder(whole=whole)(data), Decoder(whole=whole, fast=True)(data))[0] < 1.5, orientation
    for name, data in accepted_pictures().items():
        with quiet():
            made = Decoder(whole=FixedSize(height=16, width=20), fast=True)(data)
            assert apart(made, resize(decode(data), (16, 20)))[0] < 0.6, name
    cmyk = encoded(Image.open(io.BytesIO(photographs(ODD)[0])).convert("CMYK"), "JPEG")
    assert np.array_equal(Decoder(fast=True)(cmyk), decode(cmyk))


@fast
@pytest.mark.parametrize("size", [(8, 8), (40, 9), (30, 70), (97, 33)])
def test_fast_resizing_keeps_what_is_flat_and_where_things_are(size):
    flat = np.full((64, 48, 3), 77, np.uint8)
    assert (fast_pixels.resize(flat, size) == 77).all()
    rows, columns = np.indices((64, 48)) + 0.5
    ramp = np.stack([3 * rows, 5 * columns, rows + columns], axis=-1).astype(np.uint8)
    for part in (
        fast_pixels.resize(ramp, size),
        fast_pixels.resize(np.pad(ramp, ((0, 1), (0, 1), (0, 0)), "edge"), size, extent=(64, 48)),
    ):
        assert apart(part[1:-1, 1:-1], resize(ramp, size)[1:-1, 1:-1])[0] < 1


@fast
@pytest.mark.parametrize(("method", "size"), [("bilinear", (30, 50)), ("bilinear", (90, 80)), ("area", (17, 31))])
def test_what_tensorflow_cuts_to_whole_numbers_is_rounded(method, size):
    image = decode(photographs((128, 96))[0])
    differences = fast_pixels.resize(image, size, method=method).astype(int) - resize(image, size, method=method)
    assert set(np.unique(differences)) <= {-1, 0, 1}
    assert np.array_equal(
        fast_pixels.resize(image, size, method="bicubic_antialias"), resize(image, size, method="bicubic_antialias")
    )


@fast
def test_damaged_jpegs_are_judged_alike():
    """One or more bytes changed, or the end cut off: the same are used, and the others refused for the same reasons."""
    rng = random.Random(0)
    originals = [turned(1), turned(1, progressive=True), encoded(pixels(2), "JPEG")]
    outcomes = Counter()
    for _ in range(80):
        data = bytearray(rng.choice(originals))
        for _ in range(rng.choice([0, 1, 2, 20])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        results = []
        for decoder in (Decoder(), Decoder(fast=True)):
            with quiet():
                try:
                    results.append(("used", decoder(bytes(data)).tobytes()))
                except BadExample as error:
                    results.append((error.reason, b""))
        assert results[0] == results[1]
        outcomes[results[0][0]] += 1
    assert outcomes["used"] > 10
    assert outcomes["image_truncated"] > 5


@fast
@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(),
        Augmentation(flip=0.5, hue=30, greyscale=0.3, rotation=20),
        RandAugment(count=1, magnitude=3),
        RandomCrop(area=0.3, flip=0.5),
        RandomCrop(area=0.3, then=Augmentation()),
    ],
)
def test_a_fast_augmentation_draws_and_does_the_same(augmentation):
    image = decode(photographs(ODD)[0])
    distances = []
    for seed in range(12):
        one, other = np.random.default_rng(seed), np.random.default_rng(seed)
        exact, made = augmentation(image, one, 96), augmentation(image, other, 96, fast=True)
        assert one.random() == other.random()
        distances.append(apart(exact, made)[0])
    assert np.median(distances) < 1.5
    assert apart(exact, augmentation(image, np.random.default_rng(99), 96, fast=True))[0] > 5


@pytest.mark.parametrize(
    ("settings", "side"),
    [
        ({}, 32),
        ({"augmentation": Augmentation()}, 32),
        ({"augmentation": RandAugment()}, 32),
        ({"augmentation": RandomCrop(area=0.5)}, None),
        ({"views": SmallViews()}, None),
        ({"reference_size": 48}, None),
        ({"naflex": NaFlexLengths(patch_size=16, lengths=(4, 9))}, None),
    ],
)
def test_the_cache_keeps_what_examples_need_and_bits_are_as_without(settings, side):
    make, source = preprocess(image_size=32, **settings), PhotographSource(8)
    cached = CachedSource(source, megabytes=100)
    for index in range(4):
        place = Place(0, index, batch_size=2)
        made, _ = make(cached.record(index), cached, place)
        whole, _ = make(source.record(index), Whole(source), place)
        assert all(np.array_equal(made[name], whole[name]) for name in whole)
        kept = cached.pixels(index, make.decoder(place))
        assert kept.shape == ((side, side, 3) if side else (*ODD[::-1], 3))


class Whole:
    """A source that hands out whole pictures as pixels, so that no decoder is asked."""

    def __init__(self, source: MemorySource):
        self.source = source

    def record(self, index: int) -> Record:
        return self.source.record(index)

    def pixels(self, reference: int) -> np.ndarray:
        return decode(self.source.read(reference))


@fast
@pytest.mark.parametrize("settings", [{}, {"naflex": NaFlexLengths(patch_size=16, lengths=(16, 36))}])
def test_fast_examples_are_made_alike_in_a_worker_and_are_other_data(settings):
    exact, made = preprocess(image_size=96, **settings), preprocess(image_size=96, decode="fast", **settings)
    assert exact.fingerprint() != made.fingerprint()
    name = "patches" if settings else "image"
    for batch in range(2):
        place = Place(0, batch * 4, batch_size=4)
        one, other = (make(PhotographSource(8).record(1), PhotographSource(8), place)[0] for make in (exact, made))
        assert 0 < apart(one[name], other[name])[0] < 1.2
    picture = decode(photographs(ODD)[0])
    assert np.array_equal(made.image(picture), exact.image(picture)), "what is evaluated on is exact"
    if not settings:
        alone = Loader(PhotographSource(8), made, batch_size=4, seed=0).batch(0)
        batches = Loader(PhotographSource(8), made, batch_size=4, seed=0, workers=1).batches(0)
        assert np.array_equal(next(batches).fields["image"], alone.fields["image"])
        batches.close()


def test_fast_without_its_packages_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    fast_pixels.libraries.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'diptych\[fast\]'"):
        preprocess(decode="fast")
    with pytest.raises(ValueError, match="quick"):
        preprocess(decode="quick")
