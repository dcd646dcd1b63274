"""The JSON interface under load: requests a second, the time of one, and what became of every request.

    KERAS_BACKEND=torch python -m benchmarks.serving

The program is started as a process of its own, once for each batch size, and asked over connections that stay open, by
threads of this process. Each text and picture is a new one, so that none is remembered. At the end of each round it is
ended by SIGTERM while it is asked: a request without an answer is lost, and none may be. `--url` asks a program that
runs already, and leaves it running.
"""

import argparse
import base64
import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from benchmarks.device import RESULTS, write_results
from diptych.core.report.tables import text_table

PATIENCE = 60.0


@dataclass
class Round:
    """What became of the requests: the seconds of those that were answered, and counts by what came."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter = field(default_factory=Counter)
    lost: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def request_body(kind: str, number: int, seed: int) -> bytes:
    """A request that nobody sent before: a text, or a picture of 64 x 64 pixels."""
    if kind == "texts":
        return json.dumps({"texts": [f"number {number} of {seed}"]}).encode()
    pixels = np.random.default_rng((seed, number)).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return json.dumps({"images": [base64.b64encode(file.getvalue()).decode()]}).encode()


def ask_on(address: tuple[str, int], kind: str, seed: int, until: threading.Event, found: Round, token: str) -> None:
    """Asks over one connection, one request after the other, until told to stop or the program takes no more."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    connection, number = http.client.HTTPConnection(*address, timeout=PATIENCE), 0
    while not until.is_set():
        number += 1
        body = request_body(kind, number, seed)
        began, sent = time.perf_counter(), False
        try:
            if connection.sock is None:
                connection.connect()
            sent = True
            connection.request("POST", "/v1/embed", body, headers)
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            with found.lock:
                found.lost += sent  # not let in is not lost: nothing was sent
            return
        with found.lock:
            found.statuses[answer.status] += 1
            if answer.status == 200:
                found.seconds.append(time.perf_counter() - began)
        if answer.status == 503:
            time.sleep(0.01)  # sooner than it asks for, so that the queue is full again


def measured(
    url: str, kind: str, *, connections: int, seconds: float, token: str, end: subprocess.Popen | None
) -> dict:
    """One round; where the program is given, it is told to end before the last requests are sent."""
    parts = urlsplit(url)
    address = (parts.hostname or "127.0.0.1", parts.port or 80)
    stop, found = threading.Event(), Round()
    seed = time.time_ns() % 2**32
    threads = [
        threading.Thread(target=ask_on, args=(address, kind, seed + number, stop, found, token))
        for number in range(connections)
    ]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    elapsed, in_time = time.perf_counter() - began, len(found.seconds)
    if end is not None:
        end.send_signal(signal.SIGTERM)
        end.wait(PATIENCE)
    stop.set()
    for thread in threads:
        thread.join()
    p50, p99 = np.percentile(found.seconds, [50, 99]) if found.seconds else (float("nan"), float("nan"))
    return {
        "answers_a_second": in_time / elapsed,
        "p50_ms": 1000 * float(p50),
        "p99_ms": 1000 * float(p99),
        "answered": found.statuses[200],
        "refused_as_full": found.statuses[503],
        "other": sum(count for status, count in found.statuses.items() if status not in (200, 503)),
        "lost": found.lost,
    }


def started(model: str, batch_size: int, queue: int) -> tuple[subprocess.Popen, str]:
    """The program, ready, and its address."""
    command = [sys.executable, "-m", "recipes.demo", "--no-open", "--model", model, "--heat-map-cells", "6"]
    flags = ["--batch-size", str(batch_size), "--queue", str(queue)]
    program = subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    url = next((match[0] for line in program.stdout if (match := re.search(r"http://[^\s#]+", line))), None)
    if url is None:
        raise RuntimeError(f"{' '.join(command)} ended by {program.wait()} before it was ready")
    return program, url


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints a table, writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji_36_languages")
    parser.add_argument("--url", help="of a program that runs already")
    parser.add_argument("--token", default="")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    rows = []
    for batch_size in [0] if options.url else options.batch_sizes:
        for kind in ("texts", "images"):
            for connections in options.connections:
                program, url = (None, options.url) if options.url else started(options.model, batch_size, options.queue)
                asked = {"connections": connections, "seconds": options.seconds, "token": options.token}
                measured(url, kind, end=None, **(asked | {"seconds": min(3.0, options.seconds)}))  # compiles
                row = measured(url, kind, end=program, **asked)
                rows.append({"batch_size": batch_size or None, "kind": kind, "connections": connections, **row})
                print(rows[-1], flush=True)
    head = list(rows[0])
    print(text_table(head, [[str(round(x) if isinstance(x, float) else x) for x in row.values()] for row in rows]))
    backend = os.environ.get("KERAS_BACKEND", "")
    write_results("serving", {"backend": backend, "rows": rows}, options.output)
    if lost := sum(row["lost"] for row in rows):
        raise SystemExit(f"{lost} requests were lost.")


if __name__ == "__main__":
    main()
