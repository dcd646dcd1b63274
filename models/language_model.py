"""The base of models that predict texts token by token: read from checkpoints, going on with what is given."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import keras
from keras import ops

from diptych.models.cached_decoder import CachedDecoder, Prefilled
from diptych.models.checkpoints import load_model, save_model
from diptych.models.decoding import Begun, check_places, in_precision
from diptych.models.generation import continue_prompts
from diptych.models.parts.places import Places
from diptych.models.tower import Tower, policy_of


class Predicting(NamedTuple):
    """What predicts the tokens of texts: logits are features · kernel, capped.

    Attributes:
        features: `[texts, length, width]`, of which place j has seen the tokens 0 to j.
        kernel: float32 `[width, vocabulary]`.
        cap: of the logits (`diptych.core.losses.products.soft_capped`); None for none.
    """

    features: Any
    kernel: Any
    cap: float | None = None


class TextPredictor(Tower):
    """A model that is read from a checkpoint whole, and written back.

    Attributes:
        config_class: of the configuration that the constructor takes.
    """

    config_class: ClassVar[type]

    def predicting(self, texts: Mapping[str, Any]) -> Predicting:
        """What predicts the tokens of texts in training.

        Args:
            texts: by name, each with an axis of texts in front: "token_ids" int32 `[texts, length]`, and what else the
                model takes: "dropout_seeds" int32 `[texts]`, without which nothing is left out, "token_mask" bool
                `[texts, length]`, or pictures.
        """
        raise NotImplementedError

    @classmethod
    def from_preset(
        cls, preset: str | Path, *, revision: str | None = None, load_weights: bool = True, **arguments
    ) -> Self:
        """A model with the weights of a checkpoint, or with fresh ones in its shapes.

        Args:
            preset: a folder, or "hf://owner/name", in a layout that the class reads; or, without `load_weights`, the
                name of a size.
            revision: of the repository on the hub: a branch, tag or commit.
            load_weights: False for fresh weights.
            arguments: of the constructor.

        Raises:
            FileNotFoundError, ValueError: naming what is missing or does not fit, and what would.
        """
        return load_model(preset, cls, cls.config_class, revision=revision, load_weights=load_weights, **arguments)

    def save_to_preset(self, folder: str | Path, *, format: str = "transformers", dtype: str | None = None) -> None:
        """Writes configuration and weights in a layout that others read, bit for bit.

        Args:
            folder: made if need be.
            format: "diptych", or a layout that the class reads.
            dtype: of the stored weights, such as "bfloat16", to which values that came from there go back unchanged;
                None for the model's own.

        Raises:
            ValueError: for a model that the layout cannot express.
        """
        save_model(self, Path(folder), format=format, dtype=dtype)


class LanguageModel(TextPredictor):
    """A model of text alone: a decoder over token ids.

    It is a decoder as `diptych.models.decoding.Decoder` asks for, and goes on with texts of at least one token.

    Attributes:
        decoder_class: the layer that takes the configuration.
        default_name: of a model that is given none.
    """

    decoder_class: ClassVar[type[CachedDecoder]]
    default_name: ClassVar[str]
    start_id = None

    def __init__(
        self,
        config,
        *,
        seed: int = 0,
        dtype: str | None = None,
        rematerialize: bool = False,
        name: str | None = None,
    ):
        config = self.config_class(**config) if isinstance(config, Mapping) else config
        name, policy = name or self.default_name, policy_of(dtype)
        ids = keras.Input((None,), dtype="int32", name="token_ids")
        decoder = self.decoder_class(
            config, rematerialize=rematerialize, seed=f"{seed}/{name}/decoder", dtype=policy, name="decoder"
        )
        super().__init__(inputs=ids, outputs={"tokens": decoder(ids)}, name=name)
        self.config, self.decoder = config, decoder
        self.remember(config=asdict(config), seed=seed, dtype=policy.name, rematerialize=rematerialize)

    @property
    def context_length(self) -> int:
        """The longest text."""
        return self.config.context_length

    def begin(self, batch, length: int) -> Begun:
        """See `diptych.models.decoding.Decoder`: texts that begin with the first token that is asked about."""
        decoder = self.decoder
        numbers = ops.broadcast_to(ops.arange(length, dtype="int32")[None], (batch, length))
        keys = Places(positions=numbers, ranks=numbers, count=ops.ones((batch, length), "bool"))

        def next_logits(tokens, place, caches):
            query = keys.at(place)
            x = decoder.embedded(tokens[:, None], query.positions)
            features, caches = decoder.through(x, query, keys, caches, place)
            return decoder.logits(features[:, 0]), caches

        return Begun(in_precision(next_logits, decoder), decoder.empty_caches(batch, length))

    def generate(self, prompt_ids, *, steps: int, prompt_lengths=None, **choices):
        """The next tokens of each text, int32 `[batch, steps]`. Prompts go through the blocks at once.

        Args:
            prompt_ids, steps, prompt_lengths, choices: of `continue_prompts`; prompts have at least one token.
        """
        prompt_ids = ops.convert_to_tensor(prompt_ids, "int32")
        batch, length = ops.shape(prompt_ids)
        check_places(self, length, steps)
        mask = None
        if prompt_lengths is not None:
            mask = ops.arange(length, dtype="int32")[None] < ops.cast(prompt_lengths, "int32")[:, None]
        prefilled = Prefilled(self.decoder, prompt_ids=prompt_ids, prompt_mask=mask, causal=True)
        return continue_prompts(prefilled, ops.zeros((batch, 0), "int32"), steps=steps, **choices)
