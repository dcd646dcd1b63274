"""targets.json beside a decoder's weights: how it writes boxes and prompts, without which it cannot be asked again."""

from pathlib import Path

from diptych.core.data.examples.captioning import CaptionTargets
from diptych.core.files.json_objects import read_json, write_config


def write_targets(folder: Path, targets: CaptionTargets) -> None:
    """Writes what `read_targets` needs besides the decoder and the tokenizer of the folder."""
    fields = {
        "bins": targets.bins,
        "order": targets.order,
        "prompts": list(targets.prompts),
        "separator": targets.separator,
    }
    write_config(folder / "targets.json", fields)


def read_targets(folder: Path) -> CaptionTargets:
    """How a stage's decoder was taught to write.

    Raises:
        FileNotFoundError: for a folder without a decoder.
    """
    if not (folder / "targets.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no decoder: expected captioner.json and targets.json, which `python -m recipes.siglip2` "
            "leaves in each stage's model folder that learns captions."
        )
    settings = read_json(folder / "targets.json")
    settings["prompts"] = tuple(settings["prompts"])
    (tokenizer,) = (path for path in folder.glob("tokenizer.*") if path.suffix in (".model", ".json"))
    length = read_json(folder / "captioner.json")["config"]["context_length"]
    return CaptionTargets(tokenizer_path=tokenizer, context_length=length, **settings)
