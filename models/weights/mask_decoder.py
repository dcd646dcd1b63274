"""The names of big_vision's `vae-oid.npz`, which are those of torch's Sequential.

Reference: big_vision `evaluators/proj/paligemma/transfers/segmentation.py`. The encoder beside the decoder is not read.
"""

from collections.abc import Iterable
from pathlib import Path

from diptych.core.weights.files import WeightFiles
from diptych.core.weights.mapping import CONV, SAME, Arrays, Rule, Table
from diptych.core.weights.npz import write_npz
from diptych.models.paligemma.mask_decoder_config import DOUBLINGS, MaskDecoderConfig

CODES = "_vq_vae._embedding"
FILE = "vae-oid.npz"
_IGNORED = ("encoder.*", "_vq_vae._ema*")
_FIRST_BLOCK = 2


def is_mask_decoder(names: Iterable[str]) -> bool:
    """Whether an archive is of this kind."""
    return CODES in names


def config_of(files: WeightFiles) -> MaskDecoderConfig:
    """By the shapes; raises KeyError for an archive without one of the names."""
    codes, code_width = files.shapes[CODES]
    depth = sum(f"decoder.{_FIRST_BLOCK + block}.net.0.weight" in files.shapes for block in range(len(files.shapes)))
    width = files.shapes["decoder.0.weight"][0]
    return MaskDecoderConfig(codes=codes, code_width=code_width, width=width, depth=depth)


def table(config: MaskDecoderConfig, _: WeightFiles | None = None) -> Table:
    """torch's numbers count the activations between the layers as well."""
    after = _FIRST_BLOCK + config.depth
    layers = {"in": "decoder.0", "out": f"decoder.{after + 2 * DOUBLINGS}"}
    layers |= {f"doubling_{number}": f"decoder.{after + 2 * number}" for number in range(DOUBLINGS)}
    for block in range(config.depth):
        layers |= {f"block_{block}_{n}": f"decoder.{_FIRST_BLOCK + block}.net.{2 * n}" for n in range(3)}
    rules = [Rule("codes_grid/embedding", CODES, SAME)]
    for ours, theirs in layers.items():
        # Of a transposed convolution torch has [in, out, ...] and Keras [..., out, in]: the same turn.
        rules += [Rule(f"{ours}/kernel", f"{theirs}.weight", CONV), Rule(f"{ours}/bias", f"{theirs}.bias")]
    return Table(rules, ignored=_IGNORED)


def write(folder: Path, config: MaskDecoderConfig, arrays: Arrays) -> None:
    """Writes the archive, without an encoder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_npz(folder / FILE, table(config).save(arrays))
