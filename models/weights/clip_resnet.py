"""CLIP's ResNet image towers under OpenAI's names, which open_clip kept: "visual.layer1.0.conv1.weight"."""

from collections.abc import Iterator

from diptych.core.weights.mapping import CONV, STACKED, STACKED_TRANSPOSED, TRANSPOSED, Rule
from diptych.models.clip.resnet_config import CLIPResNetConfig


def rules(config: CLIPResNetConfig, *, ours: str = "image", theirs: str = "visual") -> list[Rule]:
    """Every weight of the tower, the moving statistics of its norms included."""
    pool, attention = f"{ours}/attention_pool", f"{theirs}.attnpool"
    keys_and_values = [f"{attention}.k_proj", f"{attention}.v_proj"]
    found = [
        Rule(f"{pool}/position_embedding/embedding", f"{attention}.positional_embedding"),
        Rule(f"{pool}/query_kernel", f"{attention}.q_proj.weight", TRANSPOSED),
        Rule(f"{pool}/query_bias", f"{attention}.q_proj.bias"),
        Rule(f"{pool}/key_value_kernel", [f"{name}.weight" for name in keys_and_values], STACKED_TRANSPOSED),
        Rule(f"{pool}/key_value_bias", [f"{name}.bias" for name in keys_and_values], STACKED),
        Rule(f"{pool}/out_kernel", f"{attention}.c_proj.weight", TRANSPOSED),
        Rule(f"{pool}/out_bias", f"{attention}.c_proj.bias"),
    ]
    for our_part, their_part in _parts(config):
        found += [
            Rule(f"{ours}/{our_part}/conv_{number}/kernel", f"{theirs}.{their_part}conv{number}.weight", CONV)
            for number in (1, 2, 3)
        ]
        for number in (1, 2, 3):
            found += _norm(f"{ours}/{our_part}/norm_{number}", f"{theirs}.{their_part}bn{number}")
        if our_part.endswith("block_00"):
            found += [
                Rule(f"{ours}/{our_part}/shortcut_conv/kernel", f"{theirs}.{their_part}downsample.0.weight", CONV),
                *_norm(f"{ours}/{our_part}/shortcut_norm", f"{theirs}.{their_part}downsample.1"),
            ]
    return found


def _parts(config: CLIPResNetConfig) -> Iterator[tuple[str, str]]:
    """Our name and theirs of all that has three convolutions: the stem and the blocks."""
    yield "stem", ""
    for stage, depth in enumerate(config.stage_depths, 1):
        for block in range(depth):
            yield f"stage_{stage}/block_{block:02d}", f"layer{stage}.{block}."


def _norm(ours: str, theirs: str) -> list[Rule]:
    names = {"scale": "weight", "bias": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    return [Rule(f"{ours}/{name}", f"{theirs}.{their_name}") for name, their_name in names.items()]
