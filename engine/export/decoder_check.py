"""The check of an exported decoder: the likeliest tokens against the model's, logits, and its speed."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from diptych.engine.export.check import BATCHES, TIMED_BATCHES, ExportError
from diptych.engine.export.decoders import Graph, Writer
from diptych.engine.export.greedy import Outputs, greedy_tokens
from diptych.models import PaliGemma

PROMPT, STEPS = 6, 16
"""Tokens of the longest prompt, and of what is written behind it, where there are places for them."""
MOST = 1e-4
"""Of the largest logit: more is no rounding any longer."""


@dataclass(frozen=True, kw_only=True)
class WritingChecked:
    """What was found.

    Attributes:
        tokens: how many were compared, all of them equal.
        difference: the greatest between logits, as a share of the largest.
        ties: texts that went apart where the model's two likeliest tokens are equal up to rounding.
        first_ms, token_ms: milliseconds to the first token and for each further one, by size of the batch.
    """

    tokens: int
    difference: float
    ties: int
    first_ms: dict[int, float]
    token_ms: dict[int, float]


def check_writing(model: Writer, graphs: Mapping[str, Graph], run: Mapping[str, Outputs], seed: int = 0):
    """Compares what the graphs write behind random prompts with what the model writes: -> `WritingChecked`.

    Args:
        model: whose likeliest tokens are to be those of the graphs.
        graphs: by name, "decoder" and for pictures "image".
        run: their files.

    Raises:
        ExportError: where a token or a logit is another one, or a graph does not run.
    """
    rng = np.random.default_rng(seed)
    compared, ties, greatest = 0, 0, 0.0
    steps = _steps(model)
    for batch in BATCHES:
        ids, lengths, images = _prompts(model, rng, batch)
        found, logits, _ = _written(graphs, run, ids, lengths, images, steps)
        expected = _tokens_of(model, ids, lengths, images, steps)
        truth = _logits_of(model, ids, lengths, images, expected)
        scale = float(np.abs(truth).max())
        for row in range(batch):
            apart = np.flatnonzero(found[row] != expected[row])
            alike = int(apart[0]) if len(apart) else steps
            most = min(alike + 1, steps)
            difference = float(np.abs(logits[row, :most] - truth[row, :most]).max()) / scale
            if not difference <= MOST:  # so written, NaN is refused
                raise ExportError(
                    f"decoder.onnx: logits of a batch of {batch} differ from the model's by {difference:.3g} of the "
                    f"largest, at most {MOST:.0e} is rounding."
                )
            if alike < steps:
                ours, theirs = truth[row, alike, expected[row, alike]], truth[row, alike, found[row, alike]]
                if ours - theirs > 2 * MOST * scale:
                    raise ExportError(
                        f"decoder.onnx: token {alike + 1} behind a prompt is {found[row, alike]}, the model's "
                        f"{expected[row, alike]}."
                    )
                ties += 1
            compared, greatest = compared + alike, max(greatest, difference)
    first, token = {}, {}
    for size in TIMED_BATCHES:
        for _ in range(2):  # the first may make ready what the second finds
            ids, lengths, images = _prompts(model, rng, size)
            _, _, times = _written(graphs, run, ids, lengths, images, steps)
        first[size], token[size] = 1e3 * times[0], 1e3 * float(np.median(times[1:]))
    return WritingChecked(tokens=compared, difference=greatest, ties=ties, first_ms=first, token_ms=token)


def _prompts(model: Writer, rng: np.random.Generator, batch: int):
    """Random prompts int32 `[batch, length]`, padded behind, their lengths, and pictures, None for a model of texts."""
    vocabulary = (model.config.text if isinstance(model, PaliGemma) else model.config).vocab_size
    longest = min(PROMPT, max(1, _places(model) // 2))
    lengths = rng.integers(1, longest + 1, batch)
    lengths[0] = longest
    ids = np.where(np.arange(longest) < lengths[:, None], rng.integers(0, vocabulary, (batch, longest)), 0)
    if not isinstance(model, PaliGemma):
        return ids.astype(np.int32), lengths, None
    pictures = (batch, model.pictures, *model.image_encoder.inputs[0].shape[1:])
    images = rng.uniform(-1, 1, (*pictures[:2], 1, 1, 1)) + rng.uniform(-0.5, 0.5, pictures)
    return ids.astype(np.int32), lengths, np.clip(images, -1, 1).astype(np.float32)


def _places(model: Writer) -> int:
    """How many a text has beside its pictures."""
    if isinstance(model, PaliGemma):
        return model.context_length - model.pictures * model.config.vision.num_patches
    return model.context_length


def _steps(model: Writer) -> int:
    return max(1, min(STEPS, _places(model) - PROMPT))


def _written(graphs, run, ids, lengths, images, steps: int) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Tokens and logits by the files, and the seconds of each step, pictures being part of the first."""
    order = np.argsort(np.arange(ids.shape[1]) < lengths[:, None], axis=1, kind="stable")
    ids, mask = np.take_along_axis(ids, order, axis=1), np.sort(np.arange(ids.shape[1]) < lengths[:, None], axis=1)
    times = [time.perf_counter()]
    try:
        soft = None
        if images is not None:
            soft = run["image"]({"images": images.reshape(-1, *images.shape[2:])})["soft_tokens"]
            soft = soft.reshape(len(ids), -1, soft.shape[-1])
        tokens, logits = greedy_tokens(
            run["decoder"],
            graphs["decoder"].shapes,
            ids,
            mask,
            soft,
            steps=steps,
            called=lambda: times.append(time.perf_counter()),
        )
    except Exception as error:  # whatever the runtime raises: it has no common base, and the file must go
        raise ExportError(f"the graphs do not run on {len(ids)} prompts: {type(error).__name__}: {error}") from error
    return tokens, logits, np.diff(times).tolist()


def _tokens_of(model: Writer, ids, lengths, images, steps: int) -> np.ndarray:
    if isinstance(model, PaliGemma):
        mask = np.arange(ids.shape[1]) < lengths[:, None]
        found = model.generate(_as_taken(model, images), ids, mask, steps=steps, eos_id=None)
    else:
        found = model.generate(ids, steps=steps, prompt_lengths=lengths.astype(np.int32), eos_id=None)
    return keras.ops.convert_to_numpy(found)


def _logits_of(model: Writer, ids, lengths, images, answers: np.ndarray) -> np.ndarray:
    """Logits that the model gives before each token of its answers, all in one forward pass."""
    batch, steps = answers.shape
    whole = np.zeros((batch, ids.shape[1] + steps), np.int32)
    for row, length in enumerate(lengths):
        whole[row, :length], whole[row, length : length + steps] = ids[row, :length], answers[row]
    places = np.arange(whole.shape[1])
    given = {
        "token_ids": whole,
        "token_mask": places < lengths[:, None] + steps,
        "suffix_mask": places >= lengths[:, None],
    }
    if isinstance(model, PaliGemma):
        features = model({"images": _as_taken(model, images), **given})["tokens"]
    else:
        features = model(whole)["tokens"]
    chosen = lengths[:, None] - 1 + np.arange(steps)
    features = ops.take_along_axis(features, ops.convert_to_tensor(chosen[..., None].astype("int32")), axis=1)
    return ops.convert_to_numpy(ops.stop_gradient(model.decoder.logits(features)))


def _as_taken(model: PaliGemma, images: np.ndarray) -> np.ndarray:
    return images[:, 0] if model.pictures == 1 else images
