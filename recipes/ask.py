"""Questions about pictures: PaliGemma answers, describes, transcribes, finds and segments.

Command:   python -m recipes.ask --model hf://google/paligemma2-3b-mix-224 --images photo.jpg --prompt "detect cat"
Masks:     python -m recipes.ask --model FOLDER --images photo.jpg --prompt "segment cat" --masks vae-oid.npz
Choosing:  python -m recipes.ask --model FOLDER --images photo.jpg --prompt "answer en is it a cat?" --answers yes no

Prints the answer to each prompt about each picture. Where it names places, their boxes in pixels are printed too and,
with --output, drawn on the picture as a PNG, masks with them. With --answers the given ones are compared instead, by
their probability. Prompts are those of training: "caption en", "ocr", "answer en where is the cow standing?", "detect
cat ; dog", "segment cat"; mix models take others too. The newline that ends a prompt is added.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diptych.core.data.detections import Detections, parse_detections
from diptych.core.data.image import decode
from diptych.core.data.ledger import Skipped, reasons_with_names, visit
from diptych.core.data.sources.small import FileSource
from diptych.core.files.atomic import replacing
from diptych.core.report.detections_picture import with_detections
from diptych.core.report.ledger_text import tell_left_out
from diptych.engine.command_line import parse
from diptych.engine.failures import exit_status
from diptych.engine.flags import check_least


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What is asked about which pictures."""

    model: str = ""
    """A PaliGemma with its processor: a folder, or hf://owner/name."""
    images: tuple[Path, ...] = ()
    """Pictures, each asked about by itself."""
    prompt: tuple[str, ...] = ("caption en",)
    """Prompts, each about every picture."""
    answers: tuple[str, ...] = ()
    """Answers to choose from, by their probability; by default one is written."""
    together: bool = False
    """All pictures are one example, for a model that was trained to look at several."""
    steps: int = 64
    """Tokens of an answer, at most."""
    temperature: float | None = None
    """Draw tokens at this temperature; by default the likeliest are taken."""
    top_p: float = 1.0
    """Share of the probability that tokens are drawn from, where a temperature is given."""
    top_k: int | None = None
    """Number of likeliest tokens that are drawn from, where a temperature is given."""
    beams: int | None = None
    """Search for the most probable answer with so many beams, without a penalty of length, as big_vision does."""
    seed: int = 0
    """Of what is drawn."""
    dtype: str | None = None
    """"bfloat16" for weights of half the memory, "int8" for a quarter; by default float32."""
    masks: str | None = None
    """vae-oid.npz, the decoder of the codes that "segment" writes; without it, boxes alone are drawn."""
    output: Path | None = None
    """A PNG of the picture with what was found; where there are several, they are numbered."""
    batch_size: int = 8
    """Examples that the model takes at a time."""

    def __post_init__(self):
        check_least(self, steps=1, batch_size=1)
        if self.output is not None and self.output.suffix.lower() != ".png":
            raise ValueError(f"--output must be a PNG, such as answer.png, got {self.output}.")
        if self.masks is not None and self.output is None:
            raise ValueError("--masks says how masks are drawn, and nothing is: give --output answer.png.")


def main(arguments: list[str] | None = None) -> int:
    """Asks; returns the exit status."""
    options = parse(Ask(), arguments, program="python -m recipes.ask", description=__doc__)

    def imported_and_asked() -> int:
        from diptych.engine.answering import Answerer

        return ask(options, Answerer.open)

    return exit_status(imported_and_asked, options)


def ask(options: Ask, open_answerer: Callable[..., Any]) -> int:
    """Everything after the command line. `open_answerer` is `Answerer.open`."""
    if not (options.model and options.images and options.prompt):
        raise ValueError('nothing to ask: give --model FOLDER --images photo.jpg --prompt "caption en".')
    names, pictures = _pictures(options.images)
    given: Sequence[Any] = [pictures] if options.together else pictures
    shown = [" and ".join(names)] if options.together else names
    answerer = open_answerer(
        options.model, masks=options.masks, dtype=options.dtype, pictures=len(pictures) if options.together else 1
    )
    places = [place for place in range(len(given)) for _ in options.prompt]
    prompts = list(options.prompt) * len(given)
    asked = [given[place] for place in places]
    if options.answers:
        _choose(answerer, options, [shown[place] for place in places], asked, prompts)
        return 0
    choices = {"temperature": options.temperature, "top_p": options.top_p, "top_k": options.top_k}
    if options.beams is not None:
        choices |= {"beams": options.beams, "length_penalty": 0.0}
    told = answerer.answers(
        asked, prompts, steps=options.steps, batch_size=options.batch_size, seed=options.seed, **choices
    )
    outputs = _outputs(options.output, len(told))
    for place, prompt, text in zip(places, prompts, told, strict=True):
        print(f"{shown[place]}: {prompt}\n  {text}")
        detections = parse_detections(text)
        picture = asked[0][0] if options.together else pictures[place]
        _print(detections, picture)
        output = next(outputs)
        if output is not None:
            masks = answerer.masks(detections.found, *picture.shape[:2]) if options.masks else ()
            _draw(output, with_detections(picture, detections.found, masks))
    return 0


def _pictures(paths: Sequence[Path]) -> tuple[list[str], list[np.ndarray]]:
    """Names and pixels; pictures that cannot be used are named."""
    source, skipped = FileSource(paths), list[Skipped]()
    found = list(visit(source, lambda record: decode(source.read(record.key)), skipped=skipped))
    if not found:
        raise ValueError(f"none of {len(source):,} pictures could be used: {reasons_with_names(skipped)}.")
    if skipped:
        tell_left_out([source.ledger])
    return [source.paths[index] for index, _ in found], [picture for _, picture in found]


def _choose(answerer: Any, options: Ask, names: Sequence[str], asked: Sequence[Any], prompts: Sequence[str]) -> None:
    """Prints the given answers to each prompt, the likeliest first, with their shares of the probability of all."""
    count = len(options.answers)
    scores = answerer.log_probabilities(
        [picture for picture in asked for _ in range(count)],
        [prompt for prompt in prompts for _ in range(count)],
        list(options.answers) * len(prompts),
        batch_size=options.batch_size,
    ).reshape(-1, count)
    for name, prompt, row in zip(names, prompts, scores, strict=True):
        shares = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        print(f"{name}: {prompt}")
        for place in np.argsort(-row, kind="stable"):
            print(f"  {shares[place]:6.1%}  {options.answers[place]}  (log p {row[place]:.2f})")


def _print(detections: Detections, picture: np.ndarray) -> None:
    for one in detections.found:
        top, left, bottom, right = one.pixel_box(*picture.shape[:2])
        print(f"  {one.label or 'unnamed'}: rows {top} to {bottom}, columns {left} to {right}")
    if detections.found and detections.unreadable:
        print(f"  {len(detections.unreadable)} parts are no boxes: {', '.join(detections.unreadable)}")


def _outputs(output: Path | None, count: int) -> Iterator[Path | None]:
    for number in range(1, count + 1):
        numbered = output is not None and count > 1
        yield output.with_stem(f"{output.stem}_{number}") if numbered and output is not None else output


def _draw(output: Path, picture: np.ndarray) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(output) as file:
        Image.fromarray(picture).save(file, format="PNG")
    print(f"  Picture: {output.resolve().as_uri()}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
