"""The manual: what is generated for it, and its settings."""
