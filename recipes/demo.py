"""A page to try a model, and a JSON interface for programs: labels in any language, search, where the model looks.

Command:   python -m recipes.demo
Own data:  python -m recipes.embed --data photos/ --model runs/siglip --index runs/photos
           python -m recipes.demo --index runs/photos
Asking:    python -m recipes.demo --model runs/paligemma
Others:    python -m recipes.demo --host 0.0.0.0 --port 8000

The page needs no internet, and nothing outside this machine can reach it. With --host it can: then a token is needed,
which stands in the address that is printed; what is sent is not encrypted. /openapi.json describes what programs may
ask. With a PaliGemma the page has a box to ask in, and no labels. Else it shows two numbers for each label: the
sigmoid, the probability that picture and label belong together, whatever else is asked; and the softmax, its share
among the labels. The heat map shows by how much a label's logit falls when a part of the picture is hidden. Ctrl-C ends
it at once; SIGTERM answers first what was asked.
"""

import os
import signal
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.engine.command_line import parse
from diptych.engine.embedding.index_folder import IndexFolder
from diptych.engine.failures import exit_status
from diptych.engine.flags import check_least
from diptych.engine.serving.access import check_token, is_loopback
from diptych.engine.serving.answers import Answers
from diptych.engine.serving.asking import PromptAnswers
from diptych.engine.serving.batching import MOST_WAITING, PAUSE_SECONDS, Batcher
from diptych.engine.serving.galleries import Examples, embedded_gallery, index_gallery
from diptych.engine.serving.server import ADDRESS, DemoServer
from diptych.engine.serving.shared_encoder import LARGEST_BATCH

DEFAULT_MODEL = "emoji_36_languages"
QUERIES = ("cherries", "schwarzes Herz", "mont Fuji", "персик", "همبرغر", "ज्वालामुखी", "常緑樹", "경찰차")
PROMPTS = ("caption en", "detect cat", "segment cat", "answer en what is this?", "ocr")
MOST_CELLS = 32
MOST_BATCH = 1024


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Which model, and what it searches."""

    model: str | None = None
    """A trained model: a folder (of a checkpoint, or of a run), hf://owner/name, or a name; by default
    emoji_36_languages, or the index's own. A PaliGemma is asked by prompts."""
    index: Path | None = None
    """A folder made by `recipes.embed` to search; by default the embedded emoji of a designer never trained on."""
    masks: str | None = None
    """vae-oid.npz, the decoder of the codes of masks that a PaliGemma writes; without it, boxes alone are drawn."""
    host: str = ADDRESS
    """The address to listen on; one that others can reach, such as 0.0.0.0, asks for a token."""
    port: int = 0
    """Of the page; 0 takes one that is free."""
    token: str | None = None
    """What requests must bring, 16 characters at least; by default none on this machine alone, and else one that is
    made and printed. Other people on this machine can see what a command was given."""
    batch_size: int = LARGEST_BATCH
    """Pictures, texts or prompts that the model takes at a time, a power of two; prompts at most 8."""
    batch_milliseconds: float = 1000 * PAUSE_SECONDS
    """That a request waits for others to share a batch with."""
    queue: int = MOST_WAITING
    """Calls to the model that may wait; more are answered by 503."""
    open: bool = True
    """Open the page in the browser."""
    template: str = "{}"
    """What labels are put into, such as "a photo of a {}"."""
    heat_map_cells: int | None = None
    """Rows and columns of heat maps; by default as many as take about two seconds."""

    def __post_init__(self):
        if not 0 <= self.port <= 65535:
            raise ValueError(f"--port must be 0 to 65535, got {self.port}.")
        if not self.host:
            raise ValueError("--host must be an address such as 127.0.0.1, got an empty one.")
        check_least(self, queue=1, batch_milliseconds=0)
        if not 1 <= self.batch_size <= MOST_BATCH or self.batch_size & (self.batch_size - 1):
            raise ValueError(f"--batch-size must be a power of two up to {MOST_BATCH}, got {self.batch_size}.")
        if self.token is not None:
            check_token(self.token)
        if self.template.count("{}") != 1:
            raise ValueError(
                f'--template must hold {{}} exactly once, as "a photo of a {{}}" does, got {self.template!r}.'
            )
        if self.heat_map_cells is not None and not 2 <= self.heat_map_cells <= MOST_CELLS:
            raise ValueError(f"--heat-map-cells must be 2 to {MOST_CELLS}, got {self.heat_map_cells}.")


def main(arguments: list[str] | None = None) -> int:
    """Shows the page until Ctrl-C or SIGTERM; returns the exit status."""
    options = parse(Demo(), arguments, program="python -m recipes.demo", description=__doc__)

    def imported_and_shown() -> int:
        from diptych.engine.answering import Answerer
        from diptych.engine.embedding.encoder import Encoder
        from diptych.engine.serving.attention import attention_of
        from diptych.models.pretrained import is_paligemma

        def open_model(name: str) -> Any:
            return Answerer.open(name, masks=options.masks) if is_paligemma(name) else Encoder.open(name)

        return show(options, open_model, attention_of)

    return exit_status(imported_and_shown, options)


def show(options: Demo, open_model: Callable[[str], Any], attention_of: Callable[[Any], Callable | None]) -> int:
    """Everything after the command line. `open_model` makes an `Encoder` or an `Answerer` of the model's name."""
    with DemoServer(host=options.host, port=options.port, token=options.token) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        serving.start()  # first of all: /health says that it loads, and a port that is taken is soon told
        try:
            with _terminated() as asked_to_end:
                server.answers = prepared(options, open_model, attention_of)
                _tell(options, server)
                asked_to_end.wait()
                print("\nEnding: what was asked is answered still.", flush=True)
                left = server.drain()
                print(f"The demo has ended; {left} connections were cut off." if left else "The demo has ended.")
        except KeyboardInterrupt:
            server.shutdown()
            print("\nThe demo has ended.", flush=True)
        finally:
            if server.answers is not None:
                server.answers.close()
    return 0


def prepared(
    options: Demo, open_model: Callable[[str], Any], attention_of: Callable[[Any], Callable | None]
) -> Answers | PromptAnswers:
    """The answers to what the page asks: the model opened, the gallery embedded or opened."""
    name = options.model or (IndexFolder(options.index).card["model"] if options.index else DEFAULT_MODEL)
    print(f"Opening {name}", flush=True)
    model = open_model(name)
    shared: dict[str, Any] = {
        "model": Path(name).name,
        "source": str(name),
        "batcher": Batcher(most_waiting=options.queue, pause_seconds=options.batch_milliseconds / 1000),
        "largest_batch": options.batch_size,
    }
    if hasattr(model, "answers"):
        if options.index is not None:
            raise ValueError(f"{name} is a PaliGemma, which searches nothing: leave --index away.")
        return PromptAnswers(model, Examples(), prompts=PROMPTS, **shared)
    gallery = index_gallery(options.index, model, name) if options.index else embedded_gallery(model)
    answers = Answers(
        model,
        gallery,
        Examples(),
        queries=QUERIES,
        template=options.template,
        cells=options.heat_map_cells,
        attention=attention_of(model),
        **shared,
    )
    answers.search(text=QUERIES[0])  # compiles, so that who looks first need not wait
    print(f"{len(gallery):,} images to search: {gallery.name}. Heat maps of {answers.cells} x {answers.cells} cells.")
    return answers


def _tell(options: Demo, server: DemoServer) -> None:
    print(f"\n  {server.page}\n", flush=True)
    if not is_loopback(options.host):
        print("Others reach it by this machine's name. What they send is not encrypted, the token neither: put a proxy")
        print("with TLS before it, or leave --host away and let them come through ssh.")
    print("Ctrl-C ends it.", flush=True)
    if options.open and _has_screen():
        webbrowser.open(server.page)


@contextmanager
def _terminated() -> Iterator[threading.Event]:
    """An event that SIGTERM sets; without an effect outside the main thread, where no signals arrive."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def _has_screen() -> bool:
    """Whether a browser would open in a window; one in the terminal would take the terminal."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


if __name__ == "__main__":
    sys.exit(main())
