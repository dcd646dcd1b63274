"""A recipe without a framework: a line fitted by gradient descent, with every recipe's folder and checkpoints.

It exists to show that `interruptions` finds a run that does not resume exactly: ``--forget`` names something it then
fails to restore.
"""

import argparse
import sys
import time

import numpy as np

from diptych.core.training.card import plain, resolve_card
from diptych.core.training.checkpoint import restore_latest, save
from diptych.core.training.metrics import MetricsWriter
from diptych.core.training.progress import Progress
from diptych.core.training.run_folder import RunFolder
from diptych.core.training.signals import StopSignals


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-dir", required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--checkpoint-every", type=int, default=5)
    parser.add_argument("--step-s", type=float, default=0.002)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--forget", choices=["momentum", "rows"])
    parser.add_argument("--hub-token")
    options = parser.parse_args()
    config = plain(
        {"steps": options.steps, "learning_rate": options.learning_rate, "checkpoint_every": options.checkpoint_every}
    )

    with RunFolder(options.run_dir) as run, StopSignals() as stop:
        run.check_config(config)
        checkpoint = restore_latest(run.checkpoints)
        step = checkpoint.step if checkpoint else 0
        weights = checkpoint.groups["weights"] if checkpoint else {"line": np.zeros(2, np.float32)}
        momentum = {"line": np.zeros(2, np.float32)}
        if checkpoint and options.forget != "momentum":
            momentum = checkpoint.groups["optimizer"]
        run.write_card(
            resolve_card(config, seed=0, backend="numpy", implementation="reference", parameters=2), resume_step=step
        )
        cut_at = options.steps if options.forget == "rows" else step
        with MetricsWriter(run.metrics, resume_step=cut_at) as metrics, Progress(options.steps, step, 8) as progress:
            while step < options.steps and not stop.stop_requested:
                loss = _descend(step, weights["line"], momentum["line"], options.learning_rate)
                time.sleep(options.step_s)
                step += 1
                metrics.write(step, {"loss": loss})
                progress.update(step, {"loss": loss})
                if step % options.checkpoint_every == 0 or step == options.steps or stop.stop_requested:
                    metrics.sync()
                    save(
                        run.checkpoints, step, {"weights": weights, "optimizer": momentum}, {"examples_seen": 8 * step}
                    )
    return stop.exit_status


def _descend(step: int, line: np.ndarray, momentum: np.ndarray, learning_rate: float) -> np.float32:
    """One step on the examples of this step, in place; returns the loss before it."""
    x = np.random.Generator(np.random.Philox(key=step)).normal(size=8).astype(np.float32)
    error = line[0] * x + line[1] - (3 * x - 1)
    momentum *= 0.9
    momentum += np.array([(error * x).mean(), error.mean()], np.float32)
    line -= np.float32(learning_rate) * momentum
    return (error**2).mean()


if __name__ == "__main__":
    sys.exit(main())
