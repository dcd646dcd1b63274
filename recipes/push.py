"""A trained model to the Hugging Face hub, with a model card of what its run knows.

Command:   python -m recipes.push runs/siglip hf://owner/name
First:     python -m recipes.push runs/siglip hf://owner/name --dry-run
Its card:  python -m recipes.push runs/siglip hf://owner/name --license apache-2.0 --judged runs/judged/results.json

Makes the repository if it is missing and uploads weights, configuration, tokenizer and README.md in one commit;
`from_preset("hf://owner/name")` then gives the same weights. Interrupted, the same command goes on: what has arrived is
not sent again. The token is that of `hf auth login` or HF_TOKEN. A README.md that somebody edited is uploaded as it
is. The card holds the run's command and options, local paths among them: read it before, in the run's model/ folder.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from diptych.core.evaluation.judged import Evaluated
from diptych.core.report.finds_picture import FINDS, finds_captions, finds_png
from diptych.core.report.model_card import MODEL_CARD, Stated
from diptych.core.report.run.contents import ReportData, Samples
from diptych.core.report.tables import text_table
from diptych.core.weights.hub import preset_folder, repository_of
from diptych.core.weights.hub_push import push
from diptych.core.weights.open import PICKLES
from diptych.engine.command_line import parse
from diptych.engine.failures import exit_status
from diptych.engine.run_card import stated_card


@dataclass(frozen=True, kw_only=True)
class Push:
    """What goes where."""

    words: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN ADDRESS")] = ()
    """A finished run, one of its stages, its best/ folder, or any folder that from_preset reads; and hf://owner/name."""
    private: bool = False
    """Make the repository private; one that is there must be so."""
    license: str | None = None
    """Of the weights, by the hub's name for it: apache-2.0, mit, cc-by-4.0, ... Without it the card says that none was
    stated."""
    datasets: tuple[str, ...] = ()
    """Data sets of the hub that it was trained on (owner/name), for the card."""
    judged: Path | None = None
    """results.json of recipes.evaluate on this model, for the card."""
    picture: bool = False
    """Put a picture into the card: held-out pictures that the model finds for captions. They become as public as the
    repository."""
    message: str = "Upload by diptych"
    """Of the commit."""
    dry_run: bool = False
    """Say which files would go, and how large they are, and stop."""


def main(arguments: list[str] | None = None) -> int:
    """Pushes; returns the exit status."""
    options = parse(Push(), arguments, program="python -m recipes.push", description=__doc__)
    return exit_status(lambda: push_model(options), options)


def push_model(options: Push) -> int:
    """Everything after the command line."""
    if len(options.words) != 2:
        raise ValueError(f"expected a run and a repository, such as runs/siglip hf://owner/name, got {options.words}.")
    model, address = options.words
    repository, _ = repository_of(address)
    folder = model_folder(model)
    files, left_out = files_of(folder)
    judged = _evaluation(options.judged) if options.judged else None
    samples = _samples(folder) if options.picture else None
    stated = Stated(
        name=repository.partition("/")[2],
        address=address,
        license=options.license,
        datasets=options.datasets,
        picture=FINDS if samples else None,
        captions=tuple(finds_captions(samples)) if samples else (),
    )
    files = {MODEL_CARD: stated_card(folder, stated, judged).encode(), **files}
    if samples:
        files[FINDS] = finds_png(samples)
    sizes = {name: len(file) if isinstance(file, bytes) else file.stat().st_size for name, file in files.items()}
    rows = [[name, f"{size / 1e6:,.3f}"] for name, size in sizes.items()]
    print(text_table(["file", "MB"], [*rows, [f"{len(files)} files", f"{sum(sizes.values()) / 1e6:,.3f}"]]))
    if left_out:
        print(f"Left out: {', '.join(left_out)}.")
    if options.dry_run:
        print(f"Nothing was uploaded. They would go from {folder} to {address}.", flush=True)
        return 0
    print(f"From {folder} to {address} ...", flush=True)
    commit = push(files, address, private=options.private, message=options.message)
    print(f"Pushed: {commit}\nRead it with from_preset({address!r}).", flush=True)
    return 0


def model_folder(model: str) -> Path:
    """The folder of a checkpoint that a name stands for: that of a run is its model/.

    Raises:
        ValueError: for an address, a single file, and a run whose stages have a model each.
        FileNotFoundError: for a run that has not ended.
    """
    if "://" in model:
        raise ValueError(f"{model} is no folder; give a run or a folder of a checkpoint.")
    path = preset_folder(model)
    if not path.is_dir():
        raise ValueError(f"{path} is a file; give the folder that it lies in, with its configuration.")
    if not (path / "card.json").is_file():
        return path
    if (path / "model").is_dir():
        return path / "model"
    stages = sorted(found.parent.name for found in path.glob("*/model/"))
    if stages:
        raise ValueError(f"{path} is a run in stages, which have a model each: give {path / stages[-1]}, or another.")
    raise FileNotFoundError(f"{path} holds no model: the run has not ended. {path / 'best'} is its best so far.")


def files_of(folder: Path) -> tuple[dict[str, Path | bytes], list[str]]:
    """The files of a checkpoint by name, and the names of what is left out: folders, pickles and hidden files."""
    entries = sorted(folder.iterdir())
    taken = [
        path for path in entries if path.is_file() and not path.name.startswith(".") and path.suffix not in PICKLES
    ]
    left_out = [path.name for path in entries if path not in taken]
    return {path.name: path for path in taken if path.name != MODEL_CARD}, left_out


def _evaluation(path: Path) -> Evaluated:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not readable as JSON: {error}.") from None
    if not isinstance(found, Mapping) or not {"results", "model"} <= found.keys():
        raise ValueError(f"{path} holds no evaluation: give results.json of recipes.evaluate.")
    return found  # type: ignore[return-value]


def _samples(folder: Path) -> Samples:
    """The held-out pictures and captions that the run of a model kept for its report."""
    path = folder.parent / "report_data.npz"
    samples = ReportData.load(path).samples if path.is_file() else None
    if samples is None:
        raise ValueError(f"{folder.parent} kept no pictures with captions to show; leave out --picture.")
    return samples


if __name__ == "__main__":
    sys.exit(main())
