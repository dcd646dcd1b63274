"""Checks that configurations of several families share."""

import math

MAX_SIZE = 1 << 24
"""Of a width, a vocabulary, an image's side: far beyond any model, and few enough to be counted with."""
MAX_DEPTH = 1_000
"""Of a tower: layers are built one by one, whatever file asks for them."""


def require(condition: bool, message: str) -> None:
    """Raises ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def check_tower(config, *own_fields: str) -> None:
    """Raises ValueError unless the sizes that all towers have, and the named ones, are positive and fit each other."""
    for field in ("width", "depth", "mlp_dim", "num_heads", *own_fields):
        value = getattr(config, field)
        check_size(field, value, most=MAX_DEPTH if field == "depth" else MAX_SIZE)
    if config.embed_dim is not None:
        check_size("embed_dim", config.embed_dim, also=", or None for no projection")
    require(
        config.width % config.num_heads == 0,
        f"width must be a multiple of num_heads, got width {config.width} and {config.num_heads} heads.",
    )


def check_size(field: str, value, *, most: int = MAX_SIZE, also: str = "") -> None:
    """Raises ValueError unless a size is a whole number from 1 to `most`."""
    whole = isinstance(value, int) and not isinstance(value, bool) and value > 0
    require(whole, f"{field} must be a positive integer{also}, got {value!r:.100}.")
    require(value <= most, f"{field} must be at most {most:,}, got {value!r:.100}.")


def check_activation(config) -> None:
    """Raises ValueError for an activation that is not known."""
    known = ("quick_gelu", "gelu", "gelu_tanh")
    require(config.activation in known, f"activation must be one of {', '.join(known)}, got {config.activation!r}.")


def check_pair(config) -> None:
    """Raises ValueError unless two towers meet in one width."""
    scale, bias = config.init_logit_scale, getattr(config, "init_logit_bias", None)
    require(_is_finite(scale) and scale > 0, f"init_logit_scale must be positive, got {scale!r:.100}.")
    require(bias is None or _is_finite(bias), f"init_logit_bias must be a number, or None, got {bias!r:.100}.")
    require(
        config.max_logit_scale is None or config.max_logit_scale >= config.init_logit_scale,
        f"max_logit_scale must be at least init_logit_scale {config.init_logit_scale}, or None for no bound, got "
        f"{config.max_logit_scale}.",
    )
    require(
        config.vision.output_width == config.text.output_width,
        f"The towers' outputs differ in width: image {config.vision.output_width}, text {config.text.output_width}. "
        "Set embed_dim of one of them.",
    )


def _is_finite(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
