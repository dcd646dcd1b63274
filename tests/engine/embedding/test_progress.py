"""Progress of embedding: plain lines in a pipe, and a reader that goes away ends the display, not the work."""

import subprocess
import sys

RUN = """
import sys
from diptych.engine.embedding import progress
progress.INTERVAL_S = 0.0
with progress.EmbeddingProgress("images", records=40, start=10) as shown:
    for record in range(11, 41):
        shown.update(record, 3)
print("done", file=sys.stderr)
"""


def test_records_are_counted_to_the_end():
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 30
    assert lines[0].startswith("record 11/40  27.5%  ")
    assert lines[-1].startswith("record 40/40  100.0%  ")
    assert lines[-1].endswith(" images/s  0 s left")


def test_the_work_goes_on_when_nobody_reads_any_more():
    with subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read().decode().strip() == "done"
    assert process.returncode == 0
