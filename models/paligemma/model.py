"""PaliGemma 1 and 2: an image tower of SigLIP whose tokens, projected, stand in front of Gemma's.

Beyer et al. 2024; Steiner et al. 2024; big_vision `models/proj/paligemma/paligemma.py`.

Notable features: the tower's tokens behind its last norm, not pooled; a linear projector that starts at zero; pictures
and prompt see each other both ways, the answer sees them and what it has said (a prefix language model). Projected
tokens are not multiplied by the root of the width, as the tokens of texts are.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Self

import keras
import numpy as np
from keras import ops

from diptych.core.losses.products import Product, float32_product
from diptych.models.cached_decoder import Prefilled
from diptych.models.gemma.decoder import GemmaDecoder
from diptych.models.gemma.model import Gemma, decoder_losses
from diptych.models.generation import continue_prompts
from diptych.models.language_model import Predicting, TextPredictor
from diptych.models.paligemma.config import PaliGemmaConfig
from diptych.models.parts.initializers import generator
from diptych.models.siglip.config import NaFlexVisionConfig, VisionConfig
from diptych.models.siglip.model import image_tower
from diptych.models.siglip.naflex import PatchMask
from diptych.models.tower import ImageTower, policy_of
from diptych.models.two_towers import TwoTowers, as_called, fresh_inputs

TOKEN_TABLE = "decoder/token_embedding/embedding"
NEW_ROWS_STDDEV = 0.02


@keras.saving.register_keras_serializable("diptych")
class PaliGemma(TextPredictor):
    """{"images", "token_ids", "token_mask", "suffix_mask"} -> {"tokens": features `[batch, length, width]`} of the
    text's places; no logits, see `logits`.

    >>> model = PaliGemma.from_preset("hf://google/paligemma2-3b-pt-224")  # or a folder; or a size, load_weights=False
    >>> losses = model.token_losses(batch)
    >>> model.generate(batch["images"], prompt_ids, prompt_mask, steps=20)

    Args:
        config: a `PaliGemmaConfig` (or the dictionary of its fields).
        pictures: how many an example has.
        seed: of the initial weights; the same on every backend.
        dtype: as for `Gemma`.
        rematerialize: trade one more forward pass for the memory of the blocks' activations.

    Inputs, all of them needed:
        images: `[batch, image_size, image_size, 3]` in [-1, 1], with several pictures an example `[batch, pictures,
            ...]`; with a NaFlex tower patches and spatial_shapes instead, and one picture.
        token_ids: int32 `[batch, length]`, of the text alone: `<bos>`, prompt, newline, answer, `<eos>`; no
            placeholders for pictures.
        token_mask: bool `[batch, length]`, False for padding, wherever it stands.
        suffix_mask: bool `[batch, length]`, True for the answer and its end. Where it is left out and guessed, as some
            versions of transformers do, a model computes something else than it was trained to.

    Reads and writes folders of transformers (model_type paligemma) and of diptych, and big_vision's .npz files
    ("transformers", "diptych", "big_vision"); reads keras-hub's presets. Sizes are those of
    `diptych.models.paligemma.presets.PRESETS`.
    """

    config_class = PaliGemmaConfig

    def __init__(
        self,
        config: PaliGemmaConfig | Mapping,
        *,
        pictures: int = 1,
        seed: int = 0,
        dtype: str | None = None,
        rematerialize: bool = False,
        name: str = "paligemma",
    ):
        config = config if isinstance(config, PaliGemmaConfig) else PaliGemmaConfig(**config)
        policy = policy_of(dtype)
        shared = {"seed": seed, "dtype": policy.name, "rematerialize": rematerialize}
        tower = image_tower(config.vision, name="image", **shared)
        projector = keras.layers.Dense(config.text.width, kernel_initializer="zeros", dtype=policy, name="projector")
        decoder = GemmaDecoder(
            config.text, rematerialize=rematerialize, seed=f"{seed}/{name}/decoder", dtype=policy, name="decoder"
        )
        seen, of_tower = _pictures(tower, config.vision, pictures)
        soft_mask = None
        if isinstance(config.vision, NaFlexVisionConfig):
            soft_mask = PatchMask(name="patch_mask")(of_tower["patches"], of_tower["spatial_shapes"])
        text = {
            "token_ids": keras.Input((None,), dtype="int32", name="token_ids"),
            "token_mask": keras.Input((None,), dtype="bool", name="token_mask"),
            "suffix_mask": keras.Input((None,), dtype="bool", name="suffix_mask"),
        }
        soft = projector(tower(as_called(of_tower))["tokens"])
        features = decoder(**text, soft_tokens=soft, **({} if soft_mask is None else {"soft_mask": soft_mask}))
        super().__init__(inputs=seen | text, outputs={"tokens": features}, name=name)
        self.config, self.image_encoder, self.projector, self.decoder = config, tower, projector, decoder
        self.pictures = pictures
        self.remember(config=asdict(config), pictures=pictures, **shared)

    @property
    def context_length(self) -> int:
        """The longest text in training, pictures included."""
        return self.config.text.context_length

    def soft_tokens(self, pictures):
        """Pictures as the decoder reads them: -> embeddings `[batch · pictures, tokens, width]`, and which of them
        exist, bool `[batch · pictures, tokens]`; None for all.

        Args:
            pictures: the model's images, or its patches and spatial_shapes by name.
        """
        given = pictures if isinstance(pictures, Mapping) else {"images": pictures}
        flat = {}
        for x in self.image_encoder.inputs:
            value = ops.convert_to_tensor(given[x.name], x.dtype)
            flat[x.name] = ops.reshape(value, (-1, *ops.shape(value)[-(len(x.shape) - 1) :]))
        mask = None
        if "patches" in flat:
            mask = self.get_layer("patch_mask")(flat["patches"], flat["spatial_shapes"])
        return self.projector(self.image_encoder(as_called(flat))["tokens"]), mask

    def logits(self, tokens):
        """Features `[..., width]` -> float32 logits `[..., predicted ids]` of the token behind each; see `Gemma`."""
        return self.decoder.logits(tokens)

    def token_losses(self, inputs: Mapping, *, tokens_per_chunk: int = 1024, product: Product = float32_product):
        """-log p of each token of a text but the first, float32 `[batch, length - 1]`.

        Those that count are the answer's, inputs["suffix_mask"][:, 1:]: `captioning_loss` takes their mean for each
        example, as big_vision trains; transformers takes that of the batch.

        Args:
            inputs: the model's.
            tokens_per_chunk, product: of `next_token_losses`.
        """
        ids = ops.convert_to_tensor(inputs["token_ids"], "int32")
        return decoder_losses(self.decoder, self(inputs)["tokens"], ids, tokens_per_chunk, product)

    def predicting(self, texts):
        features = self({x.name: texts[x.name] for x in self.inputs})["tokens"]
        return Predicting(features, self.decoder.logits_kernel, self.decoder.config.logits_soft_cap)

    def answer_log_probabilities(self, inputs: Mapping, **chosen):
        """log p of each example's answer and its end given pictures and prompt, float32 `[batch]`: the sum over its
        tokens. To choose among answers that are given, ask of each, and compare; of answers of unequal length their
        means may be compared, over `inputs["suffix_mask"].sum(axis=1)`.

        Args:
            inputs: the model's.
            chosen: of `token_losses`.
        """
        return -ops.sum(self.token_losses(inputs, **chosen) * ops.cast(inputs["suffix_mask"][:, 1:], "float32"), axis=1)

    def generate(self, pictures, prompt_ids, prompt_mask=None, *, steps: int, **choices):
        """The answers, int32 `[batch, steps]`, with 0 behind the end.

        Args:
            pictures: of `soft_tokens`.
            prompt_ids: int32 `[batch, length]`: `<bos>`, prompt and newline, padded in front or behind.
            prompt_mask: bool `[batch, length]`, False for padding; None for none.
            steps, choices: of `continue_prompts`.
        """
        prompt_ids = ops.convert_to_tensor(prompt_ids, "int32")
        nothing = ops.zeros((ops.shape(prompt_ids)[0], 0), "int32")
        soft, mask = self.soft_tokens(pictures)
        # Of one example: a batch's size may not be known.
        soft = ops.reshape(soft, (-1, self.pictures * soft.shape[1], soft.shape[2]))
        prompts = {"prompt_ids": prompt_ids, "prompt_mask": prompt_mask}
        seen = Prefilled(self.decoder, soft_tokens=soft, soft_mask=mask, causal=False, **prompts)
        return continue_prompts(seen, nothing, steps=steps, **choices)

    @classmethod
    def of(cls, tower: ImageTower | TwoTowers, text: Gemma, *, vocab_size: int | None = None, **arguments) -> Self:
        """A PaliGemma that begins from an image tower and a language model, with a projector at zero.

        Args:
            tower: SigLIP's or SigLIP 2's, of any size, or two towers, of which the one for images is taken. What it
                pools with is left out.
            vocab_size: of a table with more rows than the language model's; the new ones are drawn from N(0, 0.02²),
                which did better than their mean (Beyer et al. 2024). None for as many.
            arguments: of the constructor.

        Raises:
            ValueError: for a tower of another family, and a table with fewer rows.
        """
        tower = tower.image_encoder if isinstance(tower, TwoTowers) else tower
        kind = getattr(tower, "config_class", None)
        if kind not in (VisionConfig, NaFlexVisionConfig) or tower.name != "image":
            raise ValueError(
                f"tower must be an image tower of SigLIP or SigLIP 2, or such a model itself, with the name image; got "
                f"{type(tower).__name__} {getattr(tower, 'name', '')!r}."
            )
        rows = vocab_size or text.config.vocab_size
        if rows < text.config.vocab_size:
            raise ValueError(f"vocab_size must be at least the table's {text.config.vocab_size}, got {rows}.")
        vision = replace(kind(**tower.get_config()["config"]), pooling="gap", embed_dim=None)
        model = cls(PaliGemmaConfig(vision=vision, text=replace(text.config, vocab_size=rows)), **arguments)
        values = {variable.path: variable for variable in (*tower.weights, *text.weights)}
        for variable in model.weights:
            if (old := values.get(variable.path)) is not None:
                value = np.array(ops.convert_to_numpy(old.value))
                if variable.path == TOKEN_TABLE:
                    value = with_new_rows(value, rows, arguments.get("seed", 0))
                variable.assign(value)
        return model


def with_new_rows(table: np.ndarray, rows: int, seed: int) -> np.ndarray:
    """A token table `[tokens, width]` with as many rows as are wanted, the new ones drawn from N(0, 0.02²), which did
    better than the mean of the others (Beyer et al. 2024).
    """
    if len(table) >= rows:
        return table
    drawn = generator(f"{seed}/new_tokens").standard_normal((rows, table.shape[1]))
    return np.concatenate([table, NEW_ROWS_STDDEV * drawn[len(table) :].astype(table.dtype)])


def _pictures(tower: ImageTower, vision: VisionConfig | NaFlexVisionConfig, pictures: int) -> tuple[dict, dict]:
    """The model's inputs for pictures, and the image tower's made of them, by name."""
    inputs = fresh_inputs(tower)
    if pictures < 1 or (pictures > 1 and isinstance(vision, NaFlexVisionConfig)):
        raise ValueError(f"pictures must be 1 or, with square images, more; got {pictures}.")
    if pictures == 1:
        return inputs, inputs
    several = {x.name: keras.Input((pictures, *x.shape[1:]), dtype=x.dtype, name=x.name) for x in inputs.values()}
    return several, {name: ops.reshape(x, (-1, *x.shape[2:])) for name, x in several.items()}
