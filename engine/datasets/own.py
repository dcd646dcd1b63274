"""Data of one's own: a folder, shards, tables or COCO's JSON, of which a part is held out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from diptych.core.data.emoji import TOKENIZER_PATH
from diptych.core.data.ledger import Skipped, ledger_of, visit
from diptych.core.data.records import UNKNOWN_LANGUAGE, Source
from diptych.core.data.sampling import OTHER_LANGUAGES
from diptych.core.data.sources.balance_file import BalanceFile
from diptych.core.data.sources.files import evenly
from diptych.core.data.sources.languages import records_by_language
from diptych.core.data.sources.mixture import LanguageMixture
from diptych.core.data.sources.open import open_source
from diptych.core.data.sources.subset import Subset
from diptych.core.files.cache_folder import index_folder
from diptych.core.report.mixture_table import mixture_table
from diptych.core.training.recipe import Data
from diptych.engine.datasets.data_set import DataSet, Sources

HELD_OUT = "Held-out pairs"
RECORDS_ASKED, MORE_ASKED = 256, 16  # for captions, before data is taken to have none


def own(data: Data) -> DataSet:
    """What `data.train_data` names, judged on `data.val_data`, or on a fraction that is held out by key."""

    def sources(seed: int) -> Sources:
        found = parted(data, open_captioned, HELD_OUT)
        return replace(found, train=mixed(balanced(found.train, data, seed), data, seed))

    return DataSet(name=data.train_data, sources=sources, tokenizer=TOKENIZER_PATH)


def parted(data: Data, opened: Callable[[str, Data], Source], name: str) -> Sources:
    """What is trained on, and what is judged by, which gets a name: --val-data, or a fraction held out by key.

    Raises:
        ValueError: where nothing is held out.
    """
    train = opened(data.train_data, data)
    if data.val_data is not None:
        held_out = opened(data.val_data, data)
        if Path(data.val_data).resolve() == Path(data.train_data).resolve():
            print("--val-data is what is trained on: what is judged says nothing of new pictures", flush=True)
        return Sources(train=train, held_out={name: held_out})
    part = Subset(train, fraction=data.val_fraction, held_out=True)
    train = Subset(train, fraction=data.val_fraction, held_out=False)
    if not len(part):
        raise ValueError(
            f"No record of {data.train_data} falls into the held-out {data.val_fraction:.3g}. Raise "
            f"--val-fraction or give --val-data.{ledger_of(train).what_was_seen()}"
        )
    return Sources(train=train, held_out={name: part})


def open_captioned(spec: str, data: Data) -> Source:
    """The source that a text stands for; raises ValueError where none of the records that are looked at has a
    caption: the first ones, then some of all.
    """
    source = open_source(spec, index_folder=index_folder(), reading=data.reading)
    everything, unreadable = range(len(source)), list[Skipped]()
    asked = dict.fromkeys([*everything[:RECORDS_ASKED], *evenly(everything, MORE_ASKED)])
    captioned = any(found for _, found in visit(source, lambda record: record.captions, asked, skipped=unreadable))
    if not captioned and (not asked or len(unreadable) < len(asked)):
        raise ValueError(
            f"none of the {len(asked)} records of {spec} that were looked at has a caption."
            f"{ledger_of(source).what_was_seen()} What is read is in docs/data.md; --caption-field names a field or "
            "column of another name."
        )
    return source


def balanced(source: Source, data: Data, seed: int) -> Source:
    """The records that balancing keeps, where it is asked for; says what it did."""
    if data.balance is None:
        return source
    file = BalanceFile.read(data.balance)
    kept = file.balanced(source, seed)
    print(file.told(kept), flush=True)
    return kept


def mixed(source: Source, data: Data, seed: int) -> Source:
    """The records in the shares of languages that are asked for; says how many of each there are."""
    share, temperature = data.english_share, data.language_temperature
    if share is None and temperature == 1:
        return source
    if records_by_language(source).keys() == {UNKNOWN_LANGUAGE}:
        print("No record names its language: they are taken as they come.", flush=True)
        return source
    shares = None
    if share is not None:
        shares = {name: part for name, part in (("en", share), (OTHER_LANGUAGES, 1 - share)) if part}
    mixture = LanguageMixture(source, shares=shares, temperature=temperature, seed=seed)
    print(mixture_table(mixture), flush=True)
    return mixture
