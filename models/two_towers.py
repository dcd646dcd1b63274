"""An image tower and a text tower side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

import keras

from diptych.models.checked import CheckedModel
from diptych.models.checkpoints import load_model, save_model
from diptych.models.parts.heads import Normalize, PairLogits, normalize
from diptych.models.tower import Tower


@keras.saving.register_keras_serializable("diptych")
class TwoTowers(Tower):
    """The towers' inputs, such as {"images", "token_ids"} -> {"image_embedding": [batch, dim], "text_embedding":
    [batch, dim]}.

    Embeddings are L2-normalised float32. `logit_scale` and `logit_bias` are learned scalars of the model; the (batch,
    batch) logits are not an output: losses compute them, in tiles or over devices.

    Args:
        image_encoder, text_encoder: models whose output holds "pooled", of the same width.
        init_logit_scale, init_logit_bias: initial t and b; b = None for losses without a bias.
        max_logit_scale: the largest t that training leaves; None for no bound.
    """

    def __init__(
        self,
        image_encoder: keras.Model,
        text_encoder: keras.Model,
        *,
        init_logit_scale: float = 10.0,
        init_logit_bias: float | None = -10.0,
        max_logit_scale: float | None = None,
        name: str = "two_towers",
    ):
        image_inputs, text_inputs = fresh_inputs(image_encoder), fresh_inputs(text_encoder)
        pair_logits = PairLogits(
            init_logit_scale=init_logit_scale,
            init_logit_bias=init_logit_bias,
            max_logit_scale=max_logit_scale,
            name="pair_logits",
        )
        image, text = pair_logits(
            image_encoder(as_called(image_inputs))["pooled"], text_encoder(as_called(text_inputs))["pooled"]
        )
        inputs = image_inputs | text_inputs
        super().__init__(inputs=inputs, outputs={"image_embedding": image, "text_embedding": text}, name=name)
        self.image_encoder, self.text_encoder = image_encoder, text_encoder
        self.pair_logits = pair_logits

    @property
    def logit_scale(self):
        """t = exp(t'), a scalar tensor."""
        return keras.ops.exp(self.pair_logits.log_logit_scale.value)

    @property
    def logit_bias(self):
        """b, a scalar tensor, or None for a model without one."""
        return None if self.pair_logits.logit_bias is None else self.pair_logits.logit_bias.value

    def image_features(self, inputs: Mapping, *, training: bool = False) -> dict:
        """What the image encoder gives for its inputs by name, and "mask", bool `[batch, tokens]`: None where nothing
        is padding.
        """
        return {**self.image_encoder(as_called(inputs), training=training), "mask": None}

    def text_features(self, token_ids, *, training: bool = False) -> dict:
        """What the text encoder gives."""
        return self.text_encoder(token_ids, training=training)

    def encode_image(self, images):
        """The image tower's input, or its inputs by name -> L2-normalised embeddings, float32 `[batch, dim]`."""
        inputs = images if isinstance(images, Mapping) else {self.image_encoder.inputs[0].name: images}
        return normalize(self.image_features(inputs)["pooled"])

    def encode_text(self, token_ids):
        """Token ids, int32 `[batch, length]` -> L2-normalised embeddings, float32 `[batch, dim]`."""
        return normalize(self.text_features(token_ids)["pooled"])

    def image_embedder(self) -> keras.Model:
        """Images -> L2-normalised embeddings, as a Keras model that shares this model's weights."""
        return self._embedder(self.image_encoder, "image_embedder")

    def text_embedder(self) -> keras.Model:
        """Token ids -> L2-normalised embeddings, as a Keras model that shares this model's weights."""
        return self._embedder(self.text_encoder, "text_embedder")

    def get_config(self):
        return {
            "image_encoder": keras.saving.serialize_keras_object(self.image_encoder),
            "text_encoder": keras.saving.serialize_keras_object(self.text_encoder),
            "init_logit_scale": self.pair_logits.init_logit_scale,
            "init_logit_bias": self.pair_logits.init_logit_bias,
            "max_logit_scale": self.pair_logits.max_logit_scale,
            "name": self.name,
            "frozen": self.frozen(),
        }

    def _embedder(self, encoder, name):
        # Only the encoder's graph up to the pooled vector: the token features are left out.
        pooled = keras.Model(encoder.input, encoder.output["pooled"], name=encoder.name)
        inputs = as_called(fresh_inputs(encoder))
        return CheckedModel(inputs, Normalize(name="normalize")(pooled(inputs)), name=name)


def _refuse_ignored(**given) -> None:
    for name, value in given.items():
        if value is not None and not (isinstance(value, (list, dict)) and not value):
            raise ValueError(
                f"{name} was given, and would be ignored: the rows of a batch are pairs, each is contrasted with all "
                "others, and the loss is the model's own (see batch_loss). Leave it out, or train with a loop of your "
                "own."
            )


def fresh_inputs(encoder: keras.Model) -> dict:
    """New inputs like the encoder's, by name."""
    return {x.name: keras.Input(x.shape[1:], dtype=x.dtype, name=x.name) for x in encoder.inputs}


def as_called(inputs: Mapping):
    """What an encoder is called with: its one input, or a dictionary of several."""
    return next(iter(inputs.values())) if len(inputs) == 1 else inputs


class PretrainedPair(TwoTowers):
    """Two towers that are built from one configuration, `config`, and read from and written to checkpoints.

    Attributes:
        config_class: of the configuration that the constructor takes.
    """

    config_class: ClassVar[type]

    def get_config(self):
        return Tower.get_config(self)  # the towers follow from the configuration

    def compile(
        self, optimizer="rmsprop", loss=None, *, loss_weights=None, metrics=None, weighted_metrics=None, **settings
    ):
        """As in Keras, but that the rows of a batch are pairs, whose loss is the model's own.

        Raises:
            ValueError: for a loss, metrics and their weights, which would be ignored.
        """
        _refuse_ignored(loss=loss, loss_weights=loss_weights, metrics=metrics, weighted_metrics=weighted_metrics)
        super().compile(optimizer, **settings)

    def compile_from_config(self, config):
        """Compiles a model that was saved compiled; Keras leaves this to whoever has a `compile` of their own."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def fit(self, x=None, y=None, *args, class_weight=None, sample_weight=None, validation_data=None, **kwargs):
        """As in Keras; raises ValueError for targets, and weights of examples or classes, which pairs have not."""
        _refuse_ignored(y=y, class_weight=class_weight, sample_weight=sample_weight)
        if isinstance(validation_data, (list, tuple)):
            _refuse_ignored(**dict(zip(("y", "sample_weight"), validation_data[1:], strict=False)))
        return super().fit(x, y, *args, validation_data=validation_data, **kwargs)

    def evaluate(self, x=None, y=None, *args, sample_weight=None, **kwargs):
        """As in Keras; errors as for `fit`."""
        _refuse_ignored(y=y, sample_weight=sample_weight)
        return super().evaluate(x, y, *args, **kwargs)

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, **kwargs):
        """As in Keras; errors as for `fit`."""
        _refuse_ignored(y=y, class_weight=class_weight, sample_weight=sample_weight)
        return super().train_on_batch(x, **kwargs)

    def test_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        """As in Keras; errors as for `fit`."""
        _refuse_ignored(y=y, sample_weight=sample_weight)
        return super().test_on_batch(x, **kwargs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The loss that `fit` minimises: `batch_loss`; errors as for `fit`, for what a data set brings along."""
        _refuse_ignored(y=y, sample_weight=sample_weight)
        return self.batch_loss(y_pred["image_embedding"], y_pred["text_embedding"])

    def batch_loss(self, image_embedding, text_embedding):
        """The loss of a batch, a scalar: embeddings `[batch, dim]` of which equal rows are pairs."""
        raise NotImplementedError

    @classmethod
    def from_preset(
        cls,
        preset: str | Path,
        *,
        revision: str | None = None,
        load_weights: bool = True,
        **arguments,
    ) -> Self:
        """A model with the weights of a checkpoint, or with fresh ones in its shapes.

        Args:
            preset: a folder, or "hf://owner/name", with a checkpoint of transformers (safetensors), open_clip, timm,
                keras-hub or diptych; a big_vision .npz file; a trained model that diptych ships
                (`diptych.core.weights.hub.SHIPPED`); or, without `load_weights`, a size of
                `diptych.models.presets.PRESETS`.
            revision: of the repository on the hub: a branch, tag or commit.
            load_weights: False for fresh weights.
            arguments: of the constructor: seed, dtype, rematerialize, name.

        Raises:
            FileNotFoundError, ValueError: naming what is missing or does not fit, and what would.
        """
        return load_model(preset, cls, cls.config_class, revision=revision, load_weights=load_weights, **arguments)

    def save_to_preset(self, folder: str | Path, *, format: str = "transformers") -> None:
        """Writes configuration and weights in a layout that others read, bit for bit.

        Args:
            folder: made if need be. The files of tokenizer and preprocessing are `Processor.save_to_preset`'s.
            format: "transformers", "open_clip", "big_vision" or "diptych"; a model that a layout cannot express raises
                ValueError.
        """
        save_model(self, Path(folder), format=format)
