"""BiT's ResNet image towers, of big_vision and of the released checkpoints (Kolesnikov et al. 2020, arXiv 1912.11370).

The stride of a unit is in its 3 x 3 convolution. CLIP's ResNet (`models/clip/resnet.py`) is another one: it pools by
averages and attention, and has batch statistics.
"""

from collections.abc import Mapping
from dataclasses import asdict

import keras
from keras import ops

from diptych.models.bit.config import BiTConfig, UnitSize
from diptych.models.parts.block import recomputed
from diptych.models.parts.convolutions import ResidualStage, StandardizedConvolution
from diptych.models.parts.heads import Projection
from diptych.models.parts.norms import GroupNorm
from diptych.models.tower import ImageTower, policy_of

DEVIATION_EPSILON = 1e-5
"""Added to the deviation of the kernels of post-activation networks."""


class _BiTLayer(keras.layers.Layer):
    """What the layers share: the convolutions and norms of a configuration."""

    def __init__(self, *, config: BiTConfig | Mapping, seed: str = "0/layer", **kwargs):
        super().__init__(**kwargs)
        self.config = config if isinstance(config, BiTConfig) else BiTConfig(**config)
        self.seed = seed

    def convolution(self, name: str, filters: int, kernel_size: int, stride: int = 1) -> StandardizedConvolution:
        pre = self.config.pre_activation
        return StandardizedConvolution(
            filters=filters,
            kernel_size=kernel_size,
            stride=stride,
            padding="symmetric" if pre else "same",
            epsilon=self.config.variance_epsilon if pre else DEVIATION_EPSILON,
            epsilon_in_root=pre,
            seed=f"{self.seed}/{name}",
            name=name,
            dtype=self.dtype_policy,
            trainable=self.trainable,
        )

    def norm(self, name: str, initial_scale: float = 1.0) -> GroupNorm:
        return GroupNorm(
            num_groups=self.config.num_groups,
            epsilon=self.config.norm_epsilon,
            initial_scale=initial_scale,
            name=name,
            dtype=self.dtype_policy,
            trainable=self.trainable,
        )

    def get_config(self):
        return {**super().get_config(), "config": asdict(self.config), "seed": self.seed}


@keras.saving.register_keras_serializable("diptych")
class BiTStem(_BiTLayer):
    """A 7 x 7 convolution and a 3 x 3 maximum, each of stride two: `[batch, n, n, 3]` -> `[batch, n / 4, n / 4,
    width]`, rounded up.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = self.convolution("conv", self.config.width, 7, 2)
        if not self.config.pre_activation:
            self.own_norm = self.norm("norm")

    def build(self, input_shape):
        self.conv.build(input_shape)
        if not self.config.pre_activation:
            self.own_norm.build(self.conv.compute_output_shape(input_shape))

    def call(self, images):
        x = self.conv.call(ops.cast(images, self.compute_dtype))
        if self.config.pre_activation:
            x = ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            return ops.max_pool(x, 3, 2, padding="valid", data_format="channels_last")
        x = ops.relu(self.own_norm.call(x))
        return ops.max_pool(x, 3, 2, padding="same", data_format="channels_last")

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        return batch, -(-height // 4), -(-width // 4), self.config.width


@keras.saving.register_keras_serializable("diptych")
class BiTUnit(_BiTLayer):
    """A bottleneck of three convolutions, 1 x 1, 3 x 3 and 1 x 1, beside a shortcut; see `BiTConfig`.

    Args:
        unit: its sizes.
    """

    def __init__(self, *, unit: UnitSize | list, **kwargs):
        super().__init__(**kwargs)
        self.unit = unit = UnitSize(*unit)
        self.convolutions = [
            self.convolution("conv_1", unit.width, 1),
            self.convolution("conv_2", unit.width, 3, unit.stride),
            self.convolution("conv_3", unit.outputs, 1),
        ]
        last_scale = 1.0 if self.config.pre_activation else 0.0
        self.norms = [self.norm("norm_1"), self.norm("norm_2"), self.norm("norm_3", last_scale)]
        if unit.projects:
            self.shortcut_conv = self.convolution("shortcut_conv", unit.outputs, 1, unit.stride)
            if not self.config.pre_activation:
                self.shortcut_norm = self.norm("shortcut_norm")

    def build(self, input_shape):
        x = input_shape
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            y = convolution.compute_output_shape(x)
            convolution.build(x)
            norm.build(x if self.config.pre_activation else y)
            x = y
        if self.unit.projects:
            self.shortcut_conv.build(input_shape)
            if not self.config.pre_activation:
                self.shortcut_norm.build(x)

    def call(self, x, training=False):
        return self._norms_first(x) if self.config.pre_activation else self._norms_last(x)

    def _norms_first(self, x):
        activated = ops.relu(self.norms[0].call(x))
        y = self.convolutions[0].call(activated)
        for convolution, norm in zip(self.convolutions[1:], self.norms[1:], strict=True):
            y = convolution.call(ops.relu(norm.call(y)))
        return y + (self.shortcut_conv.call(activated) if self.unit.projects else x)

    def _norms_last(self, x):
        y = x
        for convolution, norm in zip(self.convolutions[:-1], self.norms[:-1], strict=True):
            y = ops.relu(norm.call(convolution.call(y)))
        y = self.norms[-1].call(self.convolutions[-1].call(y))
        return ops.relu(y + (self.shortcut_norm.call(self.shortcut_conv.call(x)) if self.unit.projects else x))

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        return batch, -(-height // self.unit.stride), -(-width // self.unit.stride), self.unit.outputs

    def get_config(self):
        return {**super().get_config(), "unit": list(self.unit)}


@keras.saving.register_keras_serializable("diptych")
class BiTStage(ResidualStage, _BiTLayer):
    """The units of one stage; with `rematerialize` a unit's activations are computed again in the backward pass."""

    def __init__(self, *, stage: int, rematerialize: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.stage, self.rematerialize = stage, rematerialize
        self.blocks = [
            BiTUnit(
                config=self.config,
                unit=unit,
                seed=f"{self.seed}/block_{unit.place:02d}",
                name=f"block_{unit.place:02d}",
                dtype=self.dtype_policy,
                trainable=self.trainable,
            )
            for unit in self.config.units()
            if unit.stage == stage
        ]

    def call(self, x, training=False):
        if not self.rematerialize:
            return super().call(x, training=training)
        for block in self.blocks:
            x = recomputed(block, x)
        return x

    def get_config(self):
        return {**super().get_config(), "stage": self.stage, "rematerialize": self.rematerialize}


@keras.saving.register_keras_serializable("diptych")
class BiTResNet(ImageTower):
    """Images -> {"pooled": [batch, output_width], "tokens": [batch, num_patches, channels]}.

    Args:
        config: a `BiTConfig` (or the dictionary of its fields).
        seed, dtype, rematerialize, name: as for `VisionTransformer`.

    Input: [batch, image_size, image_size, 3], values in [-1, 1]. Tokens are the last stage's features, row by row, of
    pre-activation networks behind their last norm; "pooled" is their mean, projected where there is an `embed_dim`.
    """

    config_class = BiTConfig

    def __init__(
        self,
        config: BiTConfig | Mapping,
        *,
        seed: int = 0,
        dtype: str | None = None,
        rematerialize: bool = False,
        name: str = "image",
    ):
        config = config if isinstance(config, BiTConfig) else BiTConfig(**config)
        policy = policy_of(dtype)
        path = f"{seed}/{name}"
        images = keras.Input((config.image_size, config.image_size, 3), name="images")

        with keras.name_scope(name):
            x = BiTStem(config=config, seed=f"{path}/stem", name="stem", dtype=policy)(images)
            for stage in range(1, len(config.stage_depths) + 1):
                part = f"stage_{stage}"
                x = BiTStage(
                    config=config,
                    stage=stage,
                    rematerialize=rematerialize,
                    seed=f"{path}/{part}",
                    name=part,
                    dtype=policy,
                )(x)
            if config.pre_activation:
                norm = GroupNorm(num_groups=config.num_groups, epsilon=config.norm_epsilon, name="norm", dtype=policy)
                x = ops.relu(norm(x))
            tokens = ops.reshape(x, (-1, config.num_patches, config.channels))
            pooled = ops.mean(tokens, axis=1)
            if config.embed_dim:
                pooled = Projection(
                    embed_dim=config.embed_dim, seed=f"{path}/projection", name="projection", dtype=policy
                )(pooled)

        super().__init__(inputs=images, outputs={"pooled": pooled, "tokens": tokens}, name=name)
        self.remember(config=asdict(config), seed=seed, dtype=policy.name, rematerialize=rematerialize)
