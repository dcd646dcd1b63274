"""A model's towers, or its decoder, as graphs that run without Keras: ONNX and others.

Command:    python -m recipes.export
Own model:  python -m recipes.export --model runs/siglip --output exported/ --format onnx

Writes image.onnx and text.onnx, from pictures and token ids to embeddings of length one; batches of any size, and for
NaFlex any number of patches. What a caller must know (inputs with shapes and ranges, mean and standard deviation,
context length, padding, lower case, logit scale and bias) is in the graphs' metadata_props, each value as JSON, and in
export.json; the processor's files lie beside it, in diptych's and, where it can express them, transformers' format.
Nothing is left in the folder unless the files were read again and gave the Keras model's embeddings of random inputs to
1e-4.

Of a model that writes, a PaliGemma, Gemma or GPT, decoder.onnx takes and gives the cache: one graph for the prompt and
for each token behind it; a PaliGemma's image.onnx makes the tokens that stand in front. export.json says the rules of
masks and positions. Nothing is left unless onnxruntime wrote the tokens that the Keras model writes behind random
prompts.

With --precision float16 or int8 the weights of ONNX files take half or a quarter of the space; what that costs in
recall on --data is printed and stands in export.json.

Formats and the backends that write them; where KERAS_BACKEND is not set, the first of them that is installed is taken.
Decoders are written in onnx alone.

    onnx          torch, or torch in a process of its own for jax and tensorflow
    openvino      the same
    saved_model   tensorflow, jax
    litert        tensorflow; NaFlex with a fixed number of patches
    torch_export  torch
    stablehlo     jax
    keras         torch, jax, tensorflow
"""

import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.backends.selection import BackendNotAvailable, select_backend
from diptych.core.data.sources.open import EMBEDDED
from diptych.core.files.cache_folder import index_folder
from diptych.core.files.json_objects import write_json
from diptych.core.report.tables import text_table
from diptych.engine.command_line import parse
from diptych.engine.export.formats import (
    FORMATS,
    FormatName,
    check_decoder,
    check_precision,
    choose_backend,
    compute_on_the_cpu,
)
from diptych.engine.export.smaller import Precision
from diptych.engine.export.writers import Job
from diptych.engine.failures import exit_status

if TYPE_CHECKING:
    from diptych.core.data.processor.processor import Processor
    from diptych.engine.export.check import Checked, Run
    from diptych.engine.export.recall import RecallCost
    from diptych.engine.export.towers import Tower

PROGRAM = "python -m recipes.export"
MODULE = "diptych.recipes.export"
CARD = "export.json"


@dataclass(frozen=True, kw_only=True)
class Export:
    """Which model, in which format, and where to."""

    model: str = "emoji_36_languages"
    """A trained model, of two towers or one that writes: a folder (of a checkpoint, or of a run), hf://owner/name, or
    emoji_36_languages."""
    output: Path = Path("runs/exported")
    """The folder that is written; files of the same names are replaced."""
    format: FormatName = "onnx"
    """onnx, openvino, saved_model, litert, torch_export, stablehlo or keras."""
    precision: Precision = "float32"
    """Of the weights: float32, and for onnx float16 or int8."""
    data: str = EMBEDDED
    """Pictures with captions, as recipes.evaluate takes them: recall on them is held against the model's own where
    --precision is not float32."""


def main(arguments: list[str] | None = None) -> int:
    """Exports; returns the exit status."""
    asked = os.environ.get("KERAS_BACKEND")  # parse sets it where it is unset
    options = parse(Export(), arguments, program=PROGRAM, description=__doc__)
    selected = os.environ["KERAS_BACKEND"]
    try:
        check_precision(options.format, options.precision)
        os.environ["KERAS_BACKEND"] = choose_backend(options.format, asked)
        select_backend()
    except (ValueError, BackendNotAvailable) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    if os.environ["KERAS_BACKEND"] != selected:
        print(f"--format {options.format} is written on KERAS_BACKEND={os.environ['KERAS_BACKEND']}.", flush=True)
    compute_on_the_cpu()

    def imported_and_exported() -> int:
        from diptych.engine.embedding.encoder import Encoder
        from diptych.models.pretrained import trained_preset, writes_texts

        if writes_texts(trained_preset(options.model)):
            return export_decoder(options)
        return export(options, lambda preset: Encoder.open(preset, dtype="float32"))

    return exit_status(imported_and_exported, options)


def export(options: Export, open_encoder: Callable[[str], Any]) -> int:
    """Everything after the command line. `open_encoder` makes an encoder of the model's name: `Encoder.open`, in
    float32.
    """
    from diptych.engine.export.check import check
    from diptych.engine.export.towers import towers

    chosen = FORMATS[options.format]
    encoder = open_encoder(options.model)
    both = towers(encoder, name=options.model, fixed_num_patches=chosen.fixed_num_patches)
    for tower in both:
        _refuse_too_large(tower, options.format)
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=options.output) as folder:
        job = Job(
            preset=options.model,
            module=MODULE,
            encoder=encoder,
            towers=both,
            folder=Path(folder),
            precision=options.precision,
        )
        with _step(f"Writing {options.format}"):
            chosen.write(job)
        checked, runs = {}, {}
        for tower in both:
            name = chosen.file.format(tower.name)
            with _step(f"Comparing the {tower.name} embeddings of {name} with the Keras model's"):
                runs[tower.name] = chosen.load(job, tower)
                checked[tower.name] = check(tower, runs[tower.name], name, precision=options.precision)
        cost = None
        if options.precision != "float32":
            with _step(f"Comparing recall on {options.data} with the Keras model's"):
                cost = _recall_cost(options.data, encoder.processor, both, runs)
        sizes = {tower.name: _bytes(job.folder, chosen.file.format(tower.name)) for tower in both}
        write_json(job.folder / CARD, _card(options.format, both, checked, options.precision, cost))
        _publish(job.folder, options.output)
    _write_processor(encoder.processor, options.output)
    print(_table(chosen.file, checked, sizes))
    if cost is not None:
        print(f"\n{_recall_table(cost, options.precision)}")
    print(f"{options.output} holds them. Read them with {chosen.reader}; {CARD} says what they take.", flush=True)
    return 0


def export_decoder(options: Export) -> int:
    """The same for a model that writes."""
    check_decoder(options.format, options.precision)
    from diptych.engine.export.decoder_check import check_writing
    from diptych.engine.export.decoders import graphs_of, open_writer
    from diptych.engine.export.writers import onnx_outputs

    chosen = FORMATS[options.format]
    model, processor, write_tokenizer = open_writer(options.model)
    graphs = {graph.name: graph for graph in graphs_of(model, processor, name=options.model)}
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=options.output) as name:
        folder = Path(name)
        job = Job(preset=options.model, module=MODULE, encoder=None, towers=tuple(graphs.values()), folder=folder)
        with _step(f"Writing {options.format}"):
            chosen.write(job)
        files = {name: chosen.file.format(name) for name in graphs}
        with _step("Comparing what they write with what the Keras model writes"):
            runs = {name: onnx_outputs(folder / file) for name, file in files.items()}
            found = check_writing(model, graphs, runs)
        card: dict[str, Any] = {"format": options.format, "reader": chosen.reader, "precision": options.precision}
        card |= {name: {"file": files[name], **graph.card} for name, graph in graphs.items()}
        card["checked"] = {
            "equal_tokens": found.tokens,
            "greatest_difference_of_logits": found.difference,
            "ties": found.ties,
        }
        sizes = {name: _bytes(folder, file) for name, file in files.items()}
        write_json(folder / CARD, card)
        _publish(folder, options.output)
    write_tokenizer(options.output)
    print(text_table(["graph", "file", "MB"], [[name, files[name], f"{sizes[name] / 1e6:,.2f}"] for name in graphs]))
    print(
        f"\n{found.tokens} tokens written by the files are the model's; logits differ by {found.difference:.1e} of the "
        f"largest{f', {found.ties} texts go apart at a tie' if found.ties else ''}."
    )
    rows = [
        [f"batch {size}", f"{first:.1f}", f"{found.token_ms[size]:.1f}", f"{1e3 * size / found.token_ms[size]:,.0f}"]
        for size, first in found.first_ms.items()
    ]
    print(f"\n{text_table(['', 'ms to the first token', 'ms a token', 'tokens a second'], rows)}")
    print(f"{options.output} holds them. Read them with {chosen.reader}; {CARD} says what they take.", flush=True)
    return 0


@contextmanager
def _step(what: str) -> Iterator[None]:
    """Says what is being done, and how long it took."""
    from rich.console import Console

    began = time.monotonic()
    with Console().status(f"{what} ..."):
        yield
    print(f"{what}: {time.monotonic() - began:.1f} s", flush=True)


def _recall_cost(
    dataset: str, processor: "Processor", both: Iterable["Tower"], runs: Mapping[str, "Run"]
) -> "RecallCost":
    from diptych.engine.export.recall import prepared_pairs, recall_cost
    from diptych.engine.judging.sets import open_dataset

    source = open_dataset(dataset, index_folder=index_folder()).sets[0].source
    pairs = prepared_pairs(source, processor, name=dataset)
    return recall_cost(pairs, {tower.name: tower.reference for tower in both}, runs, name=dataset)


def _recall_table(cost: "RecallCost", precision: Precision) -> str:
    rows = [
        [who, *(f"{share:.1%}" for share in found.values())]
        for who, found in (("the model", cost["model"]), (f"the files in {precision}", cost["file"]))
    ]
    return text_table([f"{cost['pairs']:,} captions of {cost['data']}", *cost["model"]], rows)


def _card(
    name: FormatName,
    both: Iterable["Tower"],
    checked: Mapping[str, "Checked"],
    precision: Precision,
    cost: "RecallCost | None",
) -> dict[str, Any]:
    """Everything that is known of the files, in JSON's types."""
    card: dict[str, Any] = {"format": name, "reader": FORMATS[name].reader, "precision": precision}
    if cost is not None:
        card["recall"] = cost
    for tower in both:
        found = checked[tower.name]
        card[tower.name] = {
            "file": FORMATS[name].file.format(tower.name),
            **tower.card,
            "checked": {"greatest_difference": found.difference, "random_inputs": found.compared},
        }
    return card


def _refuse_too_large(tower: "Tower", name: FormatName) -> None:
    size, most = 4 * tower.model.count_params(), FORMATS[name].most_bytes
    if most is not None and size > most:
        raise ValueError(
            f"The {tower.name} tower has {size / 1e9:.1f} GB of weights, a {name} file holds {most / 1e9:.1f} GB at "
            "most. Use --format onnx, which keeps them in files of their own."
        )


def _write_processor(processor: "Processor", folder: Path) -> None:
    processor.save_to_preset(folder)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        try:
            processor.save_to_preset(folder, format="transformers")
        except ValueError as error:
            print(f"Without transformers' files for the processor: {error}", flush=True)
    for note in notes:
        print(f"Note: {note.message}", flush=True)


def _bytes(folder: Path, name: str) -> int:
    """Of a tower's file with those that belong to it (image.onnx.data, image.bin), or folder."""
    path = folder / name
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return sum(file.stat().st_size for file in [*folder.glob(f"{name}*"), *folder.glob(f"{path.stem}.bin")])


def _publish(source: Path, output: Path) -> None:
    """Moves everything into the output folder, in place of what has the same names."""
    for path in sorted(source.iterdir(), key=lambda path: (path.name == CARD, path.name)):
        target = output / path.name
        Path(f"{target}.data").unlink(
            missing_ok=True
        )  # of an earlier, larger model; that of this one comes next in order
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)


def _table(file: str, checked: Mapping[str, "Checked"], sizes: dict[str, int]) -> str:
    rows = [
        [
            name,
            file.format(name),
            f"{sizes[name] / 1e6:,.2f}",
            f"{found.difference:.1e}",
            str(found.compared),
            *(f"{milliseconds:.3f}" for milliseconds in found.milliseconds.values()),
        ]
        for name, found in checked.items()
    ]
    batches = next(iter(checked.values())).milliseconds
    times = [f"ms/item, batch {batch}" for batch in batches]
    return text_table(["tower", "file", "MB", "greatest difference", "random inputs", *times], rows)


if __name__ == "__main__":
    sys.exit(main())
