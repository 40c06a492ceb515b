"""Train step by step; a run that is killed or fails resumes from its last checkpoint.

On the CPU an interrupted run ends with the same weights as an uninterrupted one. Keras'
`BackupAndRestore` is not atomic and does not save the best epoch or the random state.
"""

import contextlib
import copy
import dataclasses
import math
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from roadseg import devices, terminal
from roadseg.engine import keras
from roadseg.errors import LossError, TrainingError, UserError
from roadseg.training import checkpoint, run_folder
from roadseg.training.steps import StepsAhead, take_step

SAVE_SECONDS = 180  # between checkpoints within an epoch
SAVING_SHARE = 0.02  # of the time, at most, that training waits for checkpoints between epochs
WRITING_SHARE = 0.2  # of the time, at most, that the disk is busy with them
MAXIMUM_RETURNS = 3  # to an earlier state, because the loss was not finite
STEPS_AHEAD = 32  # of a GPU, before their losses are looked at
TRAINING_COST = 3  # of a training picture, in forward passes; the backward pass costs 2


class Training:
    """A network, its optimizer and its progress: what a checkpoint holds."""

    def __init__(
        self,
        network,
        compile_network,
        folder,
        team=devices.ONE_DEVICE,
        least_slices=1,
        patience=0,
        patience_since=0,
        is_ahead=False,
    ):
        """Resume from the run's newest state, or start with the network as it is.

        network: of `main.layers`; compile_network: function (slowdown, slices) -> result of
        `main.optimize`; folder: of the run, used by process 0 alone; least_slices: fewest slices
        of a batch; patience: epochs without a better validation score that end the training, 0: it
        does not end early; patience_since: the epoch from which they count; is_ahead: whether steps
        on batches that are on the device are not waited for.
        """
        self.network, self.compile_network = network, compile_network
        self.folder, self.team, self.least_slices = folder, team, least_slices
        self.patience, self.patience_since = patience, patience_since
        self.saving_seconds, self.writing_seconds, self.best_weights = 0.0, 0.0, None
        self.writer, self.writing = ThreadPoolExecutor(1), None  # a thread; what it is writing
        self.is_ahead, self.pending = is_ahead, []  # (loss or function () -> loss, names) of steps
        if not self.restore():
            self.save()

    def restore(self, **changes):
        """Load the newest undamaged state, with changes to its Progress.

        Returns whether there was one. Raises UserError if it is of another network.
        """
        self.wait_for_writing()
        arrays = {}

        def load():
            found, progress = checkpoint.load(self.folder, terminal.say)
            arrays.update(found or {})
            return bool(found), dataclasses.asdict(progress)

        is_there, progress = self.team.from_first(load)
        self.progress = progress = checkpoint.Progress(**progress | changes)
        self.slices = max(progress.slices, self.least_slices) if self.team.accumulates else 1
        self.compiled = self.compile_network(0.5**progress.returns, self.slices)
        self.compiled.optimizer.build(self.compiled.trainable_variables)
        if is_there:
            self.assign(arrays)
        is_whole = self.slices == 1 and self.is_ahead
        self.take_ahead = StepsAhead(self.compiled) if is_whole else None
        self.pending.clear()
        self.last_loss, self.last_names = math.nan, []
        self.best_weights = None  # a better epoch than the saved ones is trained again
        self.saved_at = time.monotonic()
        if changes:
            self.save()
            self.team.from_first(lambda: run_folder.note_settings(self.folder, changes))
        return is_there

    def assign(self, arrays):
        """Assign a state to all variables; arrays: {name: array}, in process 0."""
        variables = self.variables()
        expected = {name: (tuple(v.shape), v.dtype) for name, v in variables.items()}
        found = {name: (array.shape, str(array.dtype)) for name, array in arrays.items()}
        if self.team.is_first and found != expected:
            differ = {name for name, _ in found.items() ^ expected.items()}
            raise UserError(
                f"{self.folder}: its checkpoint is of another network ({min(differ)} is not in "
                "both, or of another shape); use another --run"
            )
        for name, variable in variables.items():
            here = arrays.get(name, np.zeros(variable.shape, variable.dtype))
            array = self.team.broadcast(here.astype(variable.dtype))
            variable.assign(array * self.slices if variable.name == "iteration" else array)

    def variables(self):
        """Return {name: variable} of weights, dropout seeds and optimizer."""
        weights = {variable.path: variable for variable in self.network.weights}
        # Dropout with rate 0 has no seed generator.
        dropouts = [
            x for x in self.network.layers if isinstance(x, keras.layers.Dropout) and x.rate
        ]
        seeds = {f"{layer.name}/seed": layer.seed_generator.state for layer in dropouts}
        kept = [v for v in self.compiled.optimizer.variables if "accumulator" not in v.name]
        return weights | seeds | {f"optimizer/{index}/{v.name}": v for index, v in enumerate(kept)}

    def save(self, in_background=False):
        """Save a state. If a weight is not finite, save nothing and raise LossError.

        in_background: whether it is written while training goes on. If that fails, the next save
        tries again and is waited for; what then fails is raised.
        """
        self.settle()
        started = time.monotonic()
        if not self.team.from_first(lambda: self._save_finite(in_background)):
            raise LossError("the weights are NaN or infinite")
        self.saved_at = time.monotonic()
        self.saving_seconds = self.saved_at - started

    def save_epoch(self, epochs):
        """Save at an epoch's end, if that takes little of the time or it is the last.

        epochs: those to train. Several processes, which could disagree, save each epoch.
        """
        passed, is_over = time.monotonic() - self.saved_at, self.is_over(epochs)
        least = max(self.saving_seconds / SAVING_SHARE, self.writing_seconds / WRITING_SHARE)
        if passed > least or self.team.processes > 1 or is_over:
            self.save(in_background=not is_over)

    def _save_finite(self, in_background):
        """Save a state if all of it is finite. Returns whether it is."""
        has_failed = self.wait_for_writing()
        arrays = {}
        for name, variable in self.variables().items():
            array = keras.ops.convert_to_numpy(variable)  # a copy
            if not np.isfinite(array).all():
                return False
            arrays[name] = array // self.slices if variable.name == "iteration" else array
        if self.best_weights:
            epoch = self.progress.best["epoch"]
            checkpoint.save_best(self.folder, self._write_best, epoch, self.progress)
            self.best_weights = None
        self.progress.saves += 1
        if in_background and not has_failed:
            self.writing = self.writer.submit(self._write, arrays, copy.deepcopy(self.progress))
        else:
            self._write(arrays, self.progress)
        return True

    def _write(self, arrays, progress):
        """Write a state, and note how long that takes."""
        began = time.monotonic()
        checkpoint.save(self.folder, arrays, progress)
        self.writing_seconds = time.monotonic() - began

    def wait_for_writing(self):
        """Wait for what is written in the background. Returns whether that failed."""
        writing, self.writing = self.writing, None
        return writing is not None and writing.exception() is not None

    def _write_best(self, path):
        """Write the weights of the best epoch; the network keeps those that it has."""
        if self.progress.best is self.progress.history[-1] and not self.progress.step:
            self.network.save_weights(path)  # it has them
            return
        now = self.network.get_weights()
        self.network.set_weights(self.best_weights)
        self.network.save_weights(path)
        self.network.set_weights(now)

    def step(self, pictures, labels, names):
        """Take a step on this process's share of a batch of the named pictures.

        Raises LossError, of steps ahead up to STEPS_AHEAD steps later.
        """
        started, count = time.monotonic(), len(names)
        if self.take_ahead:
            loss = self.take_ahead(pictures, labels, count)
        else:
            pair = map(keras.ops.convert_to_numpy, (pictures, labels))
            loss = take_step(self.compiled, *pair, self.team, count, self.slices)
        self.pending.append((loss, names))
        self.progress.step += 1
        self.progress.pictures += count
        if not self.take_ahead or len(self.pending) > STEPS_AHEAD:
            self.settle()
        self.progress.seconds += time.monotonic() - started

    def settle(self):
        """Wait for the steps that were taken, and add up their losses. Raises LossError once."""
        if self.take_ahead:
            self.take_ahead.settle()
        pending, self.pending = self.pending, []
        first = self.progress.step - len(pending) + 1
        for step, (loss, names) in enumerate(pending, start=first):
            loss = loss() if callable(loss) else loss
            if not math.isfinite(loss):
                # A finite loss can have NaN gradients, which only the next loss shows.
                both = [names, self.last_names] if step > 1 and self.last_names else [names]
                suspects = " or, in the step before, ".join(map(" ".join, both))
                raise LossError(f"the loss is {loss} at {self.place(step)}, on {suspects}")
            self.progress.loss_sum += loss * len(names)
            self.last_loss, self.last_names = loss, names

    def finish_epoch(self, validate):
        """Validate the network and keep its weights if they are the best. Returns a log row.

        validate: function () -> Tally, called by process 0 alone.
        """
        progress, started = self.progress, time.monotonic()
        self.settle()

        def judge():
            row = log_row(progress, validate(), self.compiled.optimizer)
            return row | {"seconds": round(progress.seconds + time.monotonic() - started, 1)}

        row = self.team.from_first(judge)
        if progress.best is None or selection_score(row) > selection_score(progress.best):
            progress.best = row
            self.best_weights = self.network.get_weights() if self.team.is_first else None
        progress.history.append(row)
        progress.begin_epoch()
        return row

    def is_over(self, epochs):
        """Return whether a training of so many epochs is over."""
        done, best = len(self.progress.history), self.progress.best
        since = max(best["epoch"] if best else 0, self.patience_since)
        return done >= epochs or 0 < self.patience <= done - since

    def tell_end(self, epochs):
        """Say why a training of so many epochs is over, if it ends early."""
        done = len(self.progress.history)
        if done < epochs:
            waited = terminal.counted(self.patience, "epoch")
            terminal.say(
                f"no better validation score in {waited}: training ends after epoch {done} of "
                f"{epochs}; epoch {self.progress.best['epoch']} is the best"
            )

    def go_back(self, reason):
        """Return to the newest state with half the learning rate, MAXIMUM_RETURNS times."""
        returns = self.progress.returns + 1
        if returns > MAXIMUM_RETURNS:
            raise TrainingError(
                f"{reason}; {MAXIMUM_RETURNS} returns, each with half the learning rate, did not "
                "help; the last checkpoint is kept: try a lower --learning-rate or --precision "
                "float32 in a new --run"
            )
        self.restore(returns=returns)
        terminal.say(
            f"{reason}; back to {self.place()}, with half the learning rate (return {returns})"
        )

    def cut_batches(self, reason, batch_size):
        """Return to the newest state and cut batches into twice as many slices."""
        slices, team = 2 * self.slices, self.team
        # Of several processes perhaps only one is short of memory.
        if slices * team.own_devices > batch_size or team.processes > 1 or not team.accumulates:
            raise TrainingError(
                f"{reason}: try a smaller --image-shape or --batch-size, in a new --run"
            )
        self.restore(slices=slices)
        terminal.say(f"{reason}; back to {self.place()}, each batch cut into {slices} slices")

    def place(self, step=None):
        """Return the current epoch and a step, default: the current one, as text."""
        step = self.progress.step if step is None else step
        return f"epoch {len(self.progress.history) + 1}, step {step}"


def train_epoch(training, get_batches_fn, batch_size, stopping, bar=None):
    """Take the remaining steps of an epoch, saving every SAVE_SECONDS."""
    progress = training.progress
    epoch = len(progress.history)
    for pictures, labels in get_batches_fn(batch_size, epoch, progress.step):
        names = get_batches_fn.names(batch_size, epoch, progress.step)
        training.step(pictures, labels, names)
        if bar is not None:
            bar.update(TRAINING_COST * len(names))
            bar.set_postfix_str(f"loss {training.last_loss:.4f}", refresh=False)
        is_due = time.monotonic() - training.saved_at > SAVE_SECONDS
        requested, is_due = training.team.largest([stopping.requested or 0, is_due])
        if requested:  # in any process
            stopping.requested = requested
        stopping.check()
        if is_due:
            training.save(in_background=True)


def tell(row, epochs, is_best):
    """Print the scores of an epoch; row: of the log."""
    f1 = f"F1 {row['val_max_f']:.2f}, " if row["val_max_f"] is not None else ""
    best = ", the best so far" if is_best else ""
    terminal.say(
        f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}, validation loss "
        f"{row['val_loss']:.4f}, mean IoU {row['val_iou']:.2f}, {f1}{row['seconds']:.0f} s{best}"
    )


def log_row(progress, tally, optimizer):
    """Make the row of log.csv for the finished epoch, without "seconds"."""
    scores = tally.scores()
    perspective = scores.get("perspective")
    return {
        "epoch": len(progress.history) + 1,
        "loss": progress.loss_sum / max(progress.pictures, 1),
        "val_loss": tally.loss,
        "val_iou": scores["mean_iou"],
        "val_max_f": perspective["all"]["MaxF"] if perspective else None,
        "learning_rate": float(keras.ops.convert_to_numpy(optimizer.learning_rate)),
        "returns": progress.returns,
    }


def selection_score(row):
    """Return the score that chooses the best epoch: MaxF, else mean IoU."""
    return row["val_iou"] if row["val_max_f"] is None else row["val_max_f"]


@contextlib.contextmanager
def disk_errors(folder):
    """Turn an OSError of a run's folder into a TrainingError that says what to do."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{error.filename or folder}: {error.strerror or error}; what was saved before is "
            f"kept: put the disk right, then the same command with --run {folder.name} resumes"
        ) from error
