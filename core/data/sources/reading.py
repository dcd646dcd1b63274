"""The reading of data: the fields of images and captions, and the bad records that are put up with."""

from collections.abc import Sequence
from dataclasses import dataclass

from diptych.core.data.ledger import MAX_SKIPPED
from diptych.core.harmless import harmless


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the names of files do not tell (docs/data.md)."""

    caption_field: str | None = None
    """Field or column that holds the captions, such as prompt or title; by default caption, text, captions or texts."""
    image_field: str | None = None
    """Field or column that names or holds the images; by default file_name, image, filepath and the like."""
    label_field: str | None = None
    """Field or column that holds the class, or the classes; by default label, labels, class or cls."""
    max_skipped: float = harmless(1.0)
    """Share of a data set's records that may be bad, each counted once; with more the command ends and names them. One
    alone is never too many, unless this is 0."""

    def __post_init__(self):
        if not 0 <= self.max_skipped <= 1:
            raise ValueError(f"--max-skipped lies between 0 and 1, got {self.max_skipped}.")

    def captions_in(self, usual: Sequence[str]) -> tuple[str, ...]:
        """The fields that hold captions, where they usually are those given."""
        return (self.caption_field,) if self.caption_field else tuple(usual)

    def images_in(self, usual: Sequence[str]) -> tuple[str, ...]:
        """The fields that hold images, where they usually are those given."""
        return (self.image_field,) if self.image_field else tuple(usual)

    def labels_in(self, usual: Sequence[str]) -> tuple[str, ...]:
        """The fields that hold labels, where they usually are those given."""
        return (self.label_field,) if self.label_field else tuple(usual)


AS_USUAL = Reading()
TO_TRAIN = Reading(max_skipped=MAX_SKIPPED)
