"""Runnable recipes: `KERAS_BACKEND=jax python -m recipes.siglip`."""

if __name__ == "recipes":
    from diptych.checkout import alias_room

    alias_room(__name__)
