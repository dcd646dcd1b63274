"""A page on this machine to try a model: drop a picture, type labels in any language, search, see where it looks.

Command:   python -m recipes.demo
Own data:  python -m recipes.embed --data photos/ --model runs/siglip --index runs/photos
           python -m recipes.demo --index runs/photos

The page needs no internet, and nothing outside this machine can reach it. It shows two numbers for each label: the
sigmoid, the probability that picture and label belong together, whatever else is asked; and the softmax, its share
among the labels. The heat map shows by how much a label's logit falls when a part of the picture is hidden. Ctrl-C ends
it.
"""

import os
import sys
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.engine.command_line import parse
from diptych.engine.embedding.index_folder import IndexFolder
from diptych.engine.failures import exit_status
from diptych.engine.serving.answers import Answers
from diptych.engine.serving.galleries import Examples, embedded_gallery, index_gallery
from diptych.engine.serving.server import DemoServer

DEFAULT_MODEL = "emoji_36_languages"
QUERIES = ("cherries", "schwarzes Herz", "mont Fuji", "персик", "همبرغر", "ज्वालामुखी", "常緑樹", "경찰차")
MOST_CELLS = 32


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Which model, and what it searches."""

    model: str | None = None
    """A trained model: a folder (of a checkpoint, or of a run), hf://owner/name, or a name; by default
    emoji_36_languages, or the index's own."""
    index: Path | None = None
    """A folder made by `recipes.embed` to search; by default the embedded emoji of a designer never trained on."""
    port: int = 0
    """Of the page; 0 takes one that is free."""
    open: bool = True
    """Open the page in the browser."""
    template: str = "{}"
    """What labels are put into, such as "a photo of a {}"."""
    heat_map_cells: int | None = None
    """Rows and columns of heat maps; by default as many as take about two seconds."""

    def __post_init__(self):
        if not 0 <= self.port <= 65535:
            raise ValueError(f"--port must be 0 to 65535, got {self.port}.")
        if self.template.count("{}") != 1:
            raise ValueError(
                f'--template must hold {{}} exactly once, as "a photo of a {{}}" does, got {self.template!r}.'
            )
        if self.heat_map_cells is not None and not 2 <= self.heat_map_cells <= MOST_CELLS:
            raise ValueError(f"--heat-map-cells must be 2 to {MOST_CELLS}, got {self.heat_map_cells}.")


def main(arguments: list[str] | None = None) -> int:
    """Shows the page until Ctrl-C; returns the exit status."""
    options = parse(Demo(), arguments, program="python -m recipes.demo", description=__doc__)
    from diptych.engine.embedding.encoder import Encoder
    from diptych.engine.serving.attention import attention_of

    return exit_status(lambda: show(options, Encoder.open, attention_of), options)


def show(options: Demo, open_encoder: Callable[[str], Any], attention_of: Callable[[Any], Callable | None]) -> int:
    """Everything after the command line. `open_encoder` makes an encoder of the model's name: `Encoder.open`."""
    try:
        with DemoServer(port=options.port) as server:  # first of all: a port that is taken is soon told
            server.answers = prepared(options, open_encoder, attention_of)
            print(f"\n  {server.url}\n\nCtrl-C ends it.", flush=True)
            if options.open and _has_screen():
                webbrowser.open(server.url)
            try:
                server.serve_forever()
            finally:
                server.answers.close()
    except KeyboardInterrupt:
        print("\nThe demo has ended.", flush=True)
    return 0


def prepared(
    options: Demo, open_encoder: Callable[[str], Any], attention_of: Callable[[Any], Callable | None]
) -> Answers:
    """The `Answers` to what the page asks: the model opened, the gallery embedded or opened."""
    name = options.model or (IndexFolder(options.index).card["model"] if options.index else DEFAULT_MODEL)
    print(f"Opening {name}", flush=True)
    encoder = open_encoder(name)
    gallery = index_gallery(options.index, encoder, name) if options.index else embedded_gallery(encoder)
    answers = Answers(
        encoder,
        gallery,
        Examples(),
        model=Path(name).name,
        queries=QUERIES,
        template=options.template,
        cells=options.heat_map_cells,
        attention=attention_of(encoder),
    )
    answers.search(text=QUERIES[0])  # compiles, so that who looks first need not wait
    print(f"{len(gallery):,} images to search: {gallery.name}. Heat maps of {answers.cells} x {answers.cells} cells.")
    return answers


def _has_screen() -> bool:
    """Whether a browser would open in a window; one in the terminal would take the terminal."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


if __name__ == "__main__":
    sys.exit(main())
