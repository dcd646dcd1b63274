"""Trackers of experiments (Weights & Biases, MLflow, Comet), which a run tells its numbers by their own clients."""

import importlib
import json
import numbers
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from diptych.core.files.atomic import replacing
from diptych.core.files.errors import Failure

PROJECT = "diptych"
"""What a tracker files runs under, where WANDB_PROJECT, MLFLOW_EXPERIMENT_NAME or COMET_PROJECT_NAME says nothing."""

IDENTITIES = "trackers.json"
_NOT_IN_MLFLOWS_NAMES = re.compile(r"[^\w\-. :/]")
_GATHERED_BY_COMET = (
    *("log_code", "log_graph", "log_git_metadata", "log_git_patch", "log_env_details", "parse_args"),
    *("auto_output_logging", "auto_param_logging", "auto_metric_logging"),
)
_MOST_CHARACTERS = 500  # of a parameter in MLflow
_MOST_AT_ONCE = 100  # parameters or metrics in one of its requests, at least


class Tracker(Protocol):
    """Takes the numbers of a run."""

    name: str

    def write(self, step: int, values: Mapping[str, object]) -> None:
        """The numbers of a row of metrics."""
        ...

    def close(self) -> None:
        """No more numbers come."""
        ...


class WeightsAndBiases:
    """A run of Weights & Biases, named after the run's folder, in which its files lie.

    The client's own settings hold: WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE=offline, `wandb login`. It takes no step
    twice, so that rows which a killed run wrote after its last checkpoint stay as they were.
    """

    name = "Weights & Biases"

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        client = _client("wandb", self.name)
        known = _identity(folder, "wandb")
        self._run = client.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.resolve().name,
            id=known,
            resume="allow",
            dir=str(folder),
            config=dict(config),
        )
        _remember(folder, "wandb", self._run.id)

    def write(self, step: int, values: Mapping[str, object]) -> None:
        """See `Tracker.write`."""
        self._run.log(dict(_numbers(values)), step=step)

    def close(self) -> None:
        """Waits until everything is sent, or written where it is offline."""
        self._run.finish()


class MLflow:
    """A run of MLflow, named after the run's folder; MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME hold.

    In names it takes no "@" and the like, in whose place an underscore stands: "recall_1".
    """

    name = "MLflow"

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        module = _client("mlflow", self.name)
        self._entities, self._client = module.entities, module.MlflowClient()
        self._run = _identity(folder, "mlflow")
        if self._run is None:
            experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found = self._client.get_experiment_by_name(experiment)
            place = found.experiment_id if found else self._client.create_experiment(experiment)
            self._run = self._client.create_run(place, run_name=folder.resolve().name).info.run_id
            _remember(folder, "mlflow", self._run)
            told = [module.entities.Param(_named(name), str(value)[:_MOST_CHARACTERS]) for name, value in _flat(config)]
            for first in range(0, len(told), _MOST_AT_ONCE):
                self._client.log_batch(self._run, params=told[first : first + _MOST_AT_ONCE])
        else:
            self._client.update_run(self._run, status="RUNNING")

    def write(self, step: int, values: Mapping[str, object]) -> None:
        """See `Tracker.write`."""
        now = int(1000 * time.time())
        rows = [self._entities.Metric(_named(name), value, now, step) for name, value in _numbers(values)]
        for first in range(0, len(rows), _MOST_AT_ONCE):
            self._client.log_batch(self._run, metrics=rows[first : first + _MOST_AT_ONCE])

    def close(self) -> None:
        """The run is marked as finished, until it goes on."""
        self._client.set_terminated(self._run)


class Comet:
    """An experiment of Comet, named after the run's folder.

    The client's own settings hold: COMET_API_KEY or `comet login`, COMET_WORKSPACE, COMET_PROJECT_NAME; with
    COMET_START_ONLINE=false a zip file is written for `comet upload`, into the run's folder or
    COMET_OFFLINE_DIRECTORY. It is told the numbers and the configuration: what the client would gather by itself (code,
    arguments, which may hold secrets, packages, address, output) it does not.
    """

    name = "Comet"

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        client = _client("comet_ml", self.name, extra="comet")
        known = _identity(folder, "comet")
        settings = client.ExperimentConfig(
            name=os.environ.get("COMET_START_EXPERIMENT_NAME", folder.resolve().name),
            offline_directory=os.environ.get("COMET_OFFLINE_DIRECTORY", str(folder)),
            display_summary_level=0,
            **dict.fromkeys(_GATHERED_BY_COMET, False),
        )
        self._experiment = client.start(
            project_name=os.environ.get("COMET_PROJECT_NAME", PROJECT),
            experiment_key=known,
            mode="get_or_create",
            experiment_config=settings,
        )
        _remember(folder, "comet", self._experiment.get_key())
        if known is None:
            self._experiment.log_parameters(dict(_flat(config)))

    def write(self, step: int, values: Mapping[str, object]) -> None:
        """See `Tracker.write`."""
        self._experiment.log_metrics(dict(_numbers(values)), step=step)

    def close(self) -> None:
        """Waits until everything is sent, or written where it is offline."""
        self._experiment.end()


TRACKERS: Mapping[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
    "comet": Comet,
}


def opened(name: str, folder: Path, config: Mapping[str, Any]) -> Tracker:
    """A tracker, by its name, of the run in a folder; a run that goes on is the same run there.

    Raises:
        ImportError: its client is not installed.
        Failure: it does not take the run.
    """
    try:
        return TRACKERS[name](folder, config)
    except ImportError:
        raise
    except Exception as error:  # clients raise classes of their own for a network, a login or a disk that fails
        raise Failure(
            f"--log-to {name} does not take the run: {type(error).__name__}: {error}. Log in or start its server, keep "
            "the numbers on this machine (WANDB_MODE=offline, MLFLOW_TRACKING_URI=sqlite:///FILE, "
            "COMET_START_ONLINE=false), or leave it out: metrics.jsonl has them all."
        ) from error


def _client(module: str, name: str, *, extra: str = "") -> ModuleType:
    """A client's module; `extra` is what installs it, and its name for --log-to, by default the module's."""
    extra = extra or module
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImportError(
            f"--log-to {extra} needs the client of {name}: pip install 'diptych[{extra}]'. Without it, metrics.jsonl "
            "has all numbers."
        ) from None


def _identity(folder: Path, name: str) -> str | None:
    """What a tracker called the run when it began."""
    path = folder / IDENTITIES
    return json.loads(path.read_text()).get(name) if path.is_file() else None


def _remember(folder: Path, name: str, identity: str) -> None:
    path = folder / IDENTITIES
    known = json.loads(path.read_text()) if path.is_file() else {}
    with replacing(path) as file:
        file.write(json.dumps(known | {name: identity}).encode())


def _named(name: str) -> str:
    return _NOT_IN_MLFLOWS_NAMES.sub("_", name)


def _numbers(values: Mapping[str, object]) -> Iterator[tuple[str, float]]:
    for name, value in _flat(values):
        value = value.item() if hasattr(value, "item") else value
        if isinstance(value, numbers.Real):
            yield name, float(value)


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values by their names joined with slashes."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}/")
        else:
            yield f"{before}{name}", value
