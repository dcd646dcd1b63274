"""Towers and whole models, each defined once in Keras 3."""
