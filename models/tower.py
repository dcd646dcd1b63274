"""The base of every diptych model: a functional Keras model that is saved as the arguments it was built from."""

from pathlib import Path
from typing import ClassVar, Self

import keras

from diptych.models.checked import CheckedModel
from diptych.models.checkpoints import load_image_tower


def policy_of(dtype: str | None):
    """The Keras dtype policy of a name; None for the one that is set for all of Keras."""
    return keras.dtype_policies.get(dtype or keras.config.dtype_policy())


class Tower(CheckedModel):
    """A functional Keras model whose `get_config` holds constructor arguments instead of a layer graph.

    So a `.keras` file stays readable, and loading it runs the constructor: the graph cannot drift from the code.
    """

    def remember(self, **arguments) -> None:
        """Records the constructor's arguments (JSON types) for `get_config`; to be called after `super().__init__`."""
        self._arguments = arguments

    def get_config(self):
        return {**self._arguments, "name": self.name, "frozen": self.frozen()}

    def frozen(self) -> list[str]:
        """The paths of the weights that are not trained."""
        return [weight.path for weight in self.weights if not weight.trainable]

    @classmethod
    def from_config(cls, config, custom_objects=None):
        arguments = keras.saving.deserialize_keras_object(config, custom_objects=custom_objects)
        frozen = set(arguments.pop("frozen", ()))
        model = cls(**arguments)
        for weight in model.weights:
            if weight.path in frozen:
                weight.trainable = False
        return model


class ImageTower(Tower):
    """A tower for images, which can be read alone from a checkpoint.

    Attributes:
        config_class: of the configuration that the constructor takes.
    """

    config_class: ClassVar[type]

    @classmethod
    def from_preset(cls, preset: str | Path, *, revision: str | None = None, **arguments) -> Self:
        """The image tower of a checkpoint with its weights; the text tower's are not read.

        Args:
            preset, revision: as for `SigLIP.from_preset`; or a checkpoint of an image tower alone, by transformers
                (SiglipVisionModel, Siglip2VisionModel, CLIPVisionModelWithProjection) or timm.
            arguments: of the constructor: dtype, rematerialize, name.
        """
        return load_image_tower(preset, cls, cls.config_class, revision=revision, **arguments)
