"""The app's own models; no part of diptych."""

from models.classifier import classifier

__all__ = ["classifier"]
