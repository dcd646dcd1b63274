"""The folder in which is kept what would take long to read or to find out a second time."""

import math
import os
from pathlib import Path

FOLDER, GIGABYTES = "DIPTYCH_CACHE", "DIPTYCH_CACHE_GIGABYTES"
"""Environment variables: all recipes, and the processes that they start, share one cache."""
USUAL_GIGABYTES = 20.0


def cache_folder() -> Path:
    """What DIPTYCH_CACHE names, else `diptych` in XDG_CACHE_HOME or in ~/.cache; it may not exist yet."""
    given = os.environ.get(FOLDER)
    if given:
        return Path(given).expanduser().absolute()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "diptych"


def cache_gigabytes() -> float:
    """What DIPTYCH_CACHE_GIGABYTES allows for parts of remote files, 20 where it is not set; 0 keeps none on disk.

    Raises:
        ValueError: for what is no number of 0 or more.
    """
    given = os.environ.get(GIGABYTES) or USUAL_GIGABYTES
    try:
        gigabytes = float(given)
    except ValueError:
        gigabytes = math.nan
    if not 0 <= gigabytes < math.inf:
        raise ValueError(f"{GIGABYTES} is {given!r}, expected a number of gigabytes, 0 or more.")
    return gigabytes


def index_folder() -> Path:
    """Where the indices of shards are kept for data that have no other folder for them."""
    return cache_folder() / "indices"
