"""Save and load the state of a training atomically.

A checkpoint is a state file (arrays of weights and optimizer), the best epoch's weights, and an
entry in manifest.json with the SHA-256 of both, which is written last. A file that the manifest
does not name does not count. No Keras here.
"""

import contextlib
import dataclasses
import functools
import os
import shutil

import numpy as np

from roadseg.errors import UserError
from roadseg.files import BEST, file_digest, read_json, write_atomically, write_csv, write_json
from roadseg.training import event_files

FORMAT = 3  # of manifest.json
STATES_KEPT = 2
STATE_COPIES = 3  # a state's size / the weights' size: Adam has two moments
LOG_FIELDS = (
    *("epoch", "seconds", "loss", "val_loss", "val_iou", "val_max_f", "learning_rate", "returns"),
)


@dataclasses.dataclass
class Progress:
    """The state of a training without its weights, for JSON."""

    history: list[dict] = dataclasses.field(default_factory=list)  # the rows of log.csv
    step: int = 0  # steps taken in the current epoch
    pictures: int = 0  # seen in these
    loss_sum: float = 0.0  # over these pictures
    seconds: float = 0.0  # spent on these
    best: dict | None = None  # the row of the best epoch
    best_file: dict[str, str] = dataclasses.field(default_factory=dict)  # name -> SHA-256
    returns: int = 0  # to an earlier state, because the loss was not finite
    slices: int = 1  # of a batch, to fit into memory
    saves: int = 0

    def begin_epoch(self):
        """Reset the counters of the current epoch."""
        self.step, self.pictures, self.loss_sum, self.seconds = 0, 0, 0.0, 0.0


def manifest_path(folder):
    """Return the path of a run's manifest, which exists once the run can resume."""
    return folder / "checkpoint" / "manifest.json"


def check_room(folder, weights_bytes):
    """Raise UserError if the disk lacks room for a new run.

    folder: of the run; weights_bytes: size of the network's weights. A save needs room for one
    state more than are kept, and for the best weights that each names.
    """
    needed = (STATES_KEPT + 1) * (STATE_COPIES + 1) * weights_bytes
    free = shutil.disk_usage(folder).free
    if free < needed and not manifest_path(folder).is_file():
        raise UserError(
            f"{folder}: {free / 1e9:.2f} GB are free on this disk; a run of this network needs "
            f"{needed / 1e9:.2f} GB: make room, or give another --runs-dir"
        )


def check_kept(folder):
    """Raise UserError if a run was trained but its checkpoint was removed."""
    if (folder / "log.csv").is_file() and not manifest_path(folder).is_file():
        raise UserError(
            f"{manifest_path(folder)}: not found, so this run can't resume; start another --run, "
            f"with --vgg {folder} from this run's weights"
        )


def save(folder, arrays, progress):
    """Save a state and delete all but the last two.

    folder: of the run; arrays: {name: array}; progress: Progress, whose `saves` counts this one.
    """
    path = manifest_path(folder).with_name(f"state_{progress.saves:06d}.npz")
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, lambda temporary: np.savez(temporary, **arrays))
    state = {
        "arrays": path.name,
        "files": {path.name: file_digest(path, "sha256"), **progress.best_file},
        "progress": dataclasses.asdict(progress),
    }
    states = _read_states(folder)
    _write_states(folder, [state, *states][:STATES_KEPT])
    publish(folder, progress)


def save_best(folder, write, epoch, progress):
    """Let write(path) save the best epoch's weights, and record them in progress."""
    path = manifest_path(folder).with_name(f"best_{epoch:04d}.weights.h5")
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, write)
    progress.best_file = {path.name: file_digest(path, "sha256")}


def load(folder, say):
    """Read the newest undamaged state.

    say: function (message), called for each damaged state. Returns (arrays, Progress), or (None,
    Progress()) for a run without a state. Raises UserError if all states are damaged.
    """
    states = _read_states(folder)
    for number, state in enumerate(states):
        progress = Progress(**state["progress"])
        damaged = [
            name
            for name, digest in state["files"].items()
            if not _is_whole(manifest_path(folder).with_name(name), digest)
        ]
        if not damaged:
            if number:
                _write_states(folder, states[number:])
            publish(folder, progress)
            path = manifest_path(folder).with_name(state["arrays"])
            with np.load(path, allow_pickle=False) as file:
                return dict(file), progress
        path = manifest_path(folder).with_name(damaged[0])
        say(f"{path}: missing or damaged; trying the state saved before it")
    if states:
        raise UserError(f"{path}: missing or damaged, like every other state; use another --run")
    return None, Progress()


def _is_whole(path, digest):
    return path.is_file() and file_digest(path, "sha256") == digest


def _read_states(folder):
    path = manifest_path(folder)
    if not path.is_file():
        return []
    manifest = read_json(path)
    if manifest.get("format") != FORMAT:
        raise UserError(f"{path}: written by another version of this program; use another --run")
    return manifest["states"]


def _write_states(folder, states):
    """Write the manifest and remove files that it does not name."""
    path = manifest_path(folder)
    write_json(path, {"format": FORMAT, "states": states})
    named = {path.name, "lock", "data.json"}.union(*(state["files"] for state in states))
    for other in path.parent.iterdir():
        if other.name not in named:
            other.unlink()


def publish(folder, progress):
    """Write log.csv, event files and best.weights.h5 as progress has them."""
    write_csv(folder / "log.csv", progress.history, LOG_FIELDS)
    event_files.write(folder, progress.history)
    for name in progress.best_file:
        kept, shown = manifest_path(folder).with_name(name), folder / BEST
        if not (shown.is_file() and shown.samefile(kept)):
            write_atomically(shown, functools.partial(_link, kept))


def _link(source, target):
    """Hard-link a file, or copy it if the disk has no links."""
    with contextlib.suppress(FileNotFoundError):
        target.unlink()
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
