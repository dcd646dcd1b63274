"""Asking a process that has virtual CPU devices."""

import json
import os
import subprocess
import sys


def report_of(module: str, *arguments: str, devices: int = 4) -> dict:
    """The JSON that `python -m module ARGUMENTS` prints on its last line."""
    virtual = f"--xla_force_host_platform_device_count={devices} --xla_cpu_multi_thread_eigen=false"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {virtual}"
    environment = os.environ | {"KERAS_BACKEND": "jax", "XLA_FLAGS": flags}
    done = subprocess.run([sys.executable, "-m", module, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.strip().splitlines()[-1])
