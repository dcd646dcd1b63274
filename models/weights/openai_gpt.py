"""OpenAI's order of GPT-1's weights, which have no names: positions, tokens, then twelve of each block."""

from pathlib import Path

from diptych.core.weights.files import WeightFiles
from diptych.core.weights.flat_shards import write_flat_shards
from diptych.core.weights.mapping import LEADING_AXIS, Arrays, Rule, Table, WeightsMismatch
from diptych.models.gpt.config import GPTConfig

HEAD_WIDTH = 64
"""Of the released model: the shapes of weights do not say into how many heads a layer is divided."""

_OF_BLOCK = (
    ("attention/qkv_kernel", LEADING_AXIS),
    ("attention/qkv_bias", None),
    ("attention/out_kernel", LEADING_AXIS),
    ("attention/out_bias", None),
    ("attention_norm/scale", None),
    ("attention_norm/bias", None),
    ("mlp/in_kernel", LEADING_AXIS),
    ("mlp/in_bias", None),
    ("mlp/out_kernel", LEADING_AXIS),
    ("mlp/out_bias", None),
    ("mlp_norm/scale", None),
    ("mlp_norm/bias", None),
)
"""What a block's weights are here. Kernels are those of convolutions of width one there, [1, in, out]."""


def table(config: GPTConfig, files: WeightFiles | None = None) -> Table:
    """Our names and their places."""
    rules = [Rule("decoder/position_embedding/embedding", "0"), Rule("decoder/token_embedding/embedding", "1")]
    for layer in range(config.depth):
        for place, (name, layout) in enumerate(_OF_BLOCK, 2 + layer * len(_OF_BLOCK)):
            ours = f"decoder/block_{layer:02d}/{name}"
            rules.append(Rule(ours, str(place), layout) if layout else Rule(ours, str(place)))
    return Table(rules)


def config_of(files: WeightFiles) -> GPTConfig:
    """The sizes that the shapes say, with heads of 64.

    Raises:
        WeightsMismatch: for a list of shapes that is none of a GPT.
    """
    shapes = files.shapes
    depth, left_over = divmod(len(shapes) - 2, len(_OF_BLOCK))
    if depth < 1 or left_over or len(shapes["0"]) != 2 or len(shapes["1"]) != 2 or len(shapes["8"]) != 3:
        raise WeightsMismatch(
            f"{files.source} lists {len(shapes)} weights, beginning with {list(shapes.values())[:3]}; expected a table "
            f"of positions, one of tokens, and {len(_OF_BLOCK)} weights for each block."
        )
    (context_length, width), (vocab_size, _), (_, _, mlp_dim) = shapes["0"], shapes["1"], shapes["8"]
    if width % HEAD_WIDTH:
        raise WeightsMismatch(
            f"{files.source} is of a GPT of width {width}. These files do not say how many heads it has, and they are "
            f"taken for {HEAD_WIDTH} wide, of which {width} is no multiple."
        )
    return GPTConfig(
        width=width,
        depth=depth,
        mlp_dim=mlp_dim,
        num_heads=width // HEAD_WIDTH,
        vocab_size=vocab_size,
        context_length=context_length,
    )


def write(folder: Path, config: GPTConfig, arrays: Arrays) -> None:
    """Writes the list of shapes and the ten shards of a model; raises ValueError for what they cannot say."""
    if config.width != config.num_heads * HEAD_WIDTH:
        raise ValueError(
            f"OpenAI's files do not say how many heads a model has, and are read with heads of {HEAD_WIDTH}; here they "
            f"are {config.width // config.num_heads} wide. Use format 'transformers' or 'diptych'."
        )
    d, m = config.width, config.mlp_dim
    block = [(1, d, 3 * d), (3 * d,), (1, d, d), (d,), (d,), (d,), (1, d, m), (m,), (1, m, d), (d,), (d,), (d,)]
    shapes = [(config.context_length, d), (config.vocab_size, d), *(block * config.depth)]
    write_flat_shards(folder, shapes, (tensor for _, tensor in table(config).save(arrays)))
