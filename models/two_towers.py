"""An image tower and a text tower side by side, and SigLIP: two towers trained with the pairwise sigmoid loss."""

from collections.abc import Mapping
from dataclasses import asdict

import keras

from diptych.core.losses.contrastive import sigmoid_loss
from diptych.models.config import SigLIPConfig
from diptych.models.heads import Normalize, PairLogits
from diptych.models.text import TextTransformer
from diptych.models.tower import Tower
from diptych.models.vit import VisionTransformer


@keras.saving.register_keras_serializable("diptych")
class TwoTowers(Tower):
    """{"images": images, "token_ids": token ids} -> {"image_embedding": [batch, dim], "text_embedding": [batch, dim]}.

    Embeddings are L2-normalised float32. `logit_scale` and `logit_bias` are learned scalars of the model; the (batch, batch)
    logits are not an output: losses compute them, in tiles or over devices.

    Args:
        image_encoder, text_encoder: models whose output holds "pooled", of the same width.
        init_logit_scale, init_logit_bias: initial t and b; b = None for losses without a bias.
    """

    def __init__(
        self,
        image_encoder: keras.Model,
        text_encoder: keras.Model,
        *,
        init_logit_scale: float = 10.0,
        init_logit_bias: float | None = -10.0,
        name: str = "two_towers",
    ):
        inputs = {
            "images": keras.Input(image_encoder.input_shape[1:], name="images"),
            "token_ids": keras.Input(text_encoder.input_shape[1:], dtype="int32", name="token_ids"),
        }
        pair_logits = PairLogits(init_logit_scale=init_logit_scale, init_logit_bias=init_logit_bias, name="pair_logits")
        image, text = pair_logits(
            image_encoder(inputs["images"])["pooled"], text_encoder(inputs["token_ids"])["pooled"]
        )
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
            "name": self.name,
        }

    def _embedder(self, encoder, name):
        # Only the encoder's graph up to the pooled vector: the token features are left out.
        pooled = keras.Model(encoder.inputs, encoder.output["pooled"], name=encoder.name)
        inputs = keras.Input(encoder.input_shape[1:], dtype=encoder.inputs[0].dtype, name=encoder.inputs[0].name)
        return keras.Model(inputs, Normalize(name="normalize")(pooled(inputs)), name=name)


@keras.saving.register_keras_serializable("diptych")
class SigLIP(TwoTowers):
    """SigLIP (Zhai et al. 2023; SigLIP 2: Tschannen et al. 2025), ready for `compile` and `fit`.

    >>> model = SigLIP.from_preset("siglip2_base_patch16_256")
    >>> model.compile(optimizer=keras.optimizers.AdamW(1e-4))
    >>> model.fit({"images": images, "token_ids": token_ids}, batch_size=256)  # or a dataset of such; rows are pairs

    Args:
        config: a `SigLIPConfig` (or the dictionary of its fields).
        seed: of the initial weights; the same on every backend.
        dtype: Keras dtype policy; with "mixed_bfloat16" weights, embeddings and loss stay float32.
        rematerialize: trade one more forward pass for the memory of the blocks' activations.

    The batch of `fit` goes as one matrix of pairs through `pair_loss`, the definition in `diptych.core.losses`. For large
    batches attach the one in tiles, `model.pair_loss = diptych.backends.sigmoid_loss`, before `compile`.
    """

    pair_loss = staticmethod(sigmoid_loss)

    def __init__(
        self,
        config: SigLIPConfig | Mapping,
        *,
        seed: int = 0,
        dtype: str | None = None,
        rematerialize: bool = False,
        name: str = "siglip",
    ):
        config = config if isinstance(config, SigLIPConfig) else SigLIPConfig(**config)
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy()).name
        towers = {"seed": seed, "dtype": policy, "rematerialize": rematerialize}
        super().__init__(
            VisionTransformer(config.vision, name="image", **towers),
            TextTransformer(config.text, name="text", **towers),
            init_logit_scale=config.init_logit_scale,
            init_logit_bias=config.init_logit_bias,
            name=name,
        )
        self.remember(config=asdict(config), **towers)

    def get_config(self):
        return Tower.get_config(self)  # the towers follow from the configuration

    @classmethod
    def from_preset(cls, preset: str, **arguments) -> "SigLIP":
        """A model of a named size with fresh weights; the names are in `diptych.models.presets`."""
        from diptych.models.presets import preset_config

        return cls(preset_config(preset), **arguments)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The loss that `fit` minimises: `pair_loss` over the batch's pairs."""
        return self.pair_loss(
            y_pred["image_embedding"],
            y_pred["text_embedding"],
            logit_scale=self.logit_scale,
            logit_bias=self.logit_bias,
        )
