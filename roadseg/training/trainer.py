"""Train step by step; a run that is killed or fails resumes from its last checkpoint.

On the CPU an interrupted run ends with the same weights as an uninterrupted one. Keras'
`BackupAndRestore` is not atomic and does not save the best epoch or the random state.
"""

import dataclasses
import math
import time

import numpy as np

from roadseg import devices, terminal
from roadseg.engine import keras
from roadseg.errors import LossError, MemoryShortError, TrainingError, UserError
from roadseg.training import checkpoint, run_folder

SAVE_SECONDS = 180  # between checkpoints within an epoch
MAXIMUM_RETURNS = 3  # to an earlier state, because the loss was not finite
OUT_OF_MEMORY = ("MemoryError", "ResourceExhausted", "RESOURCE_EXHAUSTED")  # of any engine
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
    ):
        """Resume from the run's newest state, or start with the network as it is.

        network: of `main.layers`; compile_network: function (slowdown, slices) -> result of
        `main.optimize`; folder: of the run, used by process 0 alone; least_slices: fewest slices
        of a batch; patience: epochs without a better validation score that end the training, 0: it
        does not end early; patience_since: the epoch from which they count.
        """
        self.network, self.compile_network = network, compile_network
        self.folder, self.team, self.least_slices = folder, team, least_slices
        self.patience, self.patience_since = patience, patience_since
        if not self.restore():
            self.save()

    def restore(self, **changes):
        """Load the newest undamaged state, with changes to its Progress.

        Returns whether there was one. Raises UserError if it is of another network.
        """
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

    def save(self):
        """Save a state. If a weight is not finite, save nothing and raise LossError."""
        if not self.team.from_first(self._save_finite):
            raise LossError("the weights are NaN or infinite")
        self.saved_at = time.monotonic()

    def _save_finite(self):
        """Save a state if all of it is finite. Returns whether it was saved."""
        arrays = {}
        for name, variable in self.variables().items():
            array = keras.ops.convert_to_numpy(variable)
            if not np.isfinite(array).all():
                return False
            arrays[name] = array // self.slices if variable.name == "iteration" else array
        checkpoint.save(self.folder, arrays, self.progress)
        return True

    def step(self, pictures, labels, count):
        """Take a step on this process's share of a batch of `count` pictures. Returns its loss."""
        progress, started = self.progress, time.monotonic()
        loss = take_step(self.compiled, pictures, labels, self.team, count, self.slices)
        progress.step += 1
        progress.pictures += count
        progress.loss_sum += loss * count
        progress.seconds += time.monotonic() - started
        return loss

    def finish_epoch(self, validate):
        """Validate the network and save its weights if they are the best. Returns a log row.

        validate: function () -> Tally, called by process 0 alone.
        """
        progress, started = self.progress, time.monotonic()

        def judge():
            row = log_row(progress, validate(), self.compiled.optimizer)
            return row | {"seconds": round(progress.seconds + time.monotonic() - started, 1)}

        row = self.team.from_first(judge)
        if progress.best is None or selection_score(row) > selection_score(progress.best):
            progress.best = row
            if self.team.is_first:
                save_weights = self.network.save_weights
                checkpoint.save_best(self.folder, save_weights, row["epoch"], progress)
        progress.history.append(row)
        progress.begin_epoch()
        return row

    def is_over(self, epochs):
        """Return whether a training of so many epochs is over. That it ends early is said."""
        done, best = len(self.progress.history), self.progress.best
        since = max(best["epoch"] if best else 0, self.patience_since)
        if done < epochs and 0 < self.patience <= done - since:
            terminal.say(
                f"no better validation score in {self.patience} epochs: training ends after epoch "
                f"{done} of {epochs}; epoch {best['epoch']} is the best"
            )
            return True
        return done >= epochs

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

    def place(self):
        """Return the current epoch and step, as text."""
        return f"epoch {len(self.progress.history) + 1}, step {self.progress.step}"


def train_epoch(training, get_batches_fn, batch_size, stopping, bar=None):
    """Take the remaining steps of an epoch, saving every SAVE_SECONDS."""
    progress = training.progress
    epoch = len(progress.history)
    for pictures, labels in get_batches_fn(batch_size, epoch, progress.step):
        names = get_batches_fn.names(batch_size, epoch, progress.step)
        loss = training.step(pictures, labels, len(names))
        if not math.isfinite(loss):
            # A finite loss can have NaN gradients, which only the next loss shows.
            suspects = [" ".join(names)]
            if progress.step > 1:
                before = get_batches_fn.names(batch_size, epoch, progress.step - 2)
                suspects.append(" ".join(before))
            pictures = " or, in the step before, ".join(suspects)
            raise LossError(f"the loss is {loss} at {training.place()}, on {pictures}")
        if bar is not None:
            bar.update(TRAINING_COST * len(names))
            bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
        is_due = time.monotonic() - training.saved_at > SAVE_SECONDS
        requested, is_due = training.team.largest([stopping.requested or 0, is_due])
        if requested:  # in any process
            stopping.requested = requested
        stopping.check()
        if is_due:
            training.save()


def take_step(compiled, pictures, labels, team=devices.ONE_DEVICE, count=None, slices=1):
    """Train on one batch in equal slices; the optimizer accumulates their gradients.

    pictures, labels: arrays [N, ...], this process's share of the batch; count: pictures in the
    batch of all processes, default N. Rows that fill it up to equal slices have weight 0. Returns
    the mean loss over `count` pictures. Raises MemoryShortError.
    """
    size, losses = len(labels), []
    count = count or size
    places = devices.fill_up(size, slices * team.own_devices)
    weights = np.zeros(len(places), np.float32)
    weights[:size] = team.real_rows(count, size)
    weights *= len(places) * team.processes / count
    try:
        cut = (np.split(array, slices) for array in (places, weights))
        for chosen, chosen_weights in zip(*cut, strict=True):
            compiled.reset_metrics()  # else the loss is the mean since the start
            batch = pictures[chosen], labels[chosen], chosen_weights
            losses.append(float(compiled.train_on_batch(*map(team.shard_step, batch))))
    except Exception as error:  # each engine has its own class for this
        if any(sign in repr(error) for sign in OUT_OF_MEMORY):
            shape = "x".join(map(str, labels.shape))
            raise MemoryShortError(f"no memory for a batch of {shape} pixels") from error
        raise
    return sum(losses) / slices


def tell(row, epochs, is_best):
    """Print the scores of an epoch; row: of the log."""
    f1 = f"F1 {row['val_max_f']:.2f}, " if row["val_max_f"] is not None else ""
    best = ", the best so far" if is_best else ""
    terminal.say(
        f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}, validation loss "
        f"{row['val_loss']:.4f}, IoU {row['val_iou']:.2f}, {f1}{row['seconds']:.0f} s{best}"
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


def disk_error(error, folder):
    """Turn an OSError of a run's folder into a TrainingError that says what to do."""
    return TrainingError(
        f"{error.filename or folder}: {error.strerror or error}; what was saved before is kept: "
        "put the disk right, then the same command goes on"
    )
