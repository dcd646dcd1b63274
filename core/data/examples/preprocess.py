"""One training example of a record: an image and a caption, their pixels and tokens, and what a stage adds."""

import hashlib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import get_args
from zlib import crc32

import numpy as np

from diptych.core.data.batch import ANY, ArrayField
from diptych.core.data.captions import clean_caption
from diptych.core.data.decoder import Decode, Decoder
from diptych.core.data.examples.augmentation import Augmentation
from diptych.core.data.examples.makers import Maker, Targets, Views
from diptych.core.data.examples.naflex import PATCH_FIELDS, NaFlex, NaFlexLengths
from diptych.core.data.examples.rand_augment import RandAugment
from diptych.core.data.examples.random_crop import RandomCrop
from diptych.core.data.fast_pixels import libraries
from diptych.core.data.image import ResizeMethod
from diptych.core.data.pixels import FixedSize, Normalization
from diptych.core.data.processor.shared_tokenizer import shared_tokenizer
from diptych.core.data.record_parts import usable
from diptych.core.data.records import UNKNOWN_LANGUAGE, LeftOut, Record, Source
from diptych.core.data.sampling import Order, Part, Place, draw, draw_image
from diptych.core.data.sources.cache import features_of, pixels_of
from diptych.core.data.tokenizers.base import Tokenizer

# fmt: off
IMAGE = ArrayField(
    np.uint8, (("batch", "height", "width", 3),), (0, 255),
    "the model's square of the picture, RGB; models normalise it, SigLIP's to [-1, 1]",
)
SEVERAL_IMAGES = ArrayField(
    np.uint8, (("batch", "pictures", "height", "width", 3),), (0, 255),
    "the squares of an example's pictures, in their order",
)
REFERENCE_IMAGE = ArrayField(
    np.uint8, (("batch", "reference_side", "reference_side", 3),), (0, 255),
    "the same picture at the size of the model that helps to choose batches",
)
IMAGE_FEATURES = ArrayField(
    np.float32, (("batch", "image_width"),), (-ANY, ANY),
    "what the image tower made of the picture before training: its pooled features, not normalised",
)
TEXT = ArrayField(
    np.int32, (("batch", "context_length"), ("batch", "captions", "context_length")), (0, ANY),
    "token ids of the caption, or of several captions of the picture; end-of-text, then padding",
)
SELECTION_NOISE = ArrayField(
    np.float32, (("batch", "chunks"),), (-ANY, ANY), "Gumbel(0, 1) numbers by which batch selection draws, one a chunk"
)
# fmt: on

_LONGEST_REMEMBERED = 256  # characters; longer captions are too many and too big to be worth the memory


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How examples are made; it holds settings only, so it travels to worker processes.

    Attributes:
        image_size: side of the square images.
        context_length: tokens per caption, end-of-text included.
        tokenizer_path: a SentencePiece .model, a tokenizer.json, or a checkpoint's folder.
        augmentation: random changes, None for none.
        language_weights: see `sampling.draw`.
        resize_method: see `image.resize`.
        shortest_edge_ratio: None squashes the picture to the square, as SigLIP does. A number keeps its aspect, as CLIP
            does: the shorter side becomes so many times the square's, at least once, and the middle is cut out. Random
            crops are parts of the whole picture all the same.
        normalization: what the model makes of the pixels, which leave here as bytes.
        captions: captions drawn for each image; more than one give tokens [captions, context_length]. 0 for pictures
            without texts, which need no tokenizer and give no field "text".
        opening_examples: length of an opening in which each image comes with one caption in `opening_language` alone.
            Towers learn what pictures mean faster from one language, and the other languages then find their place.
        decode: "exact" is by Pillow, "fast" by `fast_pixels`, some grey levels off. Pictures to evaluate on, which
            `image` is given without random numbers, are exact always.
        embedded: whether the source holds pictures that are embedded already, so that an example has the image tower's
            features instead of pixels. Everything else is drawn as without it; of pictures without texts the makers are
            given the features in place of pixels.

    What later stages add, None for off. Each draws from random streams of its own, so that it changes no other field:

        targets: a decoder's sequences, from the first caption drawn. Where the record has regions, the image is its
            first one, which they are about, instead of a drawn one. Boxes do not follow an augmentation, so the two
            exclude each other.
        views: crops of the decoded picture for self-distillation.
        naflex: patches at the picture's own aspect instead of the square.
        selection_chunks: rounds of batch selection, for each of which an example gets its noise.
        reference_size: side of the square images that the model reads which helps to choose batches, where it is not
            `image_size`.
        makers: by name, what makes fields that terms of one's own ask for.
    """

    image_size: int
    context_length: int
    tokenizer_path: str | Path
    augmentation: Augmentation | RandAugment | RandomCrop | None = None
    language_weights: Mapping[str, float] | None = None
    resize_method: ResizeMethod = "bilinear_antialias"
    shortest_edge_ratio: float | None = None
    normalization: Normalization = field(default_factory=Normalization)
    captions: int = 1
    opening_examples: int = 0
    opening_language: str = "en"
    decode: Decode = "exact"
    embedded: bool = False
    targets: Targets | None = None
    views: Views | None = None
    naflex: NaFlexLengths | None = None
    selection_chunks: int | None = None
    reference_size: int | None = None
    makers: Mapping[str, Maker] = field(default_factory=dict)

    def __post_init__(self):
        if self.captions < 0 or self.opening_examples < 0:
            raise ValueError(
                f"captions must be 0 or more and opening_examples 0 or more, got {self.captions}, "
                f"{self.opening_examples}"
            )
        if self.image_size < 1 or self.context_length < 1:
            raise ValueError(
                f"image_size and context_length must be 1 or more, got {self.image_size}, {self.context_length}"
            )
        weights = (self.language_weights or {"": 1.0}).values()
        if min(weights) < 0 or not sum(weights):
            raise ValueError(f"language_weights must be 0 or more, and one above 0, got {self.language_weights}")
        if self.targets and self.augmentation:
            raise ValueError(
                "targets and augmentation exclude each other: a region's box would no longer be where its object is. "
                "Set augmentation=None; `views` augment beside the clean image."
            )
        if self.targets and self.shortest_edge_ratio:
            raise ValueError(
                "targets and shortest_edge_ratio exclude each other: a region's box would no longer be where its "
                "object is, or be cut away. Begin from a checkpoint whose pictures are squashed, as SigLIP's are."
            )
        added = (self.targets, self.views, self.naflex, self.selection_chunks, self.reference_size)
        added = (*added, self.makers if self.captions else None)
        if self.embedded and (self.augmentation or any(added)):
            raise ValueError(
                "Pictures that are embedded already have no pixels to augment, and an example of theirs has no more "
                "than features and tokens: leave out augmentation and what later stages add, or embedded."
            )
        if self.naflex and self.resize_method == "bilinear_antialias_float":
            raise ValueError(
                "resize_method bilinear_antialias_float does not fit naflex: batches hold patches as uint8. Use "
                "bilinear_antialias."
            )
        if self.decode not in get_args(Decode):
            raise ValueError(f"decode must be one of {', '.join(get_args(Decode))}, got {self.decode!r}")
        if self.decode == "fast":
            libraries()
        if self.selection_chunks is not None and self.selection_chunks < 1:
            raise ValueError(f"selection_chunks must be 1 or more, or None, got {self.selection_chunks}")

    def __call__(
        self, record: Record, source: Source, place: Place, left_out: list[LeftOut] | None = None
    ) -> tuple[dict[str, np.ndarray], str]:
        """The fields of one example as `declared` has them, without the batch axis, and the (first) caption's language.

        All of a batch is in the opening or none, by the place of its first example. Captions, regions and images that
        cannot be used are as if the record did not have them, and those that were met are added to `left_out`.
        """
        rng = place.rng()
        opening = place.batch * place.batch_size < self.opening_examples
        weights = {self.opening_language: 1.0} if opening else self.language_weights
        read = features_of if self.embedded else partial(pixels_of, decoder=self.decoder(place))
        if not self.captions:
            first = record.images.index(draw_image(record, rng))
            pixels = usable(read, source, record, first, left_out=left_out)
            picture = {"image_features": pixels} if self.embedded else self._picture(pixels, rng, place)
            return picture | self._made(record, pixels, place), UNKNOWN_LANGUAGE
        reference, caption = draw(record, rng, weights)
        regions = record.region_parts.usable if self.targets else ()
        tokens = self.tokens(caption.text)
        if self.captions > 1:
            others = [] if opening else [draw(record, rng, weights)[1] for _ in range(1, self.captions)]
            tokens = np.stack([tokens, *(self.tokens(other.text) for other in others)])
        first = record.images.index(reference)
        pixels = read(source, record.images[0]) if regions else usable(read, source, record, first, left_out=left_out)
        if left_out is not None:
            left_out += (*record.caption_parts.left_out, *(record.region_parts.left_out if self.targets else ()))
        if self.embedded:
            return {"image_features": pixels, "text": tokens}, caption.language
        again = deepcopy(rng) if self.reference_size else None  # so that an augmentation is the same at another size
        fields = self._picture(pixels, rng, place) | {"text": tokens}
        if self.targets:
            fields |= self.targets(caption, regions, place.rng(Part.TARGETS))
        if self.views:
            fields |= self.views(pixels, place.rng(Part.VIEWS))
        if self.selection_chunks:
            noise = place.rng(Part.SELECTION).gumbel(size=self.selection_chunks)
            fields["selection_noise"] = noise.astype(np.float32)
        if self.reference_size:
            fields["reference_image"] = self.image(pixels, again, self.reference_size)
        return fields | self._made(record, pixels, place), caption.language

    def _made(self, record: Record, pixels: np.ndarray, place: Place) -> dict[str, np.ndarray]:
        """What the makers make."""
        fields: dict[str, np.ndarray] = {}
        for name, make in self.makers.items():
            stream = np.random.default_rng([int(place.rng(Part.OWN).integers(1 << 62)), crc32(name.encode())])
            fields |= make(record, pixels, stream)
        return fields

    @property
    def declared(self) -> dict[str, ArrayField]:
        """The fields of a batch, each as who makes it declares it.

        Raises:
            ValueError: two make a field of one name.
        """
        makers = [part for part in (self.targets, self.views, *self.makers.values()) if part]
        declared = [
            {"text": TEXT} if self.captions else {},
            PATCH_FIELDS if self.naflex else {"image_features": IMAGE_FEATURES} if self.embedded else {"image": IMAGE},
            *(made.declared for made in makers),
        ]
        if self.selection_chunks:
            declared.append({"selection_noise": SELECTION_NOISE})
        if self.reference_size:
            declared.append({"reference_image": REFERENCE_IMAGE})
        fields: dict[str, ArrayField] = {}
        for some in declared:
            if twice := sorted(fields.keys() & some.keys()):
                raise ValueError(f"The field {twice[0]} of a batch is made twice: give one of them another name.")
            fields |= some
        return fields

    def decoder(self, place: Place) -> Decoder:
        """What turns a file into the pixels that an example is made of, no more of them than it needs."""
        if self.decode == "exact" or self.naflex is None or self.augmentation or self._looks_closely:
            return self._decoder
        length = self.naflex.length_of(place.seed, place.stage, place.batch)
        patches = NaFlex(patch_size=self.naflex.patch_size, max_num_patches=length, resize=self.resize_method)
        return Decoder(whole=patches, fast=True)

    @cached_property
    def _decoder(self) -> Decoder:
        first: tuple[FixedSize, float] | None = None
        if self.augmentation is None:
            first = self.fixed_size(), 0.0
        elif self.shortest_edge_ratio is None:
            first = self.augmentation.resizes_first(self.image_size)
        if first is None or self.naflex or self._looks_closely:
            return Decoder(fast=self.decode == "fast")
        return Decoder(whole=first[0], direct=first[1], fast=self.decode == "fast")

    @property
    def _looks_closely(self) -> bool:
        """Whether more is made of the pixels than the one picture of the model's size."""
        makers = any(getattr(make, "reads_pixels", True) for make in self.makers.values())
        return bool(self.views or self.reference_size or makers)

    def _picture(self, pixels: np.ndarray, rng: np.random.Generator, place: Place) -> dict[str, np.ndarray]:
        """The picture as the image tower takes it: a square, or patches of the length that its batch has."""
        if self.naflex is None:
            return {"image": self.image(pixels, rng)}
        if self.augmentation:
            pixels = self.augmentation(pixels, rng)
        return self.naflex.cut(pixels, self.naflex.length_of(place.seed, place.stage, place.batch), self.resize_method)

    def image(self, pixels: np.ndarray, rng: np.random.Generator | None = None, size: int | None = None) -> np.ndarray:
        """A decoded picture as models take it, uint8 [size, size, 3], by default of `image_size`; augmented only if
        `rng` is given.
        """
        square = self.fixed_size(size)
        fast = self.decode == "fast" and rng is not None
        if self.augmentation is None or rng is None:
            return square.picture(pixels, fast=fast)
        chooses = isinstance(self.augmentation, RandomCrop) and self.augmentation.area < 1
        return self.augmentation(pixels if chooses else square.region(pixels), rng, square.width, fast=fast)

    def fixed_size(self, size: int | None = None) -> FixedSize:
        """How a picture that is not augmented becomes the square of a size, by default of `image_size`."""
        side, ratio = size or self.image_size, self.shortest_edge_ratio
        edge = None if ratio is None else max(side, round(ratio * side))
        return FixedSize(
            height=side,
            width=side,
            resize=self.resize_method,
            shortest_edge=edge,
            normalization=self.normalization,
        )

    def check_batch_size(self, batch_size: int) -> None:
        """See `Preprocessing`."""
        if self.naflex:
            self.naflex.check_batch_size(batch_size)

    def pieces(self, order: Order, batch: int) -> int:
        """See `Preprocessing`."""
        if self.naflex is None:
            return 1
        return self.naflex.pieces(self.naflex.length_of(order.seed, order.stage, batch))

    def tokens(self, text: str) -> np.ndarray:
        """Token ids of a caption, int32 [context_length]; do not write into it."""
        if isinstance(text, str) and len(text) <= _LONGEST_REMEMBERED:
            return _remembered_tokens(str(self.tokenizer_path), self.context_length, text)
        return self.tokenizer.encode(clean_caption(text), self.context_length)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of `tokenizer_path`, opened once a process."""
        return shared_tokenizer(str(self.tokenizer_path))

    def fingerprint(self) -> str:
        """A hash of everything that decides what an example looks like; embedded or not, it is the same example."""
        weights = sorted(self.language_weights.items()) if self.language_weights else None
        opening = (self.opening_examples, self.opening_language)
        settings = (
            self.image_size,
            self.context_length,
            self.resize_method,
            self.augmentation,
            weights,
            self.captions,
            opening,
        )
        hashed = f"{settings} {self.tokenizer.fingerprint() if self.captions else None}"
        parts = {
            "targets": self.targets and self.targets.fingerprint(),
            "views": self.views,
            "naflex": self.naflex,
            "selection_chunks": self.selection_chunks,
            "reference_size": self.reference_size,
            "makers": self.makers or None,
            "shortest_edge_ratio": self.shortest_edge_ratio,
            "decode": None if self.decode == "exact" else self.decode,
            "normalization": None if self.normalization == Normalization() else self.normalization,
        }
        if used := {name: part for name, part in parts.items() if part is not None}:
            hashed += f" {used}"
        return hashlib.sha256(hashed.encode()).hexdigest()


@lru_cache(maxsize=131_072)
def _remembered_tokens(tokenizer_path: str, context_length: int, text: str) -> np.ndarray:
    tokens = shared_tokenizer(tokenizer_path).encode(clean_caption(text), context_length)
    tokens.flags.writeable = False
    return tokens
