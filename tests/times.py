"""Times and memory of the checks: measured by nox, recorded in `recorded_times.json`, printed at the end of `.ci/run`.

    python -m tests.times           the minutes of each part, the largest process and the twenty slowest tests of the
    last run python -m tests.times --record  the same, and the new record

nox leaves its report in `.nox/times/`, and the plugin of the tests a file for each part, with a line of JSON a test:
the seconds of its set-up, its call and its tear-down. The record names each test that takes a second; of the others it
holds the sum, by file, so that it changes where something changed.
"""

import argparse
import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import median

from tests.tree import ROOT

MEASURED = ROOT / ".nox" / "times"
SESSIONS = "sessions.json"
RECORD = ROOT / "tests" / "recorded_times.json"
BUDGET_MINUTES = 40
"""The longest that everything may take on two quiet cores."""
QUICK_SECONDS = 1.0
"""The longest test of `nox -s quick`."""
SLOWEST = 20
PROCESSES = 4
"""Side by side, where the record was made."""
GROWN_SECONDS = 10.0
"""What a file may take beyond twice its record before that is said."""
NAMED_SECONDS = 1.0
REST = "the others"


@dataclass(frozen=True)
class Timed:
    """A test of a part, and the largest memory that its process had taken by then."""

    part: str
    test: str
    seconds: float
    megabytes: float

    @property
    def file(self) -> str:
        return self.test.partition("::")[0]


@dataclass(frozen=True)
class Record:
    """The seconds of a whole run: of each session of nox, and by part of each file's tests."""

    sessions: dict[str, float]
    parts: dict[str, dict[str, dict[str, float]]]

    @property
    def minutes(self) -> float:
        return sum(self.sessions.values()) / 60

    def seconds(self, part: str, test: str) -> float:
        """Of one test; 0 for one that is not named because it takes less than a second, or is new."""
        file, _, name = test.partition("::")
        return self.parts.get(part, {}).get(file, {}).get(name, 0.0)

    def file_seconds(self, part: str, file: str) -> float:
        """Of all tests of a file; 0 where none is recorded."""
        return sum(self.parts.get(part, {}).get(file, {}).values())


@cache
def recorded() -> Record:
    """The record in the repository."""
    return Record(**json.loads(RECORD.read_text(encoding="utf-8")))


def write(timed: Timed, folder: Path = MEASURED) -> None:
    """Add a test to the file of its part."""
    with open(folder / f"{timed.part}.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(timed)) + "\n")


def begin(part: str, folder: Path = MEASURED) -> None:
    """Forget what was measured of a part before."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{part}.jsonl").unlink(missing_ok=True)


def measured(folder: Path = MEASURED) -> list[Timed]:
    """All tests of the last run of each part."""
    files = sorted(folder.glob("*.jsonl"))
    return [Timed(**json.loads(line)) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def sessions(folder: Path = MEASURED) -> dict[str, float]:
    """The seconds of each session of nox's last run."""
    report = folder / SESSIONS
    found = json.loads(report.read_text(encoding="utf-8"))["sessions"] if report.exists() else []
    return {session["signatures"][0]: session["duration"] for session in found}


def over_budget(record: Record) -> str:
    """Why a record cannot stand; nothing where it can."""
    if not record.sessions:
        return "nothing is recorded: run nox, then python -m tests.times --record"
    if record.minutes > BUDGET_MINUTES:
        return f"all checks take {record.minutes:.1f} minutes, and may take {BUDGET_MINUTES}: {record.sessions}"
    at_once = PROCESSES * sum(record.sessions.values())
    for part, found in record.parts.items():
        seconds = sum(sum(names.values()) for names in found.values())
        if seconds > at_once:
            return f"the tests of {part} take {seconds:.0f} s, more than all sessions can hold"
    return ""


def grown(tests: list[Timed], record: Record) -> list[str]:
    """The files that took much longer than recorded, measured by how the run as a whole compares with the record."""
    now: dict[tuple[str, str], float] = defaultdict(float)
    for timed in tests:
        now[timed.part, timed.file] += timed.seconds
    before = {key: record.file_seconds(*key) for key in now}
    pace = max(1.0, median([now[key] / before[key] for key in now if before[key] > NAMED_SECONDS] or [1.0]))
    return [
        f"{part}: {file} took {seconds:.0f} s, recorded are {before[part, file]:.0f} s"
        for (part, file), seconds in now.items()
        if seconds > GROWN_SECONDS + 2 * pace * before[part, file]
    ]


def summary(tests: list[Timed], taken: dict[str, float], record: Record) -> str:
    """The minutes of each session, the largest process, the slowest tests, and what has grown."""
    lines = [f"{seconds / 60:6.1f} min  {name}" for name, seconds in taken.items()]
    lines += [f"{sum(taken.values()) / 60:6.1f} min  all of them (budget: {BUDGET_MINUTES})", ""]
    if tests:
        largest = max(tests, key=lambda timed: timed.megabytes)
        lines += [f"The largest process took {largest.megabytes:,.0f} MB ({largest.part}).", "The slowest tests:"]
    slowest = sorted(tests, key=lambda timed: -timed.seconds)[:SLOWEST]
    lines += [f"{timed.seconds:6.1f} s  {timed.part}: {timed.test}" for timed in slowest]
    return "\n".join(lines + grown(tests, record))


def record_of(tests: list[Timed], taken: dict[str, float]) -> Record:
    """The record of a run, in an order that does not depend on chance."""
    parts: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(float)))
    for timed in sorted(tests, key=lambda timed: (timed.part, timed.test)):
        name = timed.test.partition("::")[2] if timed.seconds >= NAMED_SECONDS else REST
        parts[timed.part][timed.file][name] += timed.seconds
    rounded = {
        part: {file: {name: round(seconds, 1) for name, seconds in found.items()} for file, found in files.items()}
        for part, files in parts.items()
    }
    return Record(sessions={name: round(seconds, 1) for name, seconds in taken.items()}, parts=rounded)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help=f"write tests/{RECORD.name}, after a whole run of nox")
    options = parser.parse_args()
    tests, taken = measured(), sessions()
    print(summary(tests, taken, recorded()))
    if options.record:
        text = json.dumps(asdict(record_of(tests, taken)), indent=1, ensure_ascii=False)
        RECORD.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
