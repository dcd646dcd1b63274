"""The cost of weights in bfloat16 and int8: memory, logits' error, and answers of a trained PaliGemma.

    KERAS_BACKEND=torch python -m benchmarks.precision
    KERAS_BACKEND=torch python -m benchmarks.precision --run runs/paligemma

Logits are those of Gemma with random weights, in the shapes of a block of the published sizes and of a model of 97 M
parameters, as a share of the largest that float32 gives; "the likeliest" is how often the likeliest token is the same.
With --run, a finished `recipes.paligemma` of the default data, its questions about new scenes are asked again.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.device import RESULTS, write_results
from benchmarks.generation import middle_gemma
from diptych.backends.selection import select_backend

DTYPES = ("float32", "bfloat16", "int8", "int8_from_bfloat16")
BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
QUESTIONS = 480


def main(arguments: list[str] | None = None) -> None:
    """Measure, print tables and write results/<device>/precision-<backend>.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="folder of a finished run")
    parser.add_argument("--tiny", action="store_true", help="one small shape, without results")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    backend = select_backend()
    results: dict = {
        "backend": backend,
        "logits": {name: _logits(name, x) for name, x in _shapes(options.tiny).items()},
    }
    if options.run is not None:
        results["answers"] = _answers(options.run)
    if not options.tiny:
        print(write_results(f"precision-{backend}", results, options.out))


def _shapes(tiny: bool) -> dict:
    from diptych.models.gemma.presets import PRESETS

    small = middle_gemma()
    if tiny:
        return {"tiny": replace(small, width=64, depth=2, mlp_dim=128, vocab_size=300)}
    published = {
        f"{name}, a block": replace(PRESETS[name], depth=1, vocab_size=4_096, predicted_ids=None)
        for name in ("gemma_2b", "gemma2_2b")
    }
    return {"97 M": small, **published}


def _memory(model) -> int:
    return sum(int(np.prod(weight.shape)) * BYTES[str(weight.dtype)] for weight in model.weights)


def _logits(name: str, config) -> dict:
    import keras

    from diptych.models import Gemma

    ids = np.random.default_rng(1).integers(3, config.vocab_size, (2, 48)).astype(np.int32)
    rows: dict = {}
    with tempfile.TemporaryDirectory() as folder:
        drawn = Gemma(config, dtype="float32")
        table = drawn.decoder.token_embedding.embedding  # fresh ones are so large that each token predicts itself
        table.assign(0.05 * table.value)
        drawn.save_to_preset(folder, format="diptych")
        del drawn
        truth = np.zeros(0)
        for dtype in DTYPES:
            model = Gemma.from_preset(folder, dtype=dtype)
            logits = model.logits(keras.ops.stop_gradient(model(ids)["tokens"]))
            found = keras.ops.convert_to_numpy(keras.ops.stop_gradient(logits))
            truth = found if dtype == "float32" else truth
            difference = np.abs(found - truth)
            rows[dtype] = {
                "bytes": _memory(model),
                "largest_error": float(difference.max() / np.abs(truth).max()),
                "mean_error": float(difference.mean() / np.abs(truth).mean()),
                "likeliest": float((found.argmax(-1) == truth.argmax(-1)).mean()),
            }
            row = rows[dtype]
            print(
                f"  {name:<20}{dtype:<20}{row['bytes'] / 1e6:9.1f} MB   largest error {row['largest_error']:.1e} of "
                f"the largest logit, mean {row['mean_error']:.1e}   the likeliest {row['likeliest']:.1%}",
                flush=True,
            )
    return rows


def _answers(run: Path) -> dict:
    """dtype -> exact answers to the questions that the default data hold out."""
    from diptych.core.evaluation.answer_metrics import answer_score
    from diptych.engine.answering import Answerer

    pictures, prompts, truths = _questions()
    rows, first = {}, list[str]()
    for dtype in DTYPES:
        answerer = Answerer.open(run, dtype=dtype)
        told = answerer.answers(pictures, prompts, steps=12, batch_size=16)
        score, _ = answer_score("exact", told, truths)
        first = first or told
        same = float(np.mean([one == other for one, other in zip(told, first, strict=True)]))
        rows[dtype] = {"bytes": _memory(answerer.model), "exact": score["value"], "same_answers": same}
        print(
            f"  {run.name:<20}{dtype:<20}{rows[dtype]['bytes'] / 1e6:9.2f} MB   exact {score['value']:.4f} of "
            f"{len(told)} questions   {same:.1%} of the answers are float32's",
            flush=True,
        )
    return rows


def _questions() -> tuple[list, list[str], list[tuple[str, ...]]]:
    """Pictures, prompts and true answers, evenly chosen as the run's own evaluation chooses them."""
    from diptych.core.data.ledger import visit
    from diptych.core.data.record_parts import usable_pixels
    from diptych.core.data.sources.files import evenly
    from diptych.engine.datasets.questions import questions
    from diptych.recipes.paligemma import tiny

    recipe = tiny()
    source = next(iter(questions(recipe.data).sources(recipe.run.seed).held_out.values()))

    def read(record):
        answers = tuple(answer.text.strip() for answer in record.require_captions())
        return usable_pixels(source, record), record.prompt or "caption en", answers

    asked = [question for _, question in visit(source, read, evenly(range(len(source)), QUESTIONS))]
    return [one[0] for one in asked], [one[1] for one in asked], [one[2] for one in asked]


if __name__ == "__main__":
    main()
