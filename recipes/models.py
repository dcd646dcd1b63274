"""Models by name: what comes with diptych, and the sizes that training, `--pretrained` and from_preset know.

Command:   python -m recipes.models
Some:      python -m recipes.models siglip2 patch16

Prints a table: pixels, parameters of the image and of the text tower, memory of the weights in float32, and the
checkpoint of the Hugging Face hub that has this arrangement, which --pretrained and --model take as it stands here. The
name alone is a size for fresh weights. It needs no framework and no network.
"""

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from diptych.core.report.charts.numbers import compact
from diptych.core.report.tables import text_table
from diptych.core.weights.hub import SHIPPED
from diptych.engine.command_line import parse
from diptych.engine.failures import exit_status
from diptych.models.counting import count_parameters
from diptych.models.presets import ALL_PRESETS, PRESETS, hub_name


@dataclass(frozen=True, kw_only=True)
class Models:
    """Which models."""

    words: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="WORD")] = ()
    """Parts of names; a model is shown whose name has all of them."""


def main(arguments: list[str] | None = None) -> int:
    """Lists; returns the exit status."""
    options = parse(Models(), arguments, program="python -m recipes.models", description=__doc__)
    return exit_status(lambda: models(options), options)


def models(options: Models) -> int:
    """Everything after the command line."""
    chosen = [name for name in ALL_PRESETS if all(word.lower() in name.lower() for word in options.words)]
    if not chosen:
        raise ValueError(f"no model has {' and '.join(options.words)} in its name; without words all are listed.")
    header = ("size", "kind", "pixels", "image", "text", "float32", "the same on the hub")
    print(text_table(header, [row(name) for name in chosen]))
    for name, folder in SHIPPED.items():
        megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        print(f"\n{name} comes with diptych: a trained model of the size emoji, {megabytes:.1f} MB.")
    return 0


def row(name: str) -> list[str]:
    """The cells of a model; what is no pair of towers has no counts here."""
    config, hub = ALL_PRESETS[name], hub_name(name) or ""
    if name not in PRESETS:
        return [name, config.describes, "", "", "", "", hub]
    parts = count_parameters(PRESETS[name])
    size = getattr(PRESETS[name].vision, "image_size", None)
    shown = [f"{compact(parts[part])}" for part in ("image", "text")]
    return [name, config.describes, str(size or "any"), *shown, f"{4 * parts['total'] / 2**30:.2f} GiB", hub]


if __name__ == "__main__":
    sys.exit(main())
