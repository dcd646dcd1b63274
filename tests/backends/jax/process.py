"""Asking a process that has devices of its own."""

import json
import os
import subprocess
import sys


def report_of(module: str) -> dict:
    """The JSON that `python -m module` prints on its last line, with none of this process's settings for XLA."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run([sys.executable, "-m", module], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.strip().splitlines()[-1])
