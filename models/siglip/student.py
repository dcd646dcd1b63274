"""Students: a model, and the parts that only teach it (Tschannen et al. 2025, section 2).

The decoder and low-rank adapters are saved next to the model; the other parts are discarded after training.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from diptych.core.data.pixels import Normalization
from diptych.models.checkpoints import Config
from diptych.models.language_model import Predicting
from diptych.models.pretrained import build_model
from diptych.models.siglip.model import image_tower
from diptych.models.siglip.parts import Part


class Student(keras.Model):
    """Two towers, a classifier or a language model, with the parts that a stage's losses need, such as "captioner" or
    "global_head".

    Args:
        config: of the two towers, or of the classifier or language model, which then is what `towers` holds.
        parts: descriptions by name; see `diptych.models.siglip.parts`. A part's name is the beginning of its weights'
            paths.
        normalization: what the image tower wants of a batch's bytes.
        pictures: how many an example of a PaliGemma has.
        seed, dtype, rematerialize: as for `SigLIP`; one seed gives the same weights on every backend, and the towers'
            are those of `build_model(config, seed=seed)`.

    Called on a batch's images and texts it is its model; the terms of an objective use the parts.

    Attributes:
        held: paths of the weights that a stage holds still, without moving statistics.
    """

    def __init__(
        self,
        config: Config,
        *,
        parts: Mapping[str, Part] | None = None,
        normalization: Normalization | None = None,
        pictures: int = 1,
        seed: int = 0,
        dtype: str | None = None,
        rematerialize: bool = False,
        name: str = "student",
    ):
        super().__init__(name=name)
        self.config: Any = config
        self._described = dict(parts or {})
        self.normalization = normalization or Normalization()
        self._options: dict[str, Any] = {"seed": seed, "dtype": dtype, "rematerialize": rematerialize}
        self.held: tuple[str, ...] = ()
        several = {} if pictures == 1 else {"pictures": pictures}
        self.towers: Any = build_model(config, **self._options, **several)
        self.parts = {part: self._build(part) for part in self._described}
        if self.adapters is not None:
            self.adapters.attach(self.towers.weights)
        self.built = True

    @property
    def captioner(self):
        """The decoder, None where there is none."""
        return self.parts.get("captioner")

    @property
    def adapters(self):
        """The low-rank adapters of the towers, None where there are none."""
        return self.parts.get("adapters")

    @property
    def logit_scale(self):
        """t = exp(t'), a scalar tensor."""
        return self.towers.logit_scale

    @property
    def logit_bias(self):
        """b, a scalar tensor, or None."""
        return self.towers.logit_bias

    @property
    def pair_logits(self):
        """The layer that normalises what both towers give."""
        return self.towers.pair_logits

    @property
    def head(self):
        """The layer that tells a classifier's classes apart, or answers a task on texts."""
        return self.towers.head

    def call(self, inputs, training=False):
        return self.towers(inputs, training=training)

    def image_features(self, inputs: Mapping, *, training: bool = False) -> dict:
        """As `SigLIP.image_features`."""
        return self.towers.image_features(inputs, training=training)

    def text_features(self, token_ids, *, training: bool = False) -> dict:
        """As `SigLIP.text_features`."""
        return self.towers.text_features(token_ids, training=training)

    def predicting(self, texts: Mapping) -> Predicting:
        """As a language model's (`diptych.models.language_model.TextPredictor`)."""
        return self.towers.predicting(texts)

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Within the block the towers' kernels hold what their adapters add; afterwards they are as they were."""
        if self.adapters is None:
            yield
            return
        with self.adapters.merged_into(self.towers.weights):
            yield

    def followed(self, parts: Sequence[str]) -> dict:
        """What a teacher follows: the image tower with its MAP head, and the named parts."""
        return {"image": self.towers.image_encoder, **{name: self.parts[name] for name in parts}}

    def copies(self, parts: Sequence[str]) -> dict:
        """Fresh ones like `followed`'s, that are no part of this model."""
        policy = self.towers.image_encoder.get_config()["dtype"]
        tower = image_tower(self.config.vision, seed=self._options["seed"], dtype=policy, name="image")
        return {"image": tower, **{name: self._build(name) for name in parts}}

    def _build(self, part: str):
        return self._described[part].build(self.config, name=part, **self._options)
