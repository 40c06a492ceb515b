"""TensorBoard's event files: RUN/tensorboard holds one for each epoch.

So each is written whole, an epoch is never there twice, and an open TensorBoard finds new ones. Of
TensorFlow only the format of the files is used, which takes no memory of a GPU from another engine.
"""

import functools
import os
import time

from roadseg import terminal
from roadseg.errors import UserError
from roadseg.files import write_atomically

SCALARS = ("loss", "val_loss", "val_iou", "val_max_f", "learning_rate")  # columns of log.csv
NAME = "events.out.tfevents."  # by which TensorBoard knows them


def prepare(folder):
    """Make the folder in which `write` writes."""
    (folder / "tensorboard").mkdir(exist_ok=True)


def write(folder, history):
    """Bring a run's event files, where it has a folder for them, in line with its epochs.

    history: rows of log.csv.
    """
    folder = folder / "tensorboard"
    if not folder.is_dir():
        return
    rows = {folder / f"{NAME}{row['epoch']:010d}": row for row in history}
    for path in set(folder.glob(f"*{NAME}*")) - rows.keys():
        path.unlink()
    for path in (path for path in rows if not path.is_file()):
        write_atomically(path, functools.partial(_write_epoch, rows[path]))


def _write_epoch(row, path):
    """Write the event file of an epoch."""
    tensorflow = load_tensorflow()
    v1, now = tensorflow.compat.v1, time.time()
    values = [
        v1.Summary.Value(tag=name, simple_value=row[name])
        for name in SCALARS
        if row[name] is not None
    ]
    events = [
        v1.Event(wall_time=now, file_version="brain.Event:2"),
        v1.Event(wall_time=now, step=row["epoch"], summary=v1.Summary(value=values)),
    ]
    with tensorflow.io.TFRecordWriter(os.fsencode(path)) as file:
        for event in events:
            file.write(event.SerializeToString())


def load_tensorflow():
    """Import TensorFlow. Raises UserError where it is missing."""
    try:
        with terminal.quiet_standard_error():
            import tensorflow
    except ImportError:
        raise UserError(
            "--tensorboard: needs TensorFlow, which is missing: pip install tensorflow"
        ) from None
    return tensorflow
