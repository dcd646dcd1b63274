"""CLIP's ResNet image towers, RN50 to RN50x64 (Radford et al. 2021, section 2.4 and table 19).

Against He et al. 2015: a stem of three convolutions and an average pool instead of one convolution and a maximum;
wherever the size halves, an average pool in front of a convolution of stride one ("anti-aliased", Zhang 2019; in the
shortcut as ResNet-D, He et al. 2019); and attention instead of the mean at the end, its query the mean of all
positions.
"""

from collections.abc import Mapping
from dataclasses import asdict

import keras
from keras import ops

from diptych.models.clip.resnet_config import CLIPResNetConfig
from diptych.models.clip.resnet_counting import EXPANSION
from diptych.models.parts.attention import Attention
from diptych.models.parts.convolutions import BatchNorm, Convolution, ResidualStage, average_pool
from diptych.models.parts.embeddings import PositionEmbedding
from diptych.models.tower import ImageTower, policy_of


@keras.saving.register_keras_serializable("diptych")
class Stem(keras.layers.Layer):
    """Three 3 x 3 convolutions, the first of stride two, and an average pool.

    `[batch, size, size, 3]` -> `[batch, size / 4, size / 4, width]`.
    """

    def __init__(self, *, width: int, seed: str = "0/stem", **kwargs):
        super().__init__(**kwargs)
        self.width, self.seed = width, seed
        filters, strides = (width // 2, width // 2, width), (2, 1, 1)
        shared = {"dtype": self.dtype_policy, "trainable": self.trainable}
        self.convolutions = [
            Convolution(
                filters=channels,
                kernel_size=3,
                stride=stride,
                seed=f"{seed}/conv_{number}",
                name=f"conv_{number}",
                **shared,
            )
            for number, (channels, stride) in enumerate(zip(filters, strides, strict=True), 1)
        ]
        self.norms = [BatchNorm(name=f"norm_{number}", **shared) for number in (1, 2, 3)]

    def build(self, input_shape):
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            convolution.build(input_shape)
            input_shape = convolution.compute_output_shape(input_shape)
            norm.build(input_shape)

    def call(self, images, training=False):
        x = ops.cast(images, self.compute_dtype)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = ops.relu(norm.call(convolution.call(x), training=training))
        return average_pool(x, 2)

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        return batch, height // 4, width // 4, self.width

    def get_config(self):
        return {**super().get_config(), "width": self.width, "seed": self.seed}


@keras.saving.register_keras_serializable("diptych")
class Bottleneck(keras.layers.Layer):
    """relu(shortcut(x) + branch(x)): 1 x 1, 3 x 3, pool by `stride`, 1 x 1 to four times the width; each with a norm.

    With `project`, as in the first block of a stage, the shortcut is a pool by `stride`, a 1 x 1 convolution and a
    norm; otherwise it is x.
    """

    def __init__(self, *, width: int, stride: int = 1, project: bool = False, seed: str = "0/block", **kwargs):
        super().__init__(**kwargs)
        self.width, self.stride, self.project, self.seed = width, stride, project, seed
        shared = {"dtype": self.dtype_policy, "trainable": self.trainable}

        def convolution(name, filters, kernel_size):
            return Convolution(filters=filters, kernel_size=kernel_size, seed=f"{seed}/{name}", name=name, **shared)

        def norm(name, initial_scale=1.0):
            return BatchNorm(initial_scale=initial_scale, name=name, **shared)

        self.conv_1, self.norm_1 = convolution("conv_1", width, 1), norm("norm_1")
        self.conv_2, self.norm_2 = convolution("conv_2", width, 3), norm("norm_2")
        self.conv_3, self.norm_3 = convolution("conv_3", EXPANSION * width, 1), norm("norm_3", initial_scale=0.0)
        if project:
            self.shortcut_conv = convolution("shortcut_conv", EXPANSION * width, 1)
            self.shortcut_norm = norm("shortcut_norm")

    def build(self, input_shape):
        x = input_shape
        for convolution, norm in self._branch():
            convolution.build(x)
            x = convolution.compute_output_shape(x)
            norm.build(x)
        if self.project:
            self.shortcut_conv.build(input_shape)
            self.shortcut_norm.build(x)

    def call(self, x, training=False):
        y = ops.relu(self.norm_1.call(self.conv_1.call(x), training=training))
        y = ops.relu(self.norm_2.call(self.conv_2.call(y), training=training))
        y = self.norm_3.call(self.conv_3.call(average_pool(y, self.stride)), training=training)
        if self.project:
            x = self.shortcut_norm.call(self.shortcut_conv.call(average_pool(x, self.stride)), training=training)
        return ops.relu(x + y)

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        return batch, height // self.stride, width // self.stride, EXPANSION * self.width

    def get_config(self):
        names = ("width", "stride", "project", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

    def _branch(self):
        return (self.conv_1, self.norm_1), (self.conv_2, self.norm_2), (self.conv_3, self.norm_3)


@keras.saving.register_keras_serializable("diptych")
class Stage(ResidualStage):
    """`depth` blocks of one width, the first of which changes size and channels."""

    def __init__(self, *, width: int, depth: int, stride: int, seed: str = "0/stage", **kwargs):
        super().__init__(**kwargs)
        self.width, self.depth, self.stride, self.seed = width, depth, stride, seed
        self.blocks = [
            Bottleneck(
                width=width,
                stride=1 if index else stride,
                project=index == 0,
                seed=f"{seed}/block_{index:02d}",
                name=f"block_{index:02d}",
                dtype=self.dtype_policy,
                trainable=self.trainable,
            )
            for index in range(depth)
        ]

    def get_config(self):
        names = ("width", "depth", "stride", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable("diptych")
class AttentionPool(Attention):
    """One query, the mean of the tokens, attends to them all: `[batch, length, channels]` -> `[batch, embed_dim]`.

    The mean is itself a key and a value, in front of the others; all have learned positions.
    """

    def __init__(self, *, embed_dim: int, num_heads: int, seed: str = "0/attention_pool", **kwargs):
        super().__init__(num_heads=num_heads, output_dim=embed_dim, initializer="scaled_normal", seed=seed, **kwargs)
        self.position_embedding = PositionEmbedding(
            seed=f"{seed}/position_embedding",
            name="position_embedding",
            dtype=self.dtype_policy,
            trainable=self.trainable,
        )

    def build(self, input_shape):
        _, length, channels = input_shape
        self.position_embedding.build((None, 1 + length, channels))
        super().build((None, 1, channels), (None, 1 + length, channels))

    def call(self, tokens):
        x = ops.concatenate([ops.mean(tokens, axis=1, keepdims=True), tokens], axis=1)
        x = self.position_embedding.call(x)
        return self.mix(self.queries(x[:, :1]), *self.keys_values(x))

    def compute_output_shape(self, input_shape):
        return input_shape[0], self.output_dim

    def get_config(self):
        base = keras.layers.Layer.get_config(self)
        return {**base, "embed_dim": self.output_dim, "num_heads": self.num_heads, "seed": self.seed}


@keras.saving.register_keras_serializable("diptych")
class CLIPResNet(ImageTower):
    """Images -> {"pooled": [batch, embed_dim], "tokens": [batch, (image_size / 32)², 32 · width]}.

    Args:
        config: a `CLIPResNetConfig` (or the dictionary of its fields).
        seed, dtype, name: as for `VisionTransformer`.

    Input: [batch, image_size, image_size, 3], normalised by CLIP's mean and standard deviation. Tokens are the last
    stage's features, row by row.
    """

    config_class = CLIPResNetConfig

    def __init__(
        self, config: CLIPResNetConfig | Mapping, *, seed: int = 0, dtype: str | None = None, name: str = "image"
    ):
        config = config if isinstance(config, CLIPResNetConfig) else CLIPResNetConfig(**config)
        policy = policy_of(dtype)
        path = f"{seed}/{name}"
        images = keras.Input((config.image_size, config.image_size, 3), name="images")

        with keras.name_scope(name):
            x = Stem(width=config.width, seed=f"{path}/stem", name="stem", dtype=policy)(images)
            for index, depth in enumerate(config.stage_depths):
                part = f"stage_{index + 1}"
                x = Stage(
                    width=config.width * 2**index,
                    depth=depth,
                    stride=2 if index else 1,
                    seed=f"{path}/{part}",
                    name=part,
                    dtype=policy,
                )(x)
            tokens = ops.reshape(x, (-1, config.num_patches, config.channels))
            pooled = AttentionPool(
                embed_dim=config.embed_dim,
                num_heads=config.num_heads,
                seed=f"{path}/attention_pool",
                name="attention_pool",
                dtype=policy,
            )(tokens)

        super().__init__(inputs=images, outputs={"pooled": pooled, "tokens": tokens}, name=name)
        self.remember(config=asdict(config), seed=seed, dtype=policy.name)
