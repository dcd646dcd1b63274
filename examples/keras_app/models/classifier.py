"""A classifier on top of any image embedder."""

import keras


def classifier(embedder: keras.Model, classes: int) -> keras.Model:
    """Images -> class probabilities [batch, classes]."""
    images = keras.Input(embedder.input_shape[1:])
    return keras.Model(images, keras.layers.Dense(classes, activation="softmax")(embedder(images)))
