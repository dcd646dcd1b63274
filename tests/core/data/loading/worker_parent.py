"""A program that reads batches with two workers: it prints the workers' process ids, then one line a batch."""

import sys
import time

from diptych.core.data.loading.loader import Loader
from diptych.core.data.records import Caption, Record
from tests.core.data.pictures import encoded, pixels, preprocess


class ScriptSource:
    """Defined in the running script, where workers have to look for it."""

    def __len__(self) -> int:
        return 40

    def record(self, index: int) -> Record:
        return Record(f"record-{index}", (index,), (Caption("a caption"),))

    def read(self, reference: int) -> bytes:
        return encoded(pixels(reference))

    def fingerprint(self) -> str:
        return "script"


if __name__ == "__main__":
    loader = Loader(ScriptSource(), preprocess(), batch_size=8, seed=0, workers=2)
    batches = loader.batches(0)
    next(batches)
    print(*[worker.process.pid for makers in loader._open_makers for worker in makers.workers], flush=True)
    seconds = float(sys.argv[1])
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        print("batch", next(batches).index[0], flush=True)
        time.sleep(0.05)
