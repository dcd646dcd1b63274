"""The demo as a process of its own, with the small encoder, slow enough to be interrupted: `demo_process INDEX`."""

import sys
from pathlib import Path

from diptych.recipes.demo import Demo, show
from tests.engine.serving.demo_encoder import DemoEncoder

if __name__ == "__main__":
    options = Demo(index=Path(sys.argv[1]), heat_map_cells=16)
    sys.exit(show(options, lambda name: DemoEncoder(seconds=0.01), lambda encoder: None))
