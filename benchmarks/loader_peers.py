"""Other ways from JPEG files to a batch, each where its packages are installed."""

import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

Way = Callable[[Sequence[bytes]], object]

BARE, FASTEST = "bare decoding", "simplejpeg, DCT scale, OpenCV's area"
OPEN_CLIP, TF_DATA = "open_clip's", "tf.data"
AUGMENTED = ", augmented"
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
OPEN_CLIP_SCALE = (0.9, 1.0)  # open_clip's default in training


def bare(data: bytes) -> np.ndarray:
    """What no loader can do without: the file opened, decoded, made an array, by Pillow."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def peers(size: int) -> dict[str, Way]:
    """Name -> the way to a batch of pictures of `size` x `size` pixels, from their files."""
    ways: dict[str, Way] = {}
    for made in (_fastest, _open_clip, _tf_data):
        try:
            ways |= made(size)
        except ImportError as error:
            print(f"{made.__name__.strip('_')} is left out: {error}")
    return ways


def _fastest(size: int) -> dict[str, Way]:
    """The fastest decoder and resize that are to be had as packages: at the least scale that libjpeg offers."""
    import cv2
    import simplejpeg

    cv2.setNumThreads(1)

    def one(data: bytes) -> np.ndarray:
        pixels = simplejpeg.decode_jpeg(data, min_height=size, min_width=size, fastdct=True, fastupsample=True)
        return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)

    return {FASTEST: lambda files: np.stack([one(data) for data in files])}


def _open_clip(size: int) -> dict[str, Way]:
    """torchvision's transforms as open_clip 3.3 puts them together (`image_transform`), squashing as for SigLIP."""
    import torch
    from torchvision import transforms

    torch.set_num_threads(1)
    bicubic = transforms.InterpolationMode.BICUBIC

    def way(first: object) -> Way:
        to_model = transforms.Compose(
            [
                first,
                lambda picture: picture.convert("RGB"),
                transforms.ToTensor(),
                transforms.Normalize(CLIP_MEAN, CLIP_STD),
            ]
        )
        return lambda files: torch.stack([to_model(Image.open(io.BytesIO(data))) for data in files])

    return {
        OPEN_CLIP: way(transforms.Resize((size, size), interpolation=bicubic)),
        OPEN_CLIP + AUGMENTED: way(transforms.RandomResizedCrop(size, scale=OPEN_CLIP_SCALE, interpolation=bicubic)),
    }


def _tf_data(size: int) -> dict[str, Way]:
    """big_vision's decode|resize|value_range, and decode|inception_crop|flip_lr|value_range, in one thread."""
    import tensorflow as tf

    options = tf.data.Options()
    options.threading.private_threadpool_size = options.threading.max_intra_op_parallelism = 1

    def plain(data: "tf.Tensor") -> "tf.Tensor":
        return _finished(tf.image.decode_jpeg(data, channels=3))

    def _finished(picture: "tf.Tensor") -> "tf.Tensor":
        dtype = picture.dtype
        picture = tf.cast(tf.image.resize(picture, (size, size), method="bilinear"), dtype)
        return tf.cast(picture, tf.float32) / 127.5 - 1

    def cropped(data: "tf.Tensor") -> "tf.Tensor":
        picture = tf.image.decode_jpeg(data, channels=3)
        begin, length, _ = tf.image.sample_distorted_bounding_box(
            tf.shape(picture),
            tf.zeros([0, 0, 4], tf.float32),
            area_range=(0.05, 1.0),
            use_image_if_no_bounding_boxes=True,
        )
        picture = tf.slice(picture, begin, length)
        picture.set_shape([None, None, 3])
        return _finished(tf.image.random_flip_left_right(picture))

    def way(change: Callable) -> Way:
        pipelines: dict[int, tf.data.Dataset] = {}  # building one costs more than a batch

        def batch(files: Sequence[bytes]) -> object:
            if id(files) not in pipelines:
                made = tf.data.Dataset.from_tensor_slices(list(files)).map(change).batch(len(files))
                pipelines[id(files)] = made.with_options(options)
            return next(iter(pipelines[id(files)]))

        return batch

    return {TF_DATA: way(plain), TF_DATA + AUGMENTED: way(cropped)}
