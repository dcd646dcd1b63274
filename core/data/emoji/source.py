"""The embedded data as a source of records: drawings by several designers, names in 36 languages."""

import hashlib
import zipfile
from collections.abc import Iterator, Sequence

from diptych.core.data.emoji.concepts import (
    CONCEPTS_PATH,
    DESIGNERS,
    HELD_OUT_DESIGNER,
    LANGUAGES,
    Concept,
    concepts,
    designer_path,
)
from diptych.core.data.records import BadExample, Caption, Record

SPLITS = ("train", "held_out", "all")
KEYWORDS_A_CAPTION = 3  # one alone ("face") fits a hundred concepts, all together exceed a short context
KEYWORDS_WEIGHT = 0.1  # of a language's keyword captions together; its name weighs 1


class EmojiSource:
    """One record a concept: its drawings by the chosen designers, its names (and keywords) in the chosen languages.

    Arguments:
        split: "train" (nine tenths of the concepts), "held_out" (the others) or "all".
        designers: of DESIGNERS; None is all but HELD_OUT_DESIGNER.
        languages: of LANGUAGES; a concept without a name in one of them has no caption there.
        keywords: whether each language adds captions of up to three keywords, joined by ", "; all of them together
            weigh a tenth of the name.

    Image references are (designer, hexcode). Concepts without a drawing by the chosen designers, or without a caption,
    are left out. Raises ValueError on unknown names.
    """

    def __init__(
        self,
        split: str = "train",
        designers: Sequence[str] | None = None,
        languages: Sequence[str] = LANGUAGES,
        keywords: bool = True,
    ) -> None:
        if designers is None:
            designers = [designer for designer in DESIGNERS if designer != HELD_OUT_DESIGNER]
        _check("split", [split], SPLITS)
        _check("designers", designers, DESIGNERS)
        _check("languages", languages, LANGUAGES)
        self.split = split
        self.designers = tuple(designers)
        self.languages = tuple(languages)
        self.keywords = keywords
        self._archives: dict[str, zipfile.ZipFile] = {}
        self._records: dict[int, Record] = {}
        drawn = {designer: set(self._archive(designer).namelist()) for designer in self.designers}
        self._entries: list[tuple[Concept, tuple[str, ...]]] = []
        for concept in concepts():
            by = tuple(designer for designer in self.designers if f"{concept.hexcode}.webp" in drawn[designer])
            named = any(language in concept.names for language in self.languages)
            if by and named and split in ("all", concept.split):
                self._entries.append((concept, by))

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Record]:
        return (self.record(index) for index in range(len(self)))

    def concept(self, index: int) -> Concept:
        """The concept behind a record: its group, its emoji."""
        return self._entries[index][0]

    def record(self, index: int) -> Record:
        """The record's key is the concept's hexcode, its label the concept's group; captions are grouped by language, a
        language's name first.
        """
        if index not in self._records:
            self._records[index] = self._make_record(index)
        return self._records[index]

    def _make_record(self, index: int) -> Record:
        concept, designers = self._entries[index]
        captions = []
        for language in self.languages:
            if language in concept.names:
                captions.append(Caption(concept.names[language], language))
                if self.keywords:
                    captions += _keyword_captions(concept.keywords[language], language)
        images = tuple((designer, concept.hexcode) for designer in designers)
        return Record(key=concept.hexcode, images=images, captions=tuple(captions), labels=(concept.group,))

    def read(self, reference: tuple[str, str]) -> bytes:
        """The WebP file of a drawing, given (designer, hexcode); raises BadExample when there is none."""
        designer, hexcode = reference
        try:
            return self._archive(designer).read(f"{hexcode}.webp")
        except KeyError as error:
            raise BadExample("image_missing", f"{designer} has no drawing of {hexcode}") from error

    def fingerprint(self) -> str:
        """Hash of the arguments and of the files' contents."""
        captions = (self.languages, self.keywords and (KEYWORDS_A_CAPTION, KEYWORDS_WEIGHT))
        digest = hashlib.sha256(repr((self.split, self.designers, captions)).encode())
        for path in (CONCEPTS_PATH, *map(designer_path, self.designers)):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def __reduce__(self) -> tuple:
        return type(self), (self.split, self.designers, self.languages, self.keywords)

    def _archive(self, designer: str) -> zipfile.ZipFile:
        if designer not in self._archives:
            self._archives[designer] = zipfile.ZipFile(designer_path(designer))
        return self._archives[designer]


def evaluation_set(
    split: str = "all", designer: str = HELD_OUT_DESIGNER, languages: Sequence[str] = LANGUAGES
) -> EmojiSource:
    """Records with exactly one drawing each, by one designer, and one caption a language: the concept's name."""
    return EmojiSource(split, (designer,), languages, keywords=False)


def _keyword_captions(keywords: Sequence[str], language: str) -> list[Caption]:
    count = -(-len(keywords) // KEYWORDS_A_CAPTION)
    groups = (keywords[start::count] for start in range(count))  # strided: CLDR lists keywords by alphabet
    return [Caption(", ".join(group), language, KEYWORDS_WEIGHT / count) for group in groups]


def _check(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    if isinstance(given, str):
        raise ValueError(
            f"EmojiSource(): {what} is the text {given!r}; give a sequence of names, such as ({given!r},)."
        )
    unknown = [name for name in given if name not in known]
    if unknown or not given:
        raise ValueError(f"EmojiSource(): {what} has {unknown or 'nothing'}; expected some of {', '.join(known)}.")
