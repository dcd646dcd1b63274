"""The judge of every backend: float64 NumPy, written for reading, with gradients derived by hand.

A function returns its value and a `backward`, which takes the gradient of the loss with respect to that value and
returns those with respect to the arguments. Finite differences confirm each of them in the tests beside these files.
Nothing here imports Keras, and nothing here is fast.

Legend of shapes: b batch, n tokens, w width, h heads, d head width, m mlp_dim, p patch size, e embedding width.
"""
