"""diptych: the SigLIP family of image-text models, defined once in Keras 3 for jax, torch and tensorflow."""

__version__ = "0.1.0"
