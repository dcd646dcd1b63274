"""The base of every diptych model: a functional Keras model that is saved as the arguments it was built from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import keras

from diptych.models.checked import CheckedModel
from diptych.models.checkpoints import load_image_tower, refuse_changed, towers_of


def policy_of(dtype: str | None):
    """The Keras dtype policy of a name; None for the one that is set for all of Keras."""
    return keras.dtype_policies.get(dtype or keras.config.dtype_policy())


class _Presets:
    """The named configurations of a class's models, looked up when they are asked for."""

    def __get__(self, model: Any, owner: type) -> dict[str, Any]:
        from diptych.models.presets import ALL_PRESETS

        return {name: config for name, config in ALL_PRESETS.items() if config.describes == owner.__name__}


class Tower(CheckedModel):
    """A functional Keras model whose `get_config` holds constructor arguments instead of a layer graph.

    So a `.keras` file stays readable, and loading it runs the constructor: the graph cannot drift from the code.

    Attributes:
        presets: name -> configuration of the class's known sizes; `from_preset(name, load_weights=False)` makes one
            with fresh weights, and `diptych models` says which checkpoint on the hub has trained ones.
        adapters: what `enable_lora` adds, until `merge_lora`.
    """

    presets = _Presets()

    def remember(self, **arguments) -> None:
        """Records the constructor's arguments (JSON types) for `get_config`; to be called after `super().__init__`."""
        self._arguments = arguments

    def get_config(self):
        return {**self._arguments, "name": self.name, "frozen": self.frozen()}

    def save(self, filepath, *args, **kwargs):
        """As in Keras; raises ValueError for a model with adapters or with weights in int8."""
        refuse_changed(self)
        return super().save(filepath, *args, **kwargs)

    def enable_lora(self, rank: int, *, alpha: float | None = None, targets: Sequence[str] = (".*",)) -> None:
        """Holds the towers still and gives kernels of their blocks trained low-rank updates (Hu et al. 2022, "LoRA").

        What is no tower's, such as a classifier's head or the scale and bias of a pair's logits, goes on moving.
        Compile the model after this. `merge_lora` makes a model as any other of it, to be saved or exported.

        Args:
            rank: r of the paper.
            alpha: its α, by default 2 r; the update is α / r of the product.
            targets: patterns of the kernels' paths, such as ".*/attention/.*"; by default all of the blocks'.

        Raises:
            ValueError: for a pattern that matches no kernel, for a model that has adapters already, and for a model
                without blocks that could have some, such as BiT's networks.
        """
        from diptych.models.siglip.parts import AdaptersPart

        if hasattr(self, "adapters"):
            raise ValueError("The model has adapters already: merge_lora() ends them, and then others can begin.")
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}.")
        part = AdaptersPart(rank=rank, alpha=2.0 * rank if alpha is None else alpha, targets=tuple(targets))
        config, dtype = self.config, self.dtype_policy.name
        if not part.shapes(config):
            raise ValueError(f"{type(self).__name__} has no kernels in blocks that could be adapted.")
        adapters = part.build(config, name="adapters", seed=0, dtype=dtype, rematerialize=False)
        adapters.attach(self.weights)
        held = [w for w in self.trainable_variables if w.path.partition("/")[0] in towers_of(config)]
        for weight in held:
            weight.trainable = False
        self.adapters, self._held_by_lora = adapters, frozenset(weight.path for weight in held)

    def merge_lora(self) -> None:
        """Adds the adapters to their kernels, which compute the same without them; what was held still moves again.

        Raises:
            ValueError: for a model that has none.
        """
        if not hasattr(self, "adapters"):
            raise ValueError("The model has no adapters: enable_lora(rank) makes some.")
        adapters = self.adapters
        del self.adapters
        self._tracker.untrack(adapters)
        adapters.detach(self.weights)
        adapters.merge_into(self.weights)
        for weight in self.weights:
            if weight.path in self._held_by_lora:
                weight.trainable = True

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
