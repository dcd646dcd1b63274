"""CLIP, as released by OpenAI.

Reference: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision".

Against SigLIP: quick-GELU and LayerNorm epsilon 1e-5; an image is read at a class token, which has a position and a
LayerNorm in front of the blocks; text is causal and read at its end-of-text token; both are projected without bias; the
logits have no bias and the loss is a softmax over the batch. The ResNet image towers are in `models/clip/resnet.py`.
"""

from collections.abc import Mapping
from dataclasses import asdict

import keras
from keras import ops

from diptych.core.losses.contrastive import softmax_contrastive_loss
from diptych.models.clip.config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from diptych.models.clip.resnet import CLIPResNet
from diptych.models.clip.resnet_config import CLIPResNetConfig
from diptych.models.parts.block import BlockConfig
from diptych.models.parts.embeddings import ClassToken, PatchEmbedding, PositionEmbedding, embedded_tokens
from diptych.models.parts.encoder import Encoder
from diptych.models.parts.heads import Projection
from diptych.models.parts.norms import LayerNorm
from diptych.models.tower import ImageTower, Tower, policy_of
from diptych.models.two_towers import PretrainedPair

NORM_EPSILON = 1e-5


def block_config(config: CLIPVisionConfig | CLIPTextConfig, *, causal: bool = False) -> BlockConfig:
    """The blocks of one of CLIP's towers."""
    return BlockConfig(
        num_heads=config.num_heads,
        mlp_dim=config.mlp_dim,
        activation=config.activation,
        norm_epsilon=NORM_EPSILON,
        causal=causal,
    )


@keras.saving.register_keras_serializable("diptych")
class CLIPVisionTransformer(ImageTower):
    """Images -> {"pooled": [batch, embed_dim], "tokens": [batch, 1 + num_patches, width]}.

    Args: as for `VisionTransformer`, with a `CLIPVisionConfig`. Input: [batch, image_size, image_size, 3], normalised
    by CLIP's mean and standard deviation. Tokens are those after the last block and the final LayerNorm, the class
    token first.
    """

    config_class = CLIPVisionConfig

    def __init__(
        self,
        config: CLIPVisionConfig | Mapping,
        *,
        seed: int = 0,
        dtype: str | None = None,
        rematerialize: bool = False,
        name: str = "image",
    ):
        config = config if isinstance(config, CLIPVisionConfig) else CLIPVisionConfig(**config)
        policy = policy_of(dtype)
        path = f"{seed}/{name}"
        images = keras.Input((config.image_size, config.image_size, 3), name="images")

        with keras.name_scope(name):
            x = PatchEmbedding(
                patch_size=config.patch_size,
                width=config.width,
                use_bias=False,
                seed=f"{path}/patch_embedding",
                name="patch_embedding",
                dtype=policy,
            )(images)
            x = ClassToken(name="class_token", dtype=policy)(x)
            x = PositionEmbedding(seed=f"{path}/position_embedding", name="position_embedding", dtype=policy)(x)
            x = LayerNorm(epsilon=NORM_EPSILON, name="input_norm", dtype=policy)(x)
            tokens = Encoder(
                depth=config.depth,
                block=block_config(config),
                rematerialize=rematerialize,
                seed=f"{path}/encoder",
                name="encoder",
                dtype=policy,
            )(x)
            pooled = Projection(
                embed_dim=config.embed_dim, use_bias=False, seed=f"{path}/projection", name="projection", dtype=policy
            )(tokens[:, 0])

        super().__init__(inputs=images, outputs={"pooled": pooled, "tokens": tokens}, name=name)
        self.remember(config=asdict(config), seed=seed, dtype=policy.name, rematerialize=rematerialize)


@keras.saving.register_keras_serializable("diptych")
class EndOfText(keras.layers.Layer):
    """(tokens `[batch, length, width]`, ids `[batch, length]`) -> the tokens at the first end-of-text,
    `[batch, width]`.

    With `eot_id` None that is the first of the largest ids, as OpenAI's code has it; padding by the same id is then no
    matter.
    """

    def __init__(self, *, eot_id: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.eot_id = eot_id

    def call(self, tokens, ids):
        is_end = ops.equal(ids, ops.max(ids, axis=1, keepdims=True) if self.eot_id is None else self.eot_id)
        place = ops.argmax(ops.cast(is_end, "int32"), axis=1)
        one_hot = ops.cast(ops.expand_dims(ops.one_hot(place, tokens.shape[1]), 1), tokens.dtype)
        return ops.matmul(one_hot, tokens)[:, 0]

    def compute_output_shape(self, tokens_shape, ids_shape):
        return tokens_shape[0], tokens_shape[-1]

    def get_config(self):
        return {**super().get_config(), "eot_id": self.eot_id}


@keras.saving.register_keras_serializable("diptych")
class CLIPTextTransformer(Tower):
    """Token ids -> {"pooled": [batch, embed_dim], "tokens": [batch, context_length, width]}.

    Args: as for `TextTransformer`, with a `CLIPTextConfig`. Input: int32 [batch, context_length], with an end-of-text
    in each row.
    """

    def __init__(
        self,
        config: CLIPTextConfig | Mapping,
        *,
        seed: int = 0,
        dtype: str | None = None,
        rematerialize: bool = False,
        name: str = "text",
    ):
        config = config if isinstance(config, CLIPTextConfig) else CLIPTextConfig(**config)
        policy = policy_of(dtype)
        path = f"{seed}/{name}"
        ids = keras.Input((config.context_length,), dtype="int32", name="token_ids")

        with keras.name_scope(name):
            x = embedded_tokens(ids, vocab_size=config.vocab_size, width=config.width, path=path, dtype=policy)
            tokens = Encoder(
                depth=config.depth,
                block=block_config(config, causal=True),
                rematerialize=rematerialize,
                seed=f"{path}/encoder",
                name="encoder",
                dtype=policy,
            )(x)
            pooled = Projection(
                embed_dim=config.embed_dim, use_bias=False, seed=f"{path}/projection", name="projection", dtype=policy
            )(EndOfText(eot_id=config.eot_id, name="end_of_text", dtype=policy)(tokens, ids))

        super().__init__(inputs=ids, outputs={"pooled": pooled, "tokens": tokens}, name=name)
        self.remember(config=asdict(config), seed=seed, dtype=policy.name, rematerialize=rematerialize)


def clip_image_tower(
    config: CLIPVisionConfig | CLIPResNetConfig, *, rematerialize: bool = False, name: str = "image", **arguments
) -> ImageTower:
    """The image tower that a configuration describes."""
    if isinstance(config, CLIPResNetConfig):
        return CLIPResNet(config, name=name, **arguments)
    return CLIPVisionTransformer(config, name=name, rematerialize=rematerialize, **arguments)


@keras.saving.register_keras_serializable("diptych")
class CLIP(PretrainedPair):
    """CLIP, ready for `compile` and `fit`; a batch's rows are pairs, contrasted by the softmax loss.

    >>> model = CLIP.from_preset("hf://openai/clip-vit-base-patch32")  # or a folder; or a size, load_weights=False

    Args:
        config: a `CLIPConfig` (or the dictionary of its fields).
        seed, dtype, rematerialize: as for `SigLIP`.

    The batch of `fit` goes as one matrix of pairs through `pair_loss`, the definition in `diptych.core.losses`. For
    large batches attach the one in tiles, `model.pair_loss = diptych.backends.softmax_contrastive_loss`, before
    `compile`.
    """

    config_class = CLIPConfig
    pair_loss = staticmethod(softmax_contrastive_loss)

    def __init__(
        self,
        config: CLIPConfig | Mapping,
        *,
        seed: int = 0,
        dtype: str | None = None,
        rematerialize: bool = False,
        name: str = "clip",
    ):
        config = config if isinstance(config, CLIPConfig) else CLIPConfig(**config)
        policy = policy_of(dtype).name
        arguments = {"seed": seed, "dtype": policy, "rematerialize": rematerialize}
        super().__init__(
            clip_image_tower(config.vision, **arguments),
            CLIPTextTransformer(config.text, name="text", **arguments),
            init_logit_scale=config.init_logit_scale,
            init_logit_bias=None,
            max_logit_scale=config.max_logit_scale,
            name=name,
        )
        self.config = config
        self.remember(config=asdict(config), **arguments)

    def batch_loss(self, image_embedding, text_embedding):
        """`pair_loss` over the batch's pairs."""
        return self.pair_loss(image_embedding, text_embedding, logit_scale=self.logit_scale)
