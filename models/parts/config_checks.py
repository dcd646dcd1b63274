"""Checks that configurations of several families share."""


def require(condition: bool, message: str) -> None:
    """Raises ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def check_tower(config, *own_fields: str) -> None:
    """Raises ValueError unless the sizes that all towers have, and the named ones, are positive and fit each other."""
    for field in ("width", "depth", "mlp_dim", "num_heads", *own_fields):
        value = getattr(config, field)
        require(isinstance(value, int) and value > 0, f"{field} must be a positive integer, got {value!r}.")
    require(
        config.embed_dim is None or (isinstance(config.embed_dim, int) and config.embed_dim > 0),
        f"embed_dim must be a positive integer, or None for no projection, got {config.embed_dim!r}.",
    )
    require(
        config.width % config.num_heads == 0,
        f"width must be a multiple of num_heads, got width {config.width} and {config.num_heads} heads.",
    )


def check_activation(config) -> None:
    """Raises ValueError for an activation that is not known."""
    known = ("quick_gelu", "gelu", "gelu_tanh")
    require(config.activation in known, f"activation must be one of {', '.join(known)}, got {config.activation!r}.")


def check_pair(config) -> None:
    """Raises ValueError unless two towers meet in one width."""
    require(config.init_logit_scale > 0, f"init_logit_scale must be positive, got {config.init_logit_scale}.")
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
