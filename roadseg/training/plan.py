"""Settles what a run needs before it trains: settings, pictures, its folder, precision, time."""

import math
import platform
import sys
from importlib import metadata
from pathlib import Path

from roadseg import devices, terminal
from roadseg.data.layouts import spread
from roadseg.engine import device_kind, device_names, expected_seconds, faster_precision, keras
from roadseg.training import checkpoint, run_folder

# Of a data set's epochs, which are what processors have time for: the last of the quality comes
# slowly (experiments/log.md).
GPU_EPOCHS_FACTOR = 3


def complete_settings(arguments, used, data_set):
    """Make a run's settings of the command line's arguments and what depends on the data set.

    used: the key of DATASETS that is really used; data_set: its row. Returns a dict that JSON can
    hold.
    """
    packages = ("keras", "numpy", keras.backend.backend())
    given = vars(arguments).items()
    return {
        **{name: str(value) if isinstance(value, Path) else value for name, value in given},
        "dataset": used,
        "dataset_asked_for": arguments.dataset,
        "classes": list(data_set.classes),
        "image_shape": list(arguments.image_shape or data_set.image_shape),
        "backend": keras.backend.backend(),
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in packages},
        "git_commit": run_folder.git_commit(),
        "command_line": sys.argv,
    }


def choose_pictures(data_set, root, settings):
    """Find the pictures and say how many. Returns training, validation and testing samples.

    Notes in settings what a score on the labels means.
    """
    labelled, testing = data_set.find(root)
    training, validation = data_set.split(labelled, settings["seed"])
    parts = training, validation, testing or validation
    parts = training, validation, testing = [spread(part, settings["limit"]) for part in parts]
    settings["labels"] = data_set.label_note(len(labelled), root)
    terminal.say(
        f"{data_set.title} in {root}: {len(training)} pictures to train on, {len(validation)} to "
        f"validate, {len(testing)} to paint\n({settings['labels']})"
    )
    return parts


def default_epochs(data_set):
    """Return how often each picture is seen if nobody says how often: what there is time for."""
    return data_set.epochs * (1 if device_kind() == "cpu" else GPU_EPOCHS_FACTOR)


def open_folder(settings, lock, data_set):
    """Open the run's folder.

    lock: ExitStack that then keeps other processes away from it; data_set: its row of DATASETS.
    Returns (its path as text, settings to keep: {} for a run that is finished). A run that goes on
    keeps its epochs, its steps and their precision, whatever machine it is on now.
    """
    folder = run_folder.open_run(Path(settings["runs_dir"]), settings["run"])
    earlier = run_folder.earlier_settings(folder)
    epochs = settings["epochs"] or earlier.get("epochs") or default_epochs(data_set)
    decided = {"epochs": epochs}
    if run_folder.is_finished(folder, settings | decided):
        terminal.say(f"{folder}: this run is finished; nothing to do (more --epochs would go on)")
        return str(folder), {}
    checkpoint.check_kept(folder)
    lock.enter_context(run_folder.lock_run(folder))
    precision = settings["precision"]
    together = settings["batch_size"] * devices.team().devices
    decided |= {
        "pictures_a_step": earlier.get("pictures_a_step", together),
        "training_precision": earlier.get("training_precision")
        or (faster_precision() if precision == "auto" else precision),
    }
    run_folder.note_settings(folder, settings | decided)
    (folder / "metrics.json").unlink(missing_ok=True)  # of fewer epochs: it would seem finished
    shape = "x".join(map(str, settings["image_shape"]))
    terminal.say(f"run: {folder}, {epochs} epochs, pictures of {shape} pixels")
    return str(folder), decided


def tell_plan(network, settings, trained, predicted):
    """Say on what, in what and about how long training will go on.

    trained, predicted: how many pictures will be, in all.
    """
    team = devices.team()
    seconds = expected_seconds(
        network, settings["image_shape"], settings["training_precision"], trained, predicted
    )
    minutes = math.ceil(seconds / 60 / team.devices)
    terminal.say(
        f"{settings['training_precision']}, {settings['pictures_a_step']} pictures a step, on "
        f"{device_names(team.devices)}: about {minutes} min in all"
    )
