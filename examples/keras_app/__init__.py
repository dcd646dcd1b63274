"""A Keras app as somebody else writes it: in a folder of its own, with a `models` folder of its own."""
