"""Files of groups and labels: a planted bias falls, the rest is refused with what is expected."""

import json

import numpy as np
import pytest

from diptych.core.data.records import Caption, Record
from diptych.core.data.sources.balance_file import BalanceFile
from diptych.recipes import siglip
from tests.core.data.pictures import MemorySource
from tests.recipes.photos import write_photos
from tests.recipes.test_siglip import command

GROUPS = {"women": {"en": ["woman", "she"], "de": ["Frau"]}, "men": ["man"]}


class Biased(MemorySource):
    """A nurse is a woman nine times of ten, and of all people two of three are men."""

    def record(self, index):
        draw = np.random.default_rng(index).random(2)
        nurse, other = draw[0] < 0.3, draw[1] < 0.1
        woman = nurse != other if nurse else draw[1] < 0.15
        text = f"a {'woman' if woman else 'man'} who is a {'nurse' if nurse else 'cook'}"
        return Record(str(index), (index,), (Caption(text, "en"),))


def written(path, **fields):
    path.write_text(json.dumps({"groups": GROUPS, "labels": {"nurse": ["nurse"]}} | fields))
    return path


def test_a_planted_bias_falls(tmp_path):
    file = BalanceFile.read(written(tmp_path / "even.json", max_weight=6.0, targets={"women": 0.5, "men": 0.5}))
    kept = file.balanced(Biased(6_000), seed=0)
    assert 500 < len(kept) < 6_000
    before, after = (np.abs(found.representation).max() for found in (kept.before, kept.after))
    assert before > 0.1
    assert after < before / 3
    assert np.abs(kept.after.association).max() < np.abs(kept.before.association).max() / 2
    told = file.told(kept)
    assert f"{len(kept):,} of 6,000 records are kept; women " in told
    assert "a label goes with a group by" in told


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"group": {}}, "has the fields group, expected groups, labels, targets and epsilon_association"),
        ({"groups": {"women": "woman"}}, "groups has 'women' as 'woman', expected a list of words"),
        ({"groups": {"women": {"en": [1]}}}, "expected a list of words"),
        ({"groups": None}, "has no field 'groups'"),
        ({"targets": {"women": 0.5}}, "targets name women, expected women, men"),
        ({"max_weight": "6"}, "max_weight is .*expected a number"),
        ({"sampling_rate": 3.0, "max_weight": 2.0}, "sampling_rate <= max_weight"),
    ],
)
def test_other_files_are_refused(tmp_path, fields, words):
    with pytest.raises(ValueError, match=words):
        BalanceFile.read(written(tmp_path / "even.json", **fields))


def test_a_recipe_trains_on_the_chosen_records(tmp_path, capsys):
    photos = write_photos(tmp_path / "photos", 400)
    lines = [json.loads(line) for line in (photos / "captions.jsonl").read_text().splitlines()]
    for number, line in enumerate(lines):
        line["caption"] = line["caption"].replace("yellow", "red").replace("blue", "red" if number % 8 else "blue")
    (photos / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    even = tmp_path / "even.json"
    even.write_text(json.dumps({"groups": {"red": ["red"], "green": ["green"]}, "labels": {}}))
    given = command(photos, tmp_path / "run", "--balance", str(even), "--dry-run")[3:]
    assert siglip.main(given) == 0
    said = capsys.readouterr().out
    assert "Balanced: " in said
    before, after = (float(part.split("%")[0]) for part in said.partition("; red ")[2].split(" -> ")[:2])
    assert before > 60
    assert abs(after - 50) < before - 50
    assert siglip.main(["--balance", str(even), "--dry-run", "--examples", "640"]) == 1
    assert "--balance chooses among records of your own data; emoji has none" in capsys.readouterr().err
