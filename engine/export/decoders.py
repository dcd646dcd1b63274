"""The graphs of a model that writes: pictures to tokens of the decoder, and the decoder with its cache in and out.

The decoder is one graph for prompts and for each token behind them: it puts more places behind those of a cache, which
may be empty, and gives the logits of what follows the last of them, and the cache with the new ones.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
from keras import ops

from diptych import __version__
from diptych.core.data.pixels import FixedSize
from diptych.core.data.processor.files import own_settings
from diptych.core.data.processor.prompted import PaliGemmaProcessor
from diptych.core.data.tokenizers.vocabularies import SETTINGS_FILES, VOCABULARY_FILES
from diptych.core.weights.hub import preset_folder
from diptych.engine.export.towers import BATCH, TowerCard, TowerInput, image_input
from diptych.models import GPT, Gemma, PaliGemma
from diptych.models.cached_decoder import CachedDecoder
from diptych.models.checkpoints import read_checkpoint
from diptych.models.decoding import in_precision
from diptych.models.gpt.config import GPTConfig
from diptych.models.paligemma.config import PaliGemmaConfig
from diptych.models.parts.places import Places
from diptych.models.pretrained import trained_preset

Writer = PaliGemma | Gemma | GPT
"""A model that can be exported with its cache."""

PAST, PICTURE, TOKENS = "past", "picture", "tokens"
"""Dimensions that may have any size, none included but for the tokens; joined by "_" they are the sum of the joined."""

PLACES = (
    "A place is a picture's token or a text's. A call gives places that stand behind those of the cache: all of "
    "soft_tokens, then all of token_ids. token_mask and suffix_mask speak of all places, those of the cache first, and "
    "say of these what they said when they were given."
)
POSITIONS = "Positions are counted inside: of a place, how many places before it have token_mask true."
SEES = {
    "prefix": (
        "A place sees those with token_mask true whose number of places with suffix_mask true up to there is not above "
        "its own: pictures and prompt (suffix_mask false) all see each other, an answer's token (true) sees the prefix "
        "and what came before. So pictures and prompt must come in one call, with an empty cache."
    ),
    "text": "A place sees itself and those before it with token_mask true.",
}
PADDING = "Padding (token_mask false) stands in front of the prompt, so that the last token of each text is in the end."


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A function that is exported, as its writer asks for it.

    Attributes:
        name: of the file.
        inputs: with name, dtype and shape, in the order in which the graph takes them.
        shapes: of these: sizes, and the names of dimensions that may have any size.
        outputs: names of what it gives.
        function: inputs by name -> outputs by name.
        card: what a caller must know.
    """

    name: str
    inputs: list[keras.KerasTensor]
    shapes: dict[str, tuple[int | str, ...]]
    outputs: list[str]
    function: Any
    card: TowerCard

    @property
    def model(self) -> Any:
        """What is written."""
        return self

    @property
    def output(self) -> dict[str, None]:
        """The names of the outputs, where a Keras model has its outputs by name."""
        return dict.fromkeys(self.outputs)

    def __call__(self, inputs: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
        return self.function(inputs)

    def count_params(self) -> int:
        return int(self.card["parameters"])


TOKENIZER_FILES = (
    *VOCABULARY_FILES,
    *SETTINGS_FILES,
    "merges.txt",
    "added_tokens.json",
    "encoder_bpe_40000.json",
    "vocab_40000.bpe",
)
"""What is laid beside the graphs of a model of texts, where it has it."""


def open_writer(name: str) -> tuple[Writer, PaliGemmaProcessor | None, Callable[[Path], None]]:
    """The model of a checkpoint in float32, the processor of a PaliGemma, and what writes the tokenizer into a folder.

    Args:
        name: of `diptych.models.pretrained.trained_preset`.
    """
    preset = trained_preset(name)
    config = read_checkpoint(preset_folder(preset)).config
    if isinstance(config, PaliGemmaConfig):
        processor = PaliGemmaProcessor.from_preset(preset)
        return PaliGemma.from_preset(preset, dtype="float32"), processor, processor.save_to_preset
    model = (GPT if isinstance(config, GPTConfig) else Gemma).from_preset(preset, dtype="float32")

    def copy_tokenizer(output: Path) -> None:
        folder = preset_folder(preset)
        folder = folder if folder.is_dir() else folder.parent
        for file in TOKENIZER_FILES:
            if (folder / file).is_file():
                shutil.copyfile(folder / file, output / file)

    return model, None, copy_tokenizer


def graphs_of(model: Writer, processor: PaliGemmaProcessor | None, *, name: str) -> list[Graph]:
    """The graphs of a model: "decoder", and where it looks at pictures "image" before it.

    Args:
        processor: of a PaliGemma; None for a model of texts.
        name: of the model, for the cards.

    Raises:
        ValueError: for a PaliGemma whose pictures have sizes of their own, whose padding the decoder would have to see.
    """
    shared = {
        "model": name if "://" in name else Path(name).name,
        "family": type(model).__name__,
        "diptych_version": __version__,
    }
    if not isinstance(model, PaliGemma):
        return [_decoder(model.decoder, shared, pictures=False)]
    if processor is None or not isinstance(processor.pixels, FixedSize):
        raise ValueError(
            "This PaliGemma takes patches of pictures of any aspect, expected square pictures: --format onnx writes no "
            "decoder for it. Ask it by recipes.ask."
        )
    return [_image(model, processor, processor.pixels, shared), _decoder(model.decoder, shared, pictures=True)]


def _image(model: PaliGemma, processor: PaliGemmaProcessor, pixels: FixedSize, shared: TowerCard) -> Graph:
    described = {"images": image_input(pixels)}
    tokens = model.config.vision.num_patches
    output = {"dtype": "float32", "shape": [BATCH, tokens, model.config.text.width]}
    tokenizer = processor.tokenizer
    settings = own_settings(pixels, tokenizer, model.context_length, clean=False)
    prepared, ends = settings["image"], settings["text"]
    prepared |= prepared.pop("normalization")
    return Graph(
        name="image",
        inputs=_tensors(described),
        shapes=_shapes(described),
        outputs=["soft_tokens"],
        function=lambda inputs: {"soft_tokens": model.soft_tokens(inputs)[0]},
        card={
            **shared,
            "inputs": described,
            "outputs": {"soft_tokens": output},
            "pictures": model.pictures,
            "parameters": model.image_encoder.count_params() + model.projector.count_params(),
            **prepared,
            **{key: ends[key] for key in ("tokenizer", "bos_id", "eos_id", "pad_id")},
            "prompt": "bos_id, the prompt's tokens, and the newline cut into tokens by itself",
        },
    )


def _decoder(decoder: CachedDecoder, shared: TowerCard, *, pictures: bool) -> Graph:
    config, caches = decoder.config, decoder.empty_caches(1, 1)
    places = "_".join((PAST, PICTURE, TOKENS) if pictures else (PAST, TOKENS))
    described: dict[str, TowerInput] = {
        "token_ids": _input("int32", [BATCH, TOKENS], ["batch", "token"], [0, config.vocab_size - 1]),
        "token_mask": _input("bool", [BATCH, places], ["batch", "place, False for padding"], [0, 1]),
    }
    if pictures:
        described["suffix_mask"] = _input(
            "bool", [BATCH, places], ["batch", "place, False for pictures and prompt"], [0, 1]
        )
        described["soft_tokens"] = _input("float32", [BATCH, PICTURE, config.width], ["batch", "token", "feature"], [])
    outputs = {"logits": {"dtype": "float32", "shape": [BATCH, _predicted(decoder)]}}
    for layer, cache in enumerate(caches):
        for kind, x in zip(("keys", "values"), cache, strict=True):
            shape = [BATCH, PAST, *x.shape[2:]]
            axes = ["batch", "place", "head", "feature"]
            described[f"past_{kind}_{layer:02d}"] = _input("float32", shape, axes, [])
            outputs[f"present_{kind}_{layer:02d}"] = {"dtype": "float32", "shape": [BATCH, places, *x.shape[2:]]}
    return Graph(
        name="decoder",
        inputs=_tensors(described),
        shapes=_shapes(described),
        outputs=list(outputs),
        function=in_precision(_Extension(decoder, list(outputs)), decoder),
        card={
            **shared,
            "inputs": described,
            "outputs": outputs,
            "layers": len(caches),
            "context_length": config.context_length,
            "parameters": decoder.count_params(),
            "configuration": asdict(config),
            "rules": [PLACES, POSITIONS, SEES["prefix" if pictures else "text"], PADDING],
        },
    )


class _Extension:
    """Inputs of the decoder's graph by name -> its outputs by name."""

    def __init__(self, decoder: CachedDecoder, outputs: list[str]):
        self.decoder, self.outputs = decoder, outputs

    def __call__(self, inputs):
        decoder, ids = self.decoder, inputs["token_ids"]
        past, count = inputs["past_keys_00"].shape[1], inputs["token_mask"]
        keys = Places.of(count, inputs.get("suffix_mask", ops.ones_like(count)))
        queries = keys.mapped(lambda x: x[:, past:])
        x = decoder.embedded(ids, queries.positions[:, -ids.shape[1] :])
        if "soft_tokens" in inputs:
            x = ops.concatenate([ops.cast(inputs["soft_tokens"], x.dtype), x], axis=1)
        caches = tuple(
            (inputs[f"past_keys_{layer:02d}"], inputs[f"past_values_{layer:02d}"])
            for layer in range(len(decoder.blocks))
        )
        features, caches = decoder.through(x, queries, keys, caches, place=None)
        found = [decoder.logits(features[:, -1]), *(x for cache in caches for x in cache)]
        return dict(zip(self.outputs, found, strict=True))


def _predicted(decoder: CachedDecoder) -> int:
    return getattr(decoder.config, "num_predicted", decoder.config.vocab_size)


def _input(dtype: str, shape: list[int | str], axes: list[str], between: list[float]) -> TowerInput:
    return {"dtype": dtype, "range": between, "shape": shape, "axes": axes}


def _shapes(described: Mapping[str, TowerInput]) -> dict[str, tuple[int | str, ...]]:
    return {name: tuple(x["shape"]) for name, x in described.items()}


def _tensors(described: Mapping[str, TowerInput]) -> list[keras.KerasTensor]:
    return [
        keras.KerasTensor([None if isinstance(size, str) else size for size in x["shape"]], dtype=x["dtype"], name=name)
        for name, x in described.items()
    ]
