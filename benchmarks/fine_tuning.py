"""Fine-tuning, LiT, boxes and classifiers against what one would do otherwise: several seeds, a table and a figure.

    KERAS_BACKEND=jax python -m benchmarks.fine_tuning
    KERAS_BACKEND=jax python -m benchmarks.fine_tuning --part d --seeds 1

Every run is the command of a recipe, in a folder of its own. Four parts, of which --part chooses:

  a  the shipped checkpoint on pictures of a kind that it has not seen, openclipart with its titles
     (`benchmarks.fine_tuning_pictures`), against fresh weights of its size: all weights, the image tower locked,
     low-rank adapters, and the line between the weights before and after (WiSE-FT);
  b  a fresh text tower for the checkpoint's image tower, locked (LiT) or moving along, against both towers from
     scratch, on the embedded emoji with one English caption each;
  c  a decoder of captions and boxes beside tiny towers that know scenes already (`recipes.siglip2 finetune`), with the
     towers as they are or moving, against going on with the loss of the pairs alone;
  d  classifiers of 9 and 98 classes of emoji from 1, 10 and 100 labelled drawings each, judged on a designer that
     neither they nor the checkpoint have seen: a linear probe, all weights, and all weights from scratch.

Runs that are compared see equally many examples in batches of one size, from the same seeds. In parts a and b there
are second runs of equal seconds: as many examples as they train on while another run sees its own. Those are seconds
of processors, by what the runs of seed 0 took beyond what a run of a single batch takes. Rates of part a were tried on
a seed that is not among those shown, three or four for each kind of run.

Runs are carried out seed by seed, and the same command again goes on with those that are not finished
(`benchmarks.cells`). Table and figure are those of docs/fine_tuning.md (`benchmarks.fine_tuning_page`).
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.cells import Row, Rows, carry_out
from benchmarks.device import write_results
from benchmarks.fine_tuning_page import EQUAL_SECONDS, SHORTEST, write_page
from benchmarks.fine_tuning_pictures import CLASSES, clip_art, held_out_designer, labelled_emoji
from diptych.backends.selection import select_backend
from diptych.core.files.json_objects import read_json
from diptych.core.training.results import read_results

SHIPPED = "emoji_36_languages"
CLIP_ART, HELD_OUT_DESIGNER = "openclipart", "twemoji"
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
SHOTS = (1, 10, 100)
BATCH_SIZE = 128
"""Examples of the shortest runs, and what the numbers of equal seconds are rounded to."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One run: words of a command line, in which {folder} is its own, {run_dir} that of all, and {data} the pairs."""

    part: str
    arm: str
    seed: int
    examples: int
    data: str
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.part}-{self.arm}-seed-{self.seed}"

    def command(self, run_dir: Path) -> list[str]:
        """The recipe's command line."""
        pairs = {CLIP_ART: run_dir / "data" / "clip_art", HELD_OUT_DESIGNER: run_dir / "data" / "twemoji"}
        places = {
            "run_dir": run_dir,
            "folder": run_dir / self.name,
            "data": pairs.get(self.data, self.data),
            "seed": self.seed,
            "examples": self.examples,
        }
        recipe, *flags = (word.format(**places) for word in self.words)
        return [sys.executable, "-m", f"recipes.{recipe}", *flags]


@dataclass(frozen=True)
class Part:
    """A question: its runs of a seed in the order of their names, how long each trains, and what is read of them.

    Attributes:
        arms: name -> words of the command line.
        examples, quick: how many each run trains on, and in a rehearsal.
        scores: the folder of a run -> what it scored.
        times: name -> how many times as many it trains on.
        seconds_of: the run whose seconds the runs of `timed` take once more.
        timed: names.
    """

    arms: Mapping[str, tuple[str, ...]]
    examples: int
    quick: int
    scores: Callable[[Path], dict[str, Any]]
    times: Mapping[str, float] = field(default_factory=dict)
    seconds_of: str = ""
    timed: tuple[str, ...] = ()

    def first(self, part: str, seed: int, *, data: str, quick: bool) -> list[Arm]:
        """The runs that see equally many examples."""
        many = self.quick if quick else self.examples
        return [
            Arm(part=part, arm=name, seed=seed, examples=round(many * self.times.get(name, 1)), data=data, words=words)
            for name, words in self.arms.items()
        ]

    def shortest(self, first: Sequence[Arm]) -> list[Arm]:
        """The runs that show what those of equal examples take before and after they train."""
        names = (self.seconds_of, *self.timed)
        return [replace(arm, arm=arm.arm + SHORTEST, examples=BATCH_SIZE) for arm in first if arm.arm in names]

    def again(self, first: Sequence[Arm], pace: Mapping[str, float]) -> list[Arm]:
        """The runs that take the seconds of one of them.

        Args:
            first: those of equal examples.
            pace: examples a second of each that counts.
        """
        many = {arm.arm: arm.examples * pace[arm.arm] / pace[self.seconds_of] for arm in first if arm.arm in self.timed}
        return [
            replace(arm, arm=arm.arm + EQUAL_SECONDS, examples=max(1, round(many[arm.arm] / BATCH_SIZE)) * BATCH_SIZE)
            for arm in first
            if arm.arm in many
        ]


def _of_pairs(folder: Path) -> dict[str, Any]:
    """Recall on the first held-out set, in its first language, and what was retained."""
    *_, found = read_results(folder / "results.json").values()
    retrieval = next(iter(found["retrieval"].values()))
    recalls = retrieval["en"] if "en" in retrieval else next(iter(retrieval.values()))
    scores = {"recall@1": recalls["recall@1"], "recall@5": recalls["recall@5"]}
    if "mean" in retrieval:
        scores["mean recall@5"] = retrieval["mean"]["recall@5"]
    for retained in found.get("retention", {}).get("after", {}).values():
        scores["retained"] = retained
    for judged in list(found.get("zero_shot", {}).values())[:1]:
        scores["groups"] = judged["accuracy"]
    for judged in found.get("dense", {}).get("localization", {}).values():
        scores |= {"boxes": judged["accuracy"], "overlap": judged["mean_iou"]}
    return scores


def _of_line(folder: Path) -> dict[str, Any]:
    """{"0.5": as `_of_pairs`} of each point between the weights before and after."""
    found = read_json(folder / "results.json")["points"]
    return {
        f"{point['alpha']:g}": {
            "recall@1": next(iter(point["own"].values())),
            "retained": next(iter(point["retention"].values())),
        }
        for point in found
    }


def _of_pairs_or_line(folder: Path) -> dict[str, Any]:
    return _of_pairs(folder) if (folder / "card.json").exists() else _of_line(folder)


def _of_classes(folder: Path) -> dict[str, Any]:
    (found,) = read_results(folder / "results.json").values()
    (judged,) = found["classification"].values()
    return {"accuracy": judged["accuracy"], "mean class accuracy": judged["mean_class_accuracy"]}


USUAL = ("--seed", "{seed}", "--examples", "{examples}", "--run-dir", "{folder}", "--no-tensorboard")
OWN = (*USUAL, "--train-data", "{data}", "--val-fraction", "0.2", "--batch-size", "64", "--context-length", "12")
TUNED = ("siglip", "--pretrained", SHIPPED, *OWN, "--evaluations", "2")
EMOJI = (*USUAL, "--opening-examples", "{examples}", "--no-augment", "--evaluations", "1", "--no-report")
SCENES = (*USUAL, "--train-data", "scenes", "--evaluations", "1", "--batch-size", "32")
TOWERS = "(image|text|pair_logits)/.*"
BASE = "{run_dir}/c-base-seed-{seed}/model"
DECODER = (
    *("siglip2", "finetune", "--pretrained", BASE, *SCENES),
    *("--target-length", "20", "--box-bins", "10", "--decoder-depth", "1", "--tie-embeddings"),
    *("--head-hidden", "64", "--head-bottleneck", "32", "--head-outputs", "128", "--local-views", "1"),
    *("--learning-rate", "2e-3"),
)


def _classifiers() -> dict[str, tuple[str, ...]]:
    """{group-10-probe: words}."""
    found = {}
    for kind in CLASSES:
        for shots in SHOTS:
            pictures = "{run_dir}/data/labelled/"
            data = (
                *USUAL,
                *("--train-data", f"{pictures}{kind}-{shots}-seed-{{seed}}.csv"),
                *("--val-data", f"{pictures}judged-{kind}.csv"),
                *("--evaluations", "1", "--no-report"),
                *("--batch-size", "8" if (kind, shots) == ("group", 1) else "32"),  # there are nine drawings
            )
            moving = ("--learning-rate", "1e-3", "--learning-rate-multipliers", "image/.*", "0.03")
            found |= {
                f"{kind}-{shots}-scratch": ("classifier", "full", "--pretrained", "None", *data),
                f"{kind}-{shots}-probe": ("classifier", "linear_probe", *data),
                f"{kind}-{shots}-full": ("classifier", "full", *data, *moving),
            }
    return found


PARTS = {
    "a": Part(
        arms={
            "fresh": ("siglip", *OWN, "--evaluations", "2", "--no-report"),
            "full": (*TUNED, "--learning-rate", "1e-3"),
            "locked": (*TUNED, "--learning-rate", "1e-3", "--lock-image"),
            "adapters": (*TUNED, "--learning-rate", "3e-3", "--lora-rank", "8"),
            "line": (
                *("interpolate", "--after", "{run_dir}/a-full-seed-{seed}", "--output", "{folder}/results.json"),
                *("--alphas", *map(str, ALPHAS)),
            ),
        },
        examples=12_800,
        quick=128,
        scores=_of_pairs_or_line,
        seconds_of="full",
        timed=("fresh", "locked", "adapters"),
    ),
    "b": Part(
        arms={
            "scratch": ("siglip", *EMOJI),
            "moving": ("lit", "--no-lock-image", *EMOJI),
            "locked": ("lit", *EMOJI),
        },
        examples=15_360,
        quick=256,
        scores=_of_pairs,
        seconds_of="scratch",
        timed=("moving", "locked"),
    ),
    "c": Part(
        arms={
            "base": ("siglip", "--model", "scenes", "--no-augment", "--no-report", *SCENES),
            "pairs": ("siglip", "--pretrained", BASE, "--learning-rate", "2e-4", "--no-report", *SCENES),
            "frozen": (*DECODER, "--lock", "image/.*", "text/.*", "pair_logits/.*"),
            "moving": (*DECODER, "--learning-rate-multipliers", TOWERS, "0.1"),
        },
        examples=9_600,
        quick=320,
        scores=_of_pairs,
        times={"base": 2.0},
    ),
    "d": Part(arms=_classifiers(), examples=6_400, quick=128, scores=_of_classes),
}


def run_arm(arm: Arm, run_dir: Path) -> Row:
    """Trains and judges one arm, or goes on with it; returns what it found."""
    folder = run_dir / arm.name
    cost = carry_out(arm.command(run_dir), folder)
    return {"scores": PARTS[arm.part].scores(folder), **cost}


def make_pictures(parts: list[str], data: str, run_dir: Path, seeds: int) -> None:
    """Whatever the parts learn from that does not come along as it is."""
    made = {CLIP_ART: (clip_art, "clip_art"), HELD_OUT_DESIGNER: (held_out_designer, "twemoji")}
    if "a" in parts and data in made:
        make, name = made[data]
        make(run_dir / "data" / name)
    if "d" in parts:
        for seed in range(seeds):
            labelled_emoji(run_dir / "data" / "labelled", SHOTS, seed)


def wanted_arms(name: str, seed: int, rows: Rows, data: str, *, quick: bool) -> list[Arm]:
    """The runs of a part and a seed that can be named by now: those of equal seconds once seed 0 has shown its pace."""
    part = PARTS[name]
    first, of_seed_0 = (part.first(name, of, data=data, quick=quick) for of in (seed, 0))
    shortest = part.shortest(of_seed_0) if part.timed else []
    pace = dict.fromkeys((part.seconds_of, *part.timed), 1.0) if quick else _pace(of_seed_0, shortest, rows)
    return [*first, *(shortest if seed == 0 else []), *(part.again(first, pace) if pace else [])]


def _pace(first: Sequence[Arm], shortest: Sequence[Arm], rows: Rows) -> dict[str, float]:
    """Examples a second of processors, by the name of the run; nothing as long as any of them is not finished."""
    pace = {}
    for short in shortest:
        arm = next(arm for arm in first if arm.arm + SHORTEST == short.arm)
        row, beside = rows.of(arm), rows.of(short)
        if row is None or beside is None:
            return {}
        pace[arm.arm] = (arm.examples - short.examples) / max(row["cpu_seconds"] - beside["cpu_seconds"], 0.1)
    return pace


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=sorted(PARTS), default=sorted(PARTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/fine_tuning"))
    parser.add_argument(
        "--data", default=CLIP_ART, help=f"pairs of part a: {CLIP_ART}, {HELD_OUT_DESIGNER}, or data of your own"
    )
    parser.add_argument("--quick", action="store_true", help="a few steps of each, to rehearse; writes no document")
    parser.add_argument("--table-only", action="store_true", help="train nothing; write what finished runs show")
    options = parser.parse_args(arguments)
    backend, run_dir = select_backend(), options.run_dir.resolve()
    rows = Rows(run_dir)
    try:
        if not options.table_only:
            make_pictures(options.part, options.data, run_dir, options.seeds)
            asked = {"data": options.data, "quick": options.quick}
            while arm := next_arm(options.part, options.seeds, rows, **asked):
                row = rows.add(arm, run_arm(arm, run_dir))
                print(
                    f"{arm.name}: {arm.examples:,} examples, {row['scores']}, {row['wall_seconds']:.0f} s", flush=True
                )
    except (ValueError, FileNotFoundError, ImportError) as error:
        parser.error(str(error))
    if options.quick:
        return 0
    if not any(rows):
        print(f"No run is finished yet in {run_dir}; what was measured before is left as it is.")
        return 1
    results = {"backend": backend, "data": options.data, "arms": [_without_words(row) for row in rows]}
    print(write_results("fine_tuning", results))
    for path in write_page(results):
        print(path)
    return 0


def _without_words(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != "words"}


def next_arm(parts: Sequence[str], seeds: int, rows: Rows, *, data: str, quick: bool) -> Arm | None:
    """The first run that is not finished; None where all are."""
    arms = (arm for part in parts for seed in range(seeds) for arm in wanted_arms(part, seed, rows, data, quick=quick))
    return next((arm for arm in arms if rows.of(arm) is None), None)


if __name__ == "__main__":
    sys.exit(main())
