"""Credentials: the token that a server is shown so that it gives what not everybody may read."""

import os

_HUB = "https://huggingface.co"


def hub_address() -> str:
    """The Hugging Face hub: HF_ENDPOINT, as huggingface_hub reads it."""
    return os.environ.get("HF_ENDPOINT", _HUB).rstrip("/")


def token_for(url: str) -> str | None:
    """The hub's token for an address of the hub's: HF_TOKEN, or what `hf auth login` has stored; None elsewhere."""
    if not url.startswith(f"{hub_address()}/"):
        return None
    token = os.environ.get("HF_TOKEN", "").strip()
    if token:
        return token
    try:
        from huggingface_hub import get_token
    except ImportError:
        return None
    return get_token()
