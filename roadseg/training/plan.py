"""Plan a run: settings, pictures, folder, precision and time."""

import dataclasses
import math
import platform
import sys
from importlib import metadata
from pathlib import Path

from roadseg import terminal
from roadseg.data import vgg_weights
from roadseg.data.class_weights import weigh_classes
from roadseg.data.datasets import JOINT, Dataset
from roadseg.data.finding import locate
from roadseg.data.layouts import Sample, subsample
from roadseg.devices import Team
from roadseg.engine import (
    BFLOAT16,
    FLOAT32,
    device_kind,
    device_names,
    expected_seconds,
    faster_precision,
    keras,
)
from roadseg.errors import UserError
from roadseg.files import write_json
from roadseg.training import checkpoint, event_files, run_folder

GPU_EPOCHS_FACTOR = 3  # x Dataset.epochs, which suit a CPU; the last gains are slow
# In bfloat16, oneDNN fills the gradient of what fc6's kernel never sees of smaller pictures with
# whatever lies in memory, up to 1e38 (TensorFlow 2.21).
LEAST_SIDE_ROUNDED = 128  # pixels
GPU_BATCH = 16  # pictures a step; fewer leave a GPU waiting (experiments/log.md)
RATE_OF_ONE = 1e-4  # highest learning rate of one picture a step
# Settings that a run keeps when it resumes, and those that each command line adds to.
KEPT = ("pictures_a_step", "head_precision")
GROWING = ("git_commits", "command_lines")


@dataclasses.dataclass(frozen=True)
class Split:
    """The pictures of a run by part."""

    training: list[Sample]
    validation: list[Sample]
    testing: list[Sample]
    labelled: int  # labelled pictures of the data set, before --limit

    @property
    def parts(self):
        """Training, validation and testing samples."""
        return self.training, self.validation, self.testing


@dataclasses.dataclass(frozen=True)
class Job:
    """A run: settings, pictures, recipe, devices and folder."""

    folder: Path
    settings: dict  # of settings.json
    data_set: Dataset
    split: Split
    recipe: object  # main.Recipe
    team: Team


def complete_settings(arguments, used, data_set):
    """Make a run's settings from the command line's arguments and the data set.

    used: the key of DATASETS in use; data_set: its row. Returns a dict for JSON.
    """
    packages = ("keras", "numpy", keras.backend.backend())
    given, weights = vars(arguments).items(), vgg_weights.weights_path(arguments.vgg)
    image_shape = list(arguments.image_shape or data_set.image_shape)
    shapes = dict.fromkeys(data_set.shapes.values())
    batch_size = arguments.batch_size or default_batch_size(data_set)
    return {
        **{
            name: str(value.absolute()) if isinstance(value, Path) else value
            for name, value in given
        },
        "vgg": str(weights.absolute()) if weights else arguments.vgg,
        "dataset": used,
        "classes": list(data_set.classes),
        "paint": data_set.legend,
        "class_weights": arguments.class_weights or data_set.class_weights,
        "dataset_asked_for": JOINT.join(arguments.dataset),
        "batch_size": batch_size,
        "learning_rate": arguments.learning_rate or learning_rate_of(batch_size),
        "image_shape": image_shape,
        "image_shapes": [list(shape) for shape in shapes] or [image_shape],
        "backend": keras.backend.backend(),
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in packages},
        "git_commits": [run_folder.git_commit()],
        "command_lines": [sys.argv],
    }


def find_again(settings, data_dir, classes):
    """Find the data set of a run again. Returns (its row, its folder).

    settings: the run's; data_dir: where to look; classes: the run's. Raises UserError where it is
    not there, or has other classes, or the same in another order.
    """
    data_set, root = locate(settings["dataset"], Path(data_dir))
    if data_set.classes != classes:
        raise UserError(
            f"{root}: has the classes {', '.join(data_set.classes)}; this run has "
            f"{', '.join(classes)}; give the folder of its training as --data-dir"
        )
    return data_set, root


def choose_pictures(data_set, root, seed, limit):
    """Find the pictures, say how many, and split them. Returns Split."""
    labelled, testing = data_set.find(root)
    training, validation = data_set.split(labelled, seed)
    parts = (training, validation, testing or validation)
    split = Split(*(subsample(part, limit) for part in parts), labelled=len(labelled))
    terminal.say(
        f"{data_set.title} in {root}: {len(split.training)} training, "
        f"{len(split.validation)} validation and {len(split.testing)} testing pictures"
        f"{'' if testing else ' (those of validation again)'}\n"
        f"({data_set.label_note(len(labelled), root)})"
    )
    return split


def default_batch_size(data_set):
    """Return the number of pictures a step on each device without --batch-size.

    Not to be asked before several processes have met: it starts the engine.
    """
    return data_set.batch_size if device_kind() == "cpu" else GPU_BATCH


def learning_rate_of(pictures, known=RATE_OF_ONE, known_pictures=1):
    """Scale a learning rate that is known for some number of pictures a step to another number.

    Adam's rule: it grows with the root of their number (S. Malladi et al.: On the SDEs and Scaling
    Rules for Adaptive Gradient Algorithms, arXiv:2205.10287).
    """
    return known * math.sqrt(pictures / known_pictures)


def default_epochs(data_set):
    """Return the number of epochs without --epochs, by kind of device."""
    return data_set.epochs * (1 if device_kind() == "cpu" else GPU_EPOCHS_FACTOR)


def decide_length(folder, settings, earlier, data_set):
    """Decide how long a run trains.

    earlier: its settings so far. Returns {"epochs": None while --minutes is to decide it,
    "patience_since": epoch from which epochs without a better score count, which is where --epochs
    was raised}. Raises UserError if --minutes comes too late.
    """
    before, since = earlier.get("epochs"), earlier.get("patience_since", 0)
    minutes = settings["minutes"]
    if before and minutes not in (None, earlier.get("minutes")):
        raise UserError(
            f"{folder}: --minutes {minutes:g} comes too late, this run has --epochs {before}; "
            "give more --epochs, or another --run"
        )
    epochs = settings["epochs"] or before or (None if minutes else default_epochs(data_set))
    if before and before < epochs:
        since = len(run_folder.read_log(folder))
    return {"epochs": epochs, "patience_since": since}


def open_folder(settings, lock, data_set, team, files, training):
    """Make a run's folder ready to train in, and note its settings, unless the run is finished.

    lock: ExitStack that then keeps other processes away from it; data_set: its row of DATASETS;
    team: that trains; files: of `check.files_below`; training: Samples. Returns (its path as text,
    settings to keep: {} for a run that is finished). A run that resumes keeps its epochs, its
    steps, their precision and the weights of classes, on any machine.
    """
    if settings["tensorboard"]:
        event_files.load_tensorflow()
    folder = run_folder.open_run(Path(settings["runs_dir"]), settings["run"])
    earlier = run_folder.earlier_settings(folder)
    decided = decide_length(folder, settings, earlier, data_set)
    if run_folder.is_finished(folder, settings | decided, files):
        more = "--epochs or --patience" if run_folder.ended_early(folder, earlier) else "--epochs"
        terminal.say(f"{folder}: this run is finished; give more {more} to resume it")
        return str(folder), {}
    checkpoint.check_kept(folder)
    lock.enter_context(run_folder.lock_run(folder))
    decided |= decide_steps(settings, earlier, team)
    decided["weights_of_classes"] = earlier.get("weights_of_classes") or weigh_classes(
        settings["class_weights"], training, data_set
    )
    run_folder.note_settings(folder, settings | decided)
    write_json(run_folder.data_path(folder), files)
    if settings["tensorboard"]:
        event_files.prepare(folder)
    (folder / "metrics.json").unlink(missing_ok=True)  # of fewer epochs: it would seem finished
    tell_length(folder, settings | decided, earlier)
    return str(folder), decided


def decide_steps(settings, earlier, team):
    """Decide how a run takes its steps, and note which program takes them.

    earlier: its settings so far, which it keeps. Returns settings.
    """
    precision = earlier.get("training_precision") or settings["precision"]
    precision = faster_precision() if precision == "auto" else precision
    is_seen = min(map(min, settings["image_shapes"])) >= LEAST_SIDE_ROUNDED
    head = BFLOAT16 if precision == BFLOAT16 and is_seen and not earlier else FLOAT32
    return {
        "pictures_a_step": settings["batch_size"] * team.devices,
        "training_precision": precision,
        "head_precision": head,
        **{name: earlier[name] for name in KEPT if name in earlier},
        **{name: earlier.get(name, []) + settings[name] for name in GROWING},
    }


def tell_length(folder, settings, earlier):
    """Print how long a run trains; earlier: its settings so far."""
    epochs, before = settings["epochs"], earlier.get("epochs")
    if before and before != epochs:
        done = len(run_folder.read_log(folder))
        change = "rises again" if before < epochs else "drops at once"
        terminal.say(
            f"{folder}: epochs done: {done}, asked for: {epochs}; no more follow"
            if epochs <= done
            else f"{folder}: --epochs {epochs} instead of {before}: the learning rate {change}, "
            f"and the result differs from a run planned with {epochs}"
        )
    length = terminal.counted(epochs, "epoch") if epochs else f"{settings['minutes']:g} min"
    shapes = run_folder.shapes_text(settings)
    terminal.say(f"run: {folder}, {length}, pictures of {shapes} pixels")


def tell_plan(job, network):
    """Print devices, precision and estimated time."""
    settings, devices, shape = job.settings, job.team.devices, job.settings["image_shape"]
    precision, length = settings["training_precision"], "timing an epoch"
    if epochs := settings["epochs"]:
        trained, predicted = (epochs * len(part) for part in job.split.parts[:2])
        seconds = expected_seconds(network, shape, precision, trained, predicted)
        length = f"about {math.ceil(seconds / 60 / devices)} min in total"
    terminal.say(
        f"{precision}, {settings['pictures_a_step']} pictures a step, on {device_names(devices)}: "
        f"{length}"
    )
