"""What SigLIP 2 trains: the two towers that are kept, and the parts that only teach them (Tschannen et al. 2025, section 2).

The decoder is the towers' fourth companion in `model.save_to_preset`'s folder; heads and mask token are of no use afterwards.
"""

import keras

from diptych.models.captioner.config import CaptionerConfig
from diptych.models.captioner.model import Captioner
from diptych.models.parts.distillation_head import DistillationHead
from diptych.models.parts.initializers import Normal
from diptych.models.siglip.config import NaFlexVisionConfig, SigLIPConfig
from diptych.models.siglip.naflex import patch_places
from diptych.models.two_towers import SigLIP, siglip_image_tower


@keras.saving.register_keras_serializable("diptych")
class MaskToken(keras.layers.Layer):
    """One learned vector that stands for a hidden patch, drawn from N(0, 0.02²)."""

    def __init__(self, *, width: int, seed: str = "0/mask_token", **kwargs):
        super().__init__(**kwargs)
        self.width, self.seed = width, seed
        self.build()

    def build(self, *_):
        self.token = self.add_weight(
            name="token", shape=(self.width,), initializer=Normal(stddev=0.02, seed=f"{self.seed}/token")
        )
        self.built = True

    def get_config(self):
        return {**super().get_config(), "width": self.width, "seed": self.seed}


class Student(keras.Model):
    """SigLIP's towers with the parts that a stage's losses need.

    Args:
        config: the towers.
        captioner: the decoder's configuration, None for no captioning.
        head: arguments of `DistillationHead` (hidden, bottleneck, outputs) where views or patches are matched with a teacher's;
            None for no self-supervision. Image and patches have a head each.
        seed, dtype, rematerialize: as for `SigLIP`; one seed gives the same weights on every backend, and the towers' are those of
            `SigLIP(config, seed=seed)`.

    Called on a batch's images and texts it is the towers; objectives use the parts.
    """

    def __init__(
        self,
        config: SigLIPConfig,
        *,
        captioner: CaptionerConfig | None = None,
        head: dict | None = None,
        seed: int = 0,
        dtype: str | None = None,
        rematerialize: bool = False,
        name: str = "student",
    ):
        super().__init__(name=name)
        self.config, self.seed, self.head = config, seed, head
        self.towers = SigLIP(config, seed=seed, dtype=dtype, rematerialize=rematerialize)
        self.captioner = None
        if captioner is not None:
            self.captioner = Captioner(captioner, seed=seed, dtype=dtype, rematerialize=rematerialize)
        self.global_head = self.patch_head = self.mask_token = None
        if head is not None:
            if isinstance(config.vision, NaFlexVisionConfig):
                raise ValueError(
                    "Self-distillation and masked prediction need square pictures, and this image tower is NaFlex (SigLIP 2, "
                    "section 2.4.2, trains it without them). Leave the heads out."
                )
            self.global_head, self.patch_head = self._heads()
            self.mask_token = MaskToken(width=config.vision.width, seed=f"{seed}/mask_token", name="mask_token")
        self.built = True

    @property
    def logit_scale(self):
        """t = exp(t'), a scalar tensor."""
        return self.towers.logit_scale

    @property
    def logit_bias(self):
        """b, a scalar tensor, or None."""
        return self.towers.logit_bias

    def call(self, inputs, training=False):
        return self.towers(inputs, training=training)

    def image_features(self, inputs: dict) -> dict:
        """The image tower's {"pooled", "tokens"} for its inputs by name, and "mask", bool `[batch, tokens]`: None for no padding."""
        tower = self.towers.image_encoder
        if "spatial_shapes" in inputs:
            mask = patch_places(inputs["spatial_shapes"], inputs["patches"].shape[1])[2]
            return {**tower(inputs), "mask": mask}
        return {**tower(inputs["images"]), "mask": None}

    def teacher_parts(self) -> dict:
        """Fresh parts like those of this student that a teacher copies: the image tower with its MAP head, and both heads."""
        tower = siglip_image_tower(
            self.config.vision, seed=self.seed, dtype=self.towers.image_encoder.get_config()["dtype"], name="image"
        )
        global_head, patch_head = self._heads()
        return {"image": tower, "global_head": global_head, "patch_head": patch_head}

    def student_parts(self) -> dict:
        """The parts that a teacher follows."""
        return {"image": self.towers.image_encoder, "global_head": self.global_head, "patch_head": self.patch_head}

    def _heads(self):
        width = {"global_head": self.config.vision.output_width, "patch_head": self.config.vision.width}
        heads = []
        for name, size in width.items():
            head = DistillationHead(**self.head, seed=f"{self.seed}/{name}", name=name, dtype="float32")
            head.build((None, size))
            heads.append(head)
        return heads
