"""Runnable recipes: `KERAS_BACKEND=jax python -m recipes.siglip`."""
