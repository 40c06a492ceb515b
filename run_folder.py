"""The run folder: settings, log and checkpoints, each written whole or not at all.

No Keras here: models come as arguments.
"""

import contextlib
import csv
import io
import itertools
import json
import os
import time

from datasets import UserError
from download import file_digest

LOG_FIELDS = (
    "epoch", "seconds", "loss", "val_loss", "val_iou", "val_max_f", "learning_rate",
)  # fmt: skip
# A run goes on only with these as they were.
FIXED_SETTINGS = (
    "dataset", "data_dir", "vgg", "image_shape", "batch_size", "learning_rate", "precision", "seed",
    "limit", "backend",
)  # fmt: skip


def open_run(runs_dir, name):
    """Return the run's folder, made if need be; a run without a name gets the date and time."""
    if name:
        folder = runs_dir / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    stamp = time.strftime("%Y-%m-%d_%H%M")
    for ending in itertools.chain([""], (f"_{number}" for number in itertools.count(2))):
        with contextlib.suppress(FileExistsError):
            folder = runs_dir / (stamp + ending)
            folder.mkdir(parents=True)
            return folder


def claim_run(folder, settings):
    """Write settings.json, or check that an older one allows to go on.

    settings: dict of the settings. Returns True when the run is finished. Raises UserError where a
    setting differs that makes going on wrong.
    """
    path = folder / "settings.json"
    if path.is_file():
        earlier = read_json(path)
        for name in FIXED_SETTINGS:
            if earlier.get(name) != settings[name]:
                raise UserError(
                    f"{folder}: this run has {name} {earlier.get(name)}, not {settings[name]}; "
                    "give the same settings to go on with it, or another --run"
                )
        if (folder / "metrics.json").is_file() and earlier["epochs"] >= settings["epochs"]:
            return True
    elif any(folder.iterdir()):
        raise UserError(f"{folder}: is no run folder (it has no settings.json); use another --run")
    write_json(path, settings)
    return False


def write_atomically(path, write):
    """Let write(temporary path) make a file, then give it its name: whole or not at all.

    The temporary file keeps the suffixes, which decide on the format, and is synced to the disk.
    """
    temporary = path.with_name(f"partial.{path.name}")
    write(temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path, content):
    """Write content as indented JSON, atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path):
    """Read a JSON file of a run. Raises UserError that names a damaged one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); use another --run") from error


def save_checkpoint(folder, model, history, best):
    """Save what a resume needs after an epoch, and log.csv.

    model: compiled, so that its optimizer is saved too; history: one dict of LOG_FIELDS an epoch;
    best: the history row of the best epoch. The manifest is written last: it alone says what
    counts, so a save that is cut off changes nothing.
    """
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir(exist_ok=True)
    weights = checkpoint / f"epoch_{len(history):04d}.weights.h5"
    write_atomically(weights, model.save_weights)
    files = {weights.name: file_digest(weights, "sha256")}
    manifest = {"format": 1, "files": files, "best": best, "history": history}
    write_json(manifest_path(folder), manifest)
    for other in checkpoint.glob("epoch_*.weights.h5"):
        if other != weights:
            other.unlink()
    write_log(folder / "log.csv", history)


def manifest_path(folder):
    """Return where a run's manifest lies; it is there once the run has an epoch to go on from."""
    return folder / "checkpoint" / "manifest.json"


def load_checkpoint(folder, model):
    """Bring a compiled model back to where the run's last checkpoint left it.

    Returns (history, best), ([], None) where there is no checkpoint. Raises UserError where its
    weights are damaged.
    """
    path = manifest_path(folder)
    if not path.is_file():
        return [], None
    manifest = read_json(path)
    ((name, digest),) = manifest["files"].items()
    weights = path.with_name(name)
    if not weights.is_file() or file_digest(weights, "sha256") != digest:
        raise UserError(f"{weights}: missing or damaged; start again with another --run")
    model.optimizer.build(model.trainable_variables)  # or its state would be skipped
    model.load_weights(weights)
    write_log(folder / "log.csv", manifest["history"])
    return manifest["history"], manifest["best"]


def write_log(path, history):
    """Write log.csv anew, so that it has each epoch once whatever happened before."""
    text = io.StringIO()
    writer = csv.DictWriter(text, LOG_FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_atomically(path, lambda temporary: temporary.write_text(text.getvalue()))
