"""Train with fields of the recipe changed, beside those that the data set's row changes.

    .venv/bin/python experiments/trials.py NAME [NAME ...] --dataset kitti     main.py's other flags

NAME is one of TRIALS; several are combined. Results: experiments/log.md.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from main import RECIPE, main

STILL = {"zoom": (1, 1), "stretch": (1, 1), "lean": (0, 0), "shift": (0, 0)}
HALF_MOVED = {"zoom": (0.8, 1.3), "stretch": (1 / 1.2, 1.2), "lean": (-0.07, 0.07)}
TWICE_MOVED = {"zoom": (0.4, 2.5), "stretch": (1 / 2, 2), "lean": (-0.3, 0.3)}
NO_POOL_DROPOUT = {"skip_dropout": 0.0, "pool5_dropout": 0.0}
LITTLE_DROPOUT = NO_POOL_DROPOUT | {"head_dropout": 0.2}

# Trial -> fields of main.Recipe to replace.
TRIALS = {
    "unchanged": {},
    "all-trained": {"frozen": ()},
    "block-1-frozen": {"frozen": ("block1",)},
    "fcn-32s": {"skips": ()},
    "fcn-16s": {"skips": ("pool4",)},
    "fcn-8s": {"skips": ("pool4", "pool3")},
    "fcn-4s": {"skips": ("pool4", "pool3", "pool2")},
    "fcn-2s": {"skips": ("pool4", "pool3", "pool2", "pool1")},
    "no-fuse": {"fuse_channels": 0},
    "head-of-128": {"head_channels": 128},
    "head-of-1024": {"head_channels": 1024},
    "no-pool-dropout": NO_POOL_DROPOUT,
    "little-dropout": LITTLE_DROPOUT,
    "main-dropout": {name: getattr(RECIPE, name) for name in LITTLE_DROPOUT},
    "no-boundaries": {"boundary_weight": 1.0},
    "no-augmentation": STILL | {"rotation_degrees": (0, 0), "mirrored": False},
    "gentle": HALF_MOVED | {"shift": (-0.05, 0.05), "rotation_degrees": (-2.5, 2.5)},
    "strong": TWICE_MOVED | {"shift": (-0.2, 0.2), "rotation_degrees": (-10, 10)},
    "mirrored": {"mirrored": True},
    "light-left": {"varied_share": 0.0},
    "light-always-varied": {"varied_share": 1.0},
    "dark-left-dark": {"brightening": (1.0, 1.0)},
}


def changes(names):
    """Return the fields of the recipe that these trials replace; the last trial wins."""
    return {field: value for name in names for field, value in TRIALS[name].items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("trials", choices=TRIALS, nargs="+", metavar="NAME", help=", ".join(TRIALS))
    given, flags = parser.parse_known_args()
    sys.exit(main(flags, changes(given.trials)))
