"""Image classifiers: an image tower with a linear head, ready for `fit` and `predict` on pictures."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np

from diptych.core.data.examples.naflex import NaFlex
from diptych.core.data.pixels import FixedSize
from diptych.core.data.processor.files import IMAGE_WRITERS, own_pixels
from diptych.core.data.processor.image_processor import ImageProcessor, Item
from diptych.core.evaluation.calibration import sigmoid
from diptych.core.evaluation.classification import most_probable, softmax_probabilities
from diptych.core.files.fields import Fields
from diptych.core.weights.hub import preset_folder
from diptych.models.bit.config import BiTConfig
from diptych.models.checkpoints import load_image_tower, load_model, read_checkpoint, save_model
from diptych.models.classifier.config import ClassifierConfig, ClassifierVision
from diptych.models.classifier.pictures import PictureBatches, are_pictures, keeping_values, targets_of
from diptych.models.siglip.adapting import with_pooling
from diptych.models.siglip.config import NaFlexVisionConfig, VisionConfig
from diptych.models.siglip.model import image_tower
from diptych.models.tower import ImageTower, Tower
from diptych.models.two_towers import TwoTowers, as_called, fresh_inputs


@keras.saving.register_keras_serializable("diptych")
class ImageClassifier(Tower):
    """The image tower's inputs -> a logit for each class, float32 [batch, classes].

    >>> model = ImageClassifier.from_preset("hf://google/siglip2-base-patch16-256", classes=["cat", "dog"])
    >>> model.compile(keras.optimizers.AdamW(1e-5))
    >>> model.fit(["a.jpg", "b.jpg"], ["cat", "dog"])
    >>> model.classify("c.jpg")
    [{'cat': 0.97, 'dog': 0.03}]

    The head begins at zero, so that all classes are equally likely (big_vision's `head_zeroinit`). What it reads is the
    encoder's "pooled": see `ClassifierConfig.vision`.

    Args:
        encoder: an image tower, or two towers, of which the one for images is taken. It is shared, not copied.
        classes: names, in the order of the outputs.
        several_labels: whether a picture may have any number of labels.
        processor: prepares pictures for `fit`, `evaluate`, `predict` and `classify`; by default they are squashed to
            the encoder's square, or cut into its patches, and brought to -1..1.

    Raises:
        ValueError: for an encoder of another family or name, and for classes that are not different names.
    """

    def __init__(
        self,
        encoder: ImageTower | TwoTowers,
        classes: Sequence[str],
        *,
        several_labels: bool = False,
        processor: ImageProcessor | Mapping | None = None,
        name: str = "image_classifier",
    ):
        tower = encoder.image_encoder if isinstance(encoder, TwoTowers) else encoder
        config = ClassifierConfig(vision=_vision_of(tower), classes=tuple(classes), several_labels=several_labels)
        inputs = fresh_inputs(tower)
        head = keras.layers.Dense(len(config.classes), kernel_initializer="zeros", dtype="float32", name="classifier")
        logits = head(tower(as_called(inputs))["pooled"])
        super().__init__(inputs=inputs, outputs=logits, name=name)
        self.config, self.encoder, self.head = config, tower, head
        if isinstance(processor, Mapping):
            processor = ImageProcessor(pixels=own_pixels(Fields("processor", dict(processor))))
        self.processor = processor or ImageProcessor(pixels=usual_pixels(config.vision))

    @property
    def image_encoder(self) -> ImageTower:
        """The image tower, by the name that it has in two towers."""
        return self.encoder

    def get_config(self):
        return {
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "classes": list(self.config.classes),
            "several_labels": self.config.several_labels,
            "processor": self.processor.pixels.settings(),
            "name": self.name,
            "frozen": self.frozen(),
        }

    def compile(self, optimizer="adamw", loss=None, *, metrics=None, **settings):
        """As in Keras; by default with the cross-entropy of the softmax, or of each label's sigmoid, and accuracy."""
        several = self.config.several_labels
        if loss is None:
            losses = keras.losses
            kind = losses.BinaryCrossentropy if several else losses.SparseCategoricalCrossentropy
            loss = kind(from_logits=True)
        if metrics is None:
            metrics = [keras.metrics.BinaryAccuracy(threshold=0.0) if several else "accuracy"]
        super().compile(optimizer, loss, metrics=metrics, **settings)

    def compile_from_config(self, config):
        """Compiles a model that was saved compiled; Keras leaves this to whoever has a `compile` of their own."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def fit(self, x=None, y=None, *, batch_size: int = 32, validation_data=None, shuffle: bool = True, **settings):
        """As in Keras, of pictures too.

        Args:
            x: pictures, each encoded bytes, a path, a Pillow image or uint8 [height, width, 3], which are read and
                prepared batch by batch; or what Keras takes.
            y: of pictures the class of each, by name or number; with several labels the classes of each.
            validation_data: (x, y) of either kind, or what Keras takes.
            batch_size, shuffle, settings: as in Keras.

        Raises:
            ValueError: for a class that the model does not have, which it names.
            BadExample: for a picture that cannot be read, which it names.
        """
        if isinstance(validation_data, tuple) and len(validation_data) == 2 and are_pictures(validation_data[0]):
            validation_data = self._batches(*validation_data, batch_size=batch_size)
        if are_pictures(x):
            batches = self._batches(x, y, batch_size=batch_size, shuffle=shuffle)
            with keeping_values(self, batches):
                return super().fit(batches, validation_data=validation_data, **settings)
        if not isinstance(x, keras.utils.PyDataset) and y is not None:
            settings |= {"batch_size": batch_size, "shuffle": shuffle}
        return super().fit(x, y, validation_data=validation_data, **settings)

    def evaluate(self, x=None, y=None, *, batch_size: int | None = None, **settings):
        """As in Keras, of pictures too; arguments and errors as for `fit`."""
        if are_pictures(x):
            batches = self._batches(x, y, batch_size=batch_size)
            with keeping_values(self, batches):
                return super().evaluate(batches, **settings)
        return super().evaluate(x, y, batch_size=batch_size, **settings)

    def predict(self, x, *, batch_size: int | None = None, **settings):
        """Logits, float32 [n, classes], of pictures or of what Keras takes; `x` as for `fit`."""
        if are_pictures(x):
            batches = self._batches(x, None, batch_size=batch_size)
            with keeping_values(self, batches):
                return super().predict(batches, **settings)
        return super().predict(x, batch_size=batch_size, **settings)

    def classify(self, pictures: Item | Iterable[Item], *, top_k: int | None = 5) -> list[dict[str, float]]:
        """For each picture its most probable classes with their probabilities, best first.

        Args:
            pictures: as for `fit`, or one of them.
            top_k: how many classes; None for all.
        """
        found = probabilities(self.config, self.predict(pictures, verbose=0))
        return most_probable(self.config.classes, found, top_k)

    def save_to_preset(self, folder: str | Path, *, format: str = "diptych") -> None:
        """Writes configuration, weights and processor.

        Args:
            folder: made if need be.
            format: "diptych"; "transformers" for SiglipForImageClassification and its NaFlex kin, which read the mean
                of the patch tokens (pooling "gap") and no other; of BiT's towers "big_vision" for `weights.npz`, which
                says nothing of classes and pictures, and "timm" for the pre-activation ones that timm has.
        """
        save_model(self, Path(folder), format=format)
        if format in IMAGE_WRITERS:
            self.processor.save_to_preset(folder, format=format)

    @classmethod
    def from_preset(
        cls,
        preset: str | Path,
        *,
        classes: Sequence[str] | None = None,
        pooling: str | None = None,
        several_labels: bool = False,
        revision: str | None = None,
        **arguments,
    ) -> Self:
        """A classifier's checkpoint as it is, or the image tower of any other with a fresh head.

        Args:
            preset: a folder or "hf://owner/name" with a classifier of diptych or transformers; or whatever SigLIP's
                `from_preset` and `VisionTransformer.from_preset` read.
            classes: of a fresh head.
            pooling: what a fresh head reads: "map", "gap" or "cls"; by default what the checkpoint has. What the
                tower lacks for it is drawn anew.
            several_labels: of a fresh head.
            revision: of the repository on the hub.
            arguments: dtype, rematerialize.

        Raises:
            FileNotFoundError, ValueError: for what is missing or does not fit, and for a classifier that is asked for
                other classes than it has.
        """
        checkpoint = read_checkpoint(preset_folder(preset, revision=revision))
        try:
            processor = ImageProcessor.from_preset(preset, revision=revision)
        except FileNotFoundError:  # towers alone, of timm and of some folders of weights
            processor = None
        if isinstance(checkpoint.config, ClassifierConfig):
            _refuse_another_head(preset, checkpoint.config, classes, pooling)
            return load_model(
                preset, classifier_of, ClassifierConfig, revision=revision, processor=processor, **arguments
            )
        if classes is None:
            raise ValueError(f"{preset} is no classifier yet: name its classes, classes=[...].")
        towers = (VisionConfig, NaFlexVisionConfig, BiTConfig)
        tower = load_image_tower(preset, image_tower, towers, revision=revision, name="image", **arguments)
        if pooling is not None:
            tower = with_pooling(tower, pooling)
        return cls(tower, classes, several_labels=several_labels, processor=processor)

    def _batches(self, x: Any, y: Any, *, batch_size: int | None, shuffle: bool = False) -> PictureBatches:
        targets = None if y is None else targets_of(self.config, y)
        return PictureBatches(self.processor, x, targets, batch_size=batch_size or 32, shuffle=shuffle)


def classifier_of(
    config: ClassifierConfig,
    *,
    seed: int = 0,
    dtype: str | None = None,
    rematerialize: bool = False,
    processor: ImageProcessor | None = None,
    name: str = "image_classifier",
) -> ImageClassifier:
    """The classifier that a configuration describes; arguments as for `SigLIP`."""
    tower = image_tower(config.vision, seed=seed, dtype=dtype, rematerialize=rematerialize, name="image")
    several = config.several_labels
    return ImageClassifier(tower, config.classes, several_labels=several, processor=processor, name=name)


def probabilities(config: ClassifierConfig, logits: np.ndarray) -> np.ndarray:
    """What logits [n, classes] say: of which class a picture is, float64 [n, classes] in rows that add up to 1; with
    several labels, whether it has each.
    """
    return sigmoid(logits) if config.several_labels else softmax_probabilities(logits)


def usual_pixels(vision: ClassifierVision) -> FixedSize | NaFlex:
    """How SigLIP's and BiT's towers take pictures where nothing else is known."""
    if isinstance(vision, NaFlexVisionConfig):
        return NaFlex(patch_size=vision.patch_size, max_num_patches=vision.max_num_patches)
    return FixedSize(height=vision.image_size, width=vision.image_size)


def _vision_of(tower: Any) -> ClassifierVision:
    kind = getattr(tower, "config_class", None)
    if kind not in (VisionConfig, NaFlexVisionConfig, BiTConfig) or tower.name != "image":
        raise ValueError(
            f"encoder must be an image tower of SigLIP, SigLIP 2 or BiT, or a model with one, and have the name image; "
            f"got {type(tower).__name__} {getattr(tower, 'name', '')!r}."
        )
    return kind(**tower.get_config()["config"])


def _refuse_another_head(
    preset: str | Path, config: ClassifierConfig, classes: Sequence[str] | None, pooling: str | None
) -> None:
    if classes is not None and tuple(classes) != config.classes:
        raise ValueError(
            f"{preset} tells {len(config.classes)} other classes apart ({', '.join(config.classes[:3])}, ...), and "
            "would lose its head. Leave classes out, or give its encoder a new head: "
            "ImageClassifier(ImageClassifier.from_preset(...).encoder, classes)."
        )
    if pooling not in (None, config.vision.pooling):
        raise ValueError(f"{preset} has a head that reads {config.vision.pooling!r}: leave pooling={pooling!r} out.")
