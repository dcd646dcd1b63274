"""Bias of the same towers trained on a biased source, on its balanced view, and on as few of it.

    KERAS_BACKEND=jax python -m benchmarks.balancing

The source is `benchmarks.balancing_pictures`: most things go with the amber team nine times of ten. Training is the
same in all runs of a seed: initial weights, steps, rate; only the records differ. Biases are
`core.evaluation.fairness`'s, on drawings by a designer never trained on:

  - representation: pictures without a frame, the text "the amber team" against "the violet team";
  - association: the same pictures in a frame of either team, and what thing they are taken for.

"As few" are random records of the biased source, as many as balancing keeps: less data alone is not what lowers a bias.
Writes the results, and the table in docs/balancing.md.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import balancing_pictures as pictures
from benchmarks.device import write_results
from diptych.backends.selection import select_backend
from diptych.core.data.emoji import HELD_OUT_DESIGNER
from diptych.core.data.sources.balancing import Balance, BalancedSource
from diptych.core.evaluation.fairness import association_bias, representation_bias
from diptych.core.report.marked_section import write_marked_section
from diptych.core.report.seeds import mean_of

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "balancing.md"
BEGIN, END = "<!-- results: written by benchmarks.balancing -->", "<!-- end of results -->"
DATA = ("biased", "as few", "balanced")
RECORDS, BATCH, RATE, EACH = 10_000, 64, 2e-3, 25
TOWER = {"width": 48, "depth": 1, "mlp_dim": 96, "num_heads": 3}
# A thing that is one team's nine times of ten needs weights of 9 to 1 to be balanced: more than the default's largest.
BALANCE = Balance(max_weight=6.0, epsilon_representation=0.005, epsilon_association=0.002)
COLUMNS = {
    "representation": "representation bias",
    "association_mean": "association bias, mean",
    "association_largest": "largest",
    "accuracy": "things told right",
}


class Words:
    """Words as tokens, one each, the rest of the context filled with 0."""

    def __init__(self, source: pictures.TeamSource):
        texts = [f"{name} of {pictures.team_text(team)}" for name in pictures.names() for team in pictures.TEAMS]
        self._numbers = {word: 1 + place for place, word in enumerate(sorted(set(" ".join(texts).split())))}
        self.vocab_size = 1 + len(self._numbers)
        self.context_length = max(len(text.split()) for text in texts)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """int32 [texts, context_length]."""
        ids = np.zeros((len(texts), self.context_length), np.int32)
        for row, text in zip(ids, texts, strict=True):
            numbers = [self._numbers[word] for word in text.split()]
            row[: len(numbers)] = numbers
        return ids


class Judge:
    """Held-out pictures, and what a model makes of them."""

    def __init__(self, words: Words):
        self._words = words
        self._neutral, self._things = pictures.held_out_pictures(HELD_OUT_DESIGNER, None, each=EACH, seed=1)
        self._framed = np.concatenate(
            [pictures.held_out_pictures(HELD_OUT_DESIGNER, team, each=EACH, seed=2)[0] for team in (0, 1)]
        )

    def __call__(self, model) -> dict[str, Any]:
        """Both biases; how many things of pictures without a frame are told right, and how many frames of the
        others.
        """
        amber, violet = self._texts(model, [pictures.team_text(team) for team in pictures.TEAMS])
        things = self._texts(model, pictures.names())
        neutral, framed = (self._images(model, some) for some in (self._neutral, self._framed))
        in_amber = np.arange(len(framed)) < len(framed) // 2
        bias = representation_bias(neutral, amber, violet)
        association = association_bias(framed, in_amber, things)
        return {
            "representation": bias["bias"],
            "interval": bias["interval"],
            "association_mean": association["mean"],
            "association_largest": association["largest"],
            "accuracy": float(((neutral @ things.T).argmax(axis=1) == self._things).mean()),
            "frames_told": float(((framed @ (amber - violet) > 0) == in_amber).mean()),
        }

    def _images(self, model, pixels: np.ndarray) -> np.ndarray:
        return _array(model.image_embedder().predict_on_batch(pixels / np.float32(127.5) - 1))

    def _texts(self, model, texts: Sequence[str]) -> np.ndarray:
        return _array(model.text_embedder().predict_on_batch(self._words(texts)))


def trained(source: pictures.TeamSource, chosen: np.ndarray, words: Words, *, seed: int, steps: int):
    """A model of tiny towers, trained on chosen records of a source, each time with one of their captions."""
    import keras

    from diptych import backends
    from diptych.core.training.objectives import Objective
    from diptych.engine.training.terms.contrastive import Contrastive
    from diptych.models import SigLIP, SigLIPConfig, TextConfig, VisionConfig

    vision = VisionConfig(**TOWER, patch_size=6, image_size=pictures.SIDE)
    text = TextConfig(**TOWER, vocab_size=words.vocab_size, context_length=words.context_length, pooling="gap")
    model = SigLIP(SigLIPConfig(vision=vision, text=text), seed=seed)
    step = backends.train_step(
        model, Objective({"contrastive": Contrastive()}), keras.optimizers.Adam(RATE), clip_norm=1.0
    )
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        records = chosen[rng.integers(len(chosen), size=BATCH)]
        texts = [source.record(int(record)).captions for record in records]
        spoken = [captions[which].text for captions, which in zip(texts, rng.integers(3, size=BATCH), strict=True)]
        step({"image": np.stack([source.pixels(int(record)) for record in records]), "text": words(spoken)})
    step.synchronize()
    return model


def rows_of(seed: int, *, steps: int) -> list[dict[str, Any]]:
    """The runs of a seed, one for each of DATA."""
    source = pictures.TeamSource(RECORDS, seed=seed)
    balanced = BalancedSource(source, pictures.attributes(), config=BALANCE, seed=seed)
    kept = np.array([int(balanced.record(place).key) for place in range(len(balanced))])
    everything = np.arange(RECORDS)
    few = np.random.default_rng(seed).choice(RECORDS, len(kept), replace=False)
    words = Words(source)
    judge, rows = Judge(words), []
    for data, chosen in zip(DATA, (everything, few, kept), strict=True):
        started = time.monotonic()
        model = trained(source, chosen, words, seed=seed, steps=steps)
        amber = source.teams[chosen] == 0
        rows.append(
            {
                "data": data,
                "seed": seed,
                "records": len(chosen),
                "ambers": float(amber.mean()),
                "ambers_by_thing": [
                    float(amber[source.things[chosen] == thing].mean()) for thing in range(len(pictures.THINGS))
                ],
                **judge(model),
                "seconds": round(time.monotonic() - started, 1),
            }
        )
        row = rows[-1]
        print(
            f"seed {seed}, {data}: {row['records']:,} records, {row['ambers']:.0%} amber; representation bias "
            f"{row['representation']:+.3f}, association {row['association_mean']:.3f}, things {row['accuracy']:.0%}, "
            f"{row['seconds']:.0f} s",
            flush=True,
        )
    return rows


def table(results: Mapping[str, Any]) -> str:
    """The results as Markdown, in percent: means over the seeds with 95% t-intervals, biases without their signs."""
    lines = [f"| data | records | amber | {' | '.join(COLUMNS.values())} |", f"|---|---|---|{'---|' * len(COLUMNS)}"]
    for data in DATA:
        rows = [row for row in results["rows"] if row["data"] == data]
        records, ambers = (np.mean([row[name] for row in rows]) for name in ("records", "ambers"))
        cells = [mean_of([abs(row[name]) for row in rows]).percent() for name in COLUMNS]
        lines.append(f"| {data} | {records:,.0f} | {100 * ambers:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_table(results: Mapping[str, Any], page: Path = PAGE) -> Path:
    """Puts the table into the document, between its two marks."""
    seeds = len({row["seed"] for row in results["rows"]})
    said = f"{results['steps']:,} steps of {BATCH} on {results['backend']}, {seeds} seeds"
    said += ", in percent: mean ± 95% t-interval."
    write_marked_section(page, BEGIN, END, f"{said}\n\n{table(results)}")
    return page


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=800)
    options = parser.parse_args(arguments)
    backend = select_backend()
    rows = [row for seed in range(options.seeds) for row in rows_of(seed, steps=options.steps)]
    results = {"backend": backend, "steps": options.steps, "rows": rows}
    print(table(results))
    for path in (write_results("balancing", results), write_table(results)):
        print(path)
    return 0


def _array(value) -> np.ndarray:
    import keras

    return np.asarray(keras.ops.convert_to_numpy(value))


if __name__ == "__main__":
    sys.exit(main())
