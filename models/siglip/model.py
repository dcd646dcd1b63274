"""SigLIP: two towers trained with the pairwise sigmoid loss."""

from collections.abc import Mapping
from dataclasses import asdict

import keras

from diptych.core.losses.contrastive import sigmoid_loss
from diptych.models.bit.config import BiTConfig
from diptych.models.bit.resnet import BiTResNet
from diptych.models.clip.config import CLIPTextConfig, CLIPVisionConfig
from diptych.models.clip.model import CLIPTextTransformer, clip_image_tower
from diptych.models.clip.resnet_config import CLIPResNetConfig
from diptych.models.siglip.config import AnyTextConfig, AnyVisionConfig, NaFlexVisionConfig, SigLIPConfig
from diptych.models.siglip.naflex import NaFlexVisionTransformer, patch_places
from diptych.models.siglip.text import TextTransformer
from diptych.models.siglip.vit import VisionTransformer
from diptych.models.tower import ImageTower, Tower, policy_of
from diptych.models.two_towers import PretrainedPair


def image_tower(config: AnyVisionConfig, **arguments) -> ImageTower:
    """The image tower that a configuration describes."""
    if isinstance(config, CLIPVisionConfig | CLIPResNetConfig):
        return clip_image_tower(config, **arguments)
    if isinstance(config, NaFlexVisionConfig):
        return NaFlexVisionTransformer(config, **arguments)
    if isinstance(config, BiTConfig):
        return BiTResNet(config, **arguments)
    return VisionTransformer(config, **arguments)


def text_tower(config: AnyTextConfig, **arguments) -> Tower:
    """The text tower that a configuration describes."""
    if isinstance(config, CLIPTextConfig):
        return CLIPTextTransformer(config, **arguments)
    return TextTransformer(config, **arguments)


@keras.saving.register_keras_serializable("diptych")
class SigLIP(PretrainedPair):
    """SigLIP (Zhai et al. 2023) and SigLIP 2 (Tschannen et al. 2025), ready for `compile` and `fit`.

    >>> model = SigLIP.from_preset("hf://google/siglip2-base-patch16-256")  # or a folder; or a size, load_weights=False
    >>> model.compile(optimizer=keras.optimizers.AdamW(1e-4))
    >>> model.fit({"images": images, "token_ids": token_ids}, batch_size=256)  # or a dataset of such; rows are pairs

    Args:
        config: a `SigLIPConfig` (or the dictionary of its fields). With a `NaFlexVisionConfig` the image inputs are
            "patches" and "spatial_shapes" instead of "images".
        seed: of the initial weights; the same on every backend.
        dtype: Keras dtype policy; with "mixed_bfloat16" weights, embeddings and loss stay float32.
        rematerialize: trade one more forward pass for the memory of the blocks' activations.

    The batch of `fit` goes as one matrix of pairs through `pair_loss`, the definition in `diptych.core.losses`. For
    large batches attach the one in tiles, `model.pair_loss = diptych.backends.sigmoid_loss`, before `compile`.
    """

    config_class = SigLIPConfig
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
        policy = policy_of(dtype).name
        towers = {"seed": seed, "dtype": policy, "rematerialize": rematerialize}
        super().__init__(
            image_tower(config.vision, name="image", **towers),
            text_tower(config.text, name="text", **towers),
            init_logit_scale=config.init_logit_scale,
            init_logit_bias=config.init_logit_bias,
            max_logit_scale=config.max_logit_scale,
            name=name,
        )
        self.config = config
        self.remember(config=asdict(config), **towers)

    def image_features(self, inputs: Mapping, *, training: bool = False) -> dict:
        """As `TwoTowers.image_features`; NaFlex pads."""
        features = super().image_features(inputs, training=training)
        if "spatial_shapes" not in inputs:
            return features
        return {**features, "mask": patch_places(inputs["spatial_shapes"], inputs["patches"].shape[1])[2]}

    def batch_loss(self, image_embedding, text_embedding):
        """`pair_loss` over the batch's pairs."""
        return self.pair_loss(
            image_embedding,
            text_embedding,
            logit_scale=self.logit_scale,
            logit_bias=self.logit_bias,
        )
