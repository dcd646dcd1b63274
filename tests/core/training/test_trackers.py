"""Trackers get every number of a run, as one run however often it goes on, and no failure of theirs ends it."""

import json
import sys
import zipfile
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from diptych.core.files.errors import Failure
from diptych.core.training.metrics import MetricsWriter, read_metrics
from diptych.core.training.trackers import TRACKERS, opened

CONFIG = {"optimization": {"learning_rate": 0.001}, "data": {"train_data": "x" * 600}}
ROWS = [(1, {"loss": 2.5, "kind": "step"}), (2, {"loss": float("nan"), "evaluation": {"text/recall@1": 0.25}})]
TOLD = [(1, "loss", 2.5), (2, "evaluation/text/recall@1", 0.25)]


MODULES = {"comet": "comet_ml"}


class Service:
    """What a client's other end would keep; it has all clients' functions, as far as they are used."""

    def __init__(self):
        self.rows, self.runs, self.ended, self.params, self.broken = [], [], [], [], False
        self.entities = SimpleNamespace(
            Param=lambda name, value: (name, value), Metric=lambda name, value, now, step: (step, name, value)
        )

    # Weights & Biases

    def init(self, *, id, config, resume, **settings):
        if self.broken:
            raise RuntimeError("no network")
        assert resume == "allow"
        self.runs.append(id or "anew")
        self.params.append(config)
        return SimpleNamespace(id="anew", log=self.log, finish=lambda: self.ended.append("anew"))

    def log(self, values, step):
        if self.broken:
            raise RuntimeError("no network")
        self.rows += [(step, name, value) for name, value in values.items()]

    # MLflow

    def MlflowClient(self):
        return self

    def get_experiment_by_name(self, name):
        return None

    def create_experiment(self, name):
        return name

    def create_run(self, experiment, run_name):
        if self.broken:
            raise RuntimeError("no network")
        self.runs.append("anew")
        return SimpleNamespace(info=SimpleNamespace(run_id="anew"))

    def update_run(self, run, status):
        self.runs.append(run)

    def log_batch(self, run, metrics=(), params=()):
        if self.broken:
            raise RuntimeError("no network")
        assert max(len(metrics), len(params)) <= 100
        self.rows += metrics
        self.params += params

    def set_terminated(self, run):
        self.ended.append(run)

    # Comet

    def ExperimentConfig(self, *, name, offline_directory, display_summary_level, **gathered):
        assert len(gathered) > 5, "it would gather by itself"
        assert not any(gathered.values())
        return name

    def start(self, *, project_name, experiment_key, mode, experiment_config):
        if self.broken:
            raise RuntimeError("no network")
        assert mode == "get_or_create"
        self.runs.append(experiment_key or "anew")
        return SimpleNamespace(
            get_key=lambda: "anew",
            log_parameters=self.params.append,
            log_metrics=self.log,
            end=lambda: self.ended.append("anew"),
        )


@pytest.fixture(params=TRACKERS)
def client(request, monkeypatch):
    service = Service()
    monkeypatch.setitem(sys.modules, MODULES.get(request.param, request.param), service)
    return request.param, service


def test_all_numbers_arrive_and_a_run_that_goes_on_is_the_same_run(client, tmp_path):
    name, service = client
    for times in (1, 2):
        with MetricsWriter(tmp_path / "metrics.jsonl", trackers=[opened(name, tmp_path, CONFIG)]) as metrics:
            for step, values in ROWS:
                metrics.write(step, values)
        assert service.runs == ["anew"] * times
        assert len(service.ended) == times
    told = [(step, key.replace("@", "_") if name == "mlflow" else key, value) for step, key, value in TOLD]
    assert [row for row in service.rows if row[2] == row[2]] == told * 2
    assert sum(row[1] == "loss" for row in service.rows) == 4, "what is no number is told, too"
    assert not any("kind" in row for row in service.rows)
    assert service.params


def test_a_tracker_that_fails_is_given_up_and_the_rows_are_all_written(client, tmp_path):
    name, service = client
    said = []
    tracker = opened(name, tmp_path, CONFIG)
    service.broken = True
    with MetricsWriter(tmp_path / "metrics.jsonl", trackers=[tracker], say=said.append) as metrics:
        for step, values in ROWS:
            metrics.write(step, values)
    assert len(said) == 1
    assert "no network" in said[0]
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]


def test_a_tracker_that_cannot_begin_says_what_to_do(client, tmp_path, monkeypatch):
    name, service = client
    service.broken = True
    with pytest.raises(Failure, match="no network.*leave it out"):
        opened(name, tmp_path, CONFIG)
    monkeypatch.setitem(sys.modules, MODULES.get(name, name), None)
    with pytest.raises(ImportError, match=rf"pip install 'diptych\[{name}\]'"):
        opened(name, tmp_path, CONFIG)


@pytest.mark.skipif(find_spec("wandb") is None, reason="needs Weights & Biases: pip install 'diptych[wandb]'")
def test_weights_and_biases_keeps_a_run_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    tracker = opened("wandb", tmp_path, CONFIG)
    for step, values in ROWS:
        tracker.write(step, values)
    tracker.close()
    import wandb

    wandb.teardown()  # its service writes the end of the file after the run is closed
    (kept,) = tmp_path.rglob("*.wandb")
    assert b"evaluation/text/recall@1" in kept.read_bytes()
    assert json.loads((tmp_path / "trackers.json").read_text())["wandb"] in kept.name


@pytest.mark.skipif(find_spec("mlflow") is None, reason="needs MLflow: pip install 'diptych[mlflow]'")
def test_mlflow_keeps_a_run_in_files(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "tracked").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    for rows in (ROWS[:1], ROWS[1:]):
        tracker = opened("mlflow", tmp_path, CONFIG)
        for step, values in rows:
            tracker.write(step, values)
        tracker.close()
    from mlflow import MlflowClient

    client, run = MlflowClient(), json.loads((tmp_path / "trackers.json").read_text())["mlflow"]
    for step, name, value in TOLD:
        kept = client.get_metric_history(run, name.replace("@", "_"))
        assert (step, value) in [(one.step, one.value) for one in kept]
    assert client.get_run(run).data.params["optimization/learning_rate"] == "0.001"
    assert client.get_run(run).info.status == "FINISHED"


@pytest.mark.skipif(find_spec("comet_ml") is None, reason="needs Comet: pip install 'diptych[comet]'")
def test_comet_keeps_an_experiment_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("COMET_START_ONLINE", "false")
    for rows in (ROWS[:1], ROWS[1:]):
        tracker = opened("comet", tmp_path, CONFIG)
        for step, values in rows:
            tracker.write(step, values)
        tracker.close()
    key, kept = json.loads((tmp_path / "trackers.json").read_text())["comet"], []
    for archive in tmp_path.glob("*.zip"):
        assert archive.name.startswith(key)
        with zipfile.ZipFile(archive) as file:
            kept += [json.loads(line)["payload"] for line in file.read("messages.json").splitlines()]
    metrics = [message["metric"] for message in kept if "metric" in message]
    assert {*TOLD} <= {(one["step"], one["metricName"], one["metricValue"]) for one in metrics}
    assert sum("optimization/learning_rate" in json.dumps(message) for message in kept) == 1
