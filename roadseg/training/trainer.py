"""Takes the steps of a training, and survives what may happen meanwhile.

Kills, signals, full disks, a loss of NaN, too little memory: what a checkpoint holds is never lost,
and a run that was interrupted ends where an undisturbed one does. Keras' `fit` with
`BackupAndRestore` promises neither: it saves in place, and forgets the best epoch and the state of
the random numbers.
"""

import dataclasses
import math
import time

import numpy as np

from roadseg import devices, terminal
from roadseg.engine import keras
from roadseg.errors import LossError, MemoryShortError, TrainingError, UserError
from roadseg.training import checkpoint, run_folder

SAVE_SECONDS = 180  # between two checkpoints within an epoch
MAXIMUM_RETURNS = 3  # to an earlier state, because the loss was NaN
OUT_OF_MEMORY = ("MemoryError", "ResourceExhausted", "RESOURCE_EXHAUSTED")  # in any backend's words
TRAINING_COST = 3  # of a training picture, in forward passes: the backward pass is worth two


class Training:
    """A network, how it is compiled, and how far its training is: what a checkpoint holds."""

    def __init__(self, network, compile_network, folder, team=devices.ONE_DEVICE, least_slices=1):
        """Resume from the run's newest state, or begin with the network as it is.

        network: of `main.layers`; compile_network: function (slowdown, slices) -> what
        `main.optimize` gives; folder: of the run, which the first of several processes alone reads
        and writes; least_slices: that a batch is cut into at least.
        """
        self.network, self.compile_network = network, compile_network
        self.folder, self.team, self.least_slices = folder, team, least_slices
        if not self.restore():
            self.save()

    def restore(self, **changes):
        """Bring everything to the newest whole state, with changes to its Progress.

        Returns whether there was a state. Raises UserError where it is of another network.
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
        """Give all variables the values of a state; arrays: {name: array}, in the first process."""
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
        """Return {name: variable} of weights, dropout and optimizer: what outlives a step."""
        weights = {variable.path: variable for variable in self.network.weights}
        # Without a rate they draw nothing, and have no generator.
        dropouts = [
            x for x in self.network.layers if isinstance(x, keras.layers.Dropout) and x.rate
        ]
        seeds = {f"{layer.name}/seed": layer.seed_generator.state for layer in dropouts}
        kept = [v for v in self.compiled.optimizer.variables if "accumulator" not in v.name]
        return weights | seeds | {f"optimizer/{index}/{v.name}": v for index, v in enumerate(kept)}

    def save(self):
        """Save a state. Raises LossError, and saves nothing, where a weight is not finite."""
        if not self.team.from_first(self._save_finite):
            raise LossError("the weights are NaN or infinite")
        self.saved_at = time.monotonic()

    def _save_finite(self):
        """Save a state if all of it is finite. Returns whether it is."""
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
        """Validate the network; keep its weights where they are the best. Returns a log row.

        validate: function () -> Tally, called by the first process alone.
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

    def go_back(self, reason):
        """Return to the newest state with half the rate; too often raises TrainingError."""
        returns = self.progress.returns + 1
        if returns > MAXIMUM_RETURNS:
            raise TrainingError(
                f"{reason}; {MAXIMUM_RETURNS} returns with half the rate each did not help; the "
                "last checkpoint is kept: try a lower --learning-rate, or --precision float32, in "
                "a new --run"
            )
        self.restore(returns=returns)
        terminal.say(f"{reason}; back to {self.place()}, with half the rate (return {returns})")

    def cut_batches(self, reason, batch_size):
        """Return to the newest state and cut batches into twice as many slices from there on."""
        slices, team = 2 * self.slices, self.team
        # Of several processes not all need be short of memory.
        if slices * team.own_devices > batch_size or team.processes > 1 or not team.accumulates:
            raise TrainingError(
                f"{reason}: try a smaller --image-shape or --batch-size, in a new --run"
            )
        self.restore(slices=slices)
        terminal.say(f"{reason}; back to {self.place()}, each batch cut into {slices} slices")

    def place(self):
        """Say where the training stands."""
        return f"epoch {len(self.progress.history) + 1}, step {self.progress.step}"


def train_epoch(training, get_batches_fn, batch_size, stopping, bar=None):
    """Take the steps that are left of an epoch, saving every few minutes."""
    progress = training.progress
    epoch = len(progress.history)
    for pictures, labels in get_batches_fn(batch_size, epoch, progress.step):
        names = get_batches_fn.names(batch_size, epoch, progress.step)
        loss = training.step(pictures, labels, len(names))
        if not math.isfinite(loss):
            # A finite loss can have gradients of NaN, which only the next step shows.
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
        if requested:  # of whichever process
            stopping.requested = requested
        stopping.check()
        if is_due:
            training.save()


def take_step(compiled, pictures, labels, team=devices.ONE_DEVICE, count=None, slices=1):
    """Train on one batch, cut into equal slices whose gradients the optimizer adds up.

    pictures, labels: arrays [N, ...], this process's share of the batch; count: pictures in the
    batch of all processes, default: N. What fills it up to equal slices on all devices has no
    weight. Returns the loss, its mean over `count` pictures. Raises MemoryShortError.
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
            compiled.reset_metrics()  # or the loss would be the mean since the start
            batch = pictures[chosen], labels[chosen], chosen_weights
            losses.append(float(compiled.train_on_batch(*map(team.shard_step, batch))))
    except Exception as error:  # each backend has its own class for this
        if any(sign in repr(error) for sign in OUT_OF_MEMORY):
            shape = "x".join(map(str, labels.shape))
            raise MemoryShortError(f"no memory for a batch of {shape} pixels") from error
        raise
    return sum(losses) / slices


def tell(row, epochs, is_best):
    """Tell the person at the terminal how an epoch went."""
    f1 = f"F1 {row['val_max_f']:.2f}, " if row["val_max_f"] is not None else ""
    best = ", the best so far" if is_best else ""
    terminal.say(
        f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}, validation loss "
        f"{row['val_loss']:.4f}, IoU {row['val_iou']:.2f}, {f1}{row['seconds']:.0f} s{best}"
    )


def log_row(progress, tally, optimizer):
    """Make the row of log.csv for the epoch whose steps are taken, but for its seconds."""
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
    """The number that the best epoch has the most of."""
    return row["val_iou"] if row["val_max_f"] is None else row["val_max_f"]
