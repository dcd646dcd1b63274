"""The mask token of masked prediction."""

import keras

from diptych.models.parts.initializers import Normal


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
