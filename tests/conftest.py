"""The ground of every test: a backend that is chosen openly, and Keras settings that no home folder changes."""

import atexit
import os
import shutil
import signal
import tempfile

from hypothesis import settings

from diptych.backends.selection import select_backend

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if "KERAS_HOME" not in os.environ:
    os.environ["KERAS_HOME"] = tempfile.mkdtemp(prefix="keras-home-")
    atexit.register(shutil.rmtree, os.environ["KERAS_HOME"], ignore_errors=True)

if "DIPTYCH_CACHE" not in os.environ:
    os.environ["DIPTYCH_CACHE"] = tempfile.mkdtemp(prefix="diptych-cache-")
    atexit.register(shutil.rmtree, os.environ["DIPTYCH_CACHE"], ignore_errors=True)

# Pallas' interpreter on jax has threads that wait for each other. XLA gives it one a core, and one alone waits for
# ever.
os.environ.setdefault("NPROC", "2")

# A shell ignores SIGINT in what it starts in the background, and programs started from here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A loaded machine makes any example slow once: that is no failure.
settings.register_profile("unhurried", settings.default, deadline=None)
settings.load_profile("unhurried")

BACKEND = select_backend()

pytest_plugins = ["tests.plugin"]


def pytest_report_header() -> str:
    return f"KERAS_BACKEND: {BACKEND}"
