"""Takes the steps of a training, and survives what may happen meanwhile.

Kills, signals, full disks, a loss that is no number, too little memory: what a checkpoint holds is
never lost, and a run that was interrupted ends where an undisturbed one does.
"""

import contextlib
import dataclasses
import math
import time

import numpy as np

from roadseg import devices, terminal
from roadseg.engine import keras
from roadseg.errors import LossError, MemoryShortError, TrainingError
from roadseg.training import checkpoint, run_folder

SAVE_SECONDS = 180  # between two checkpoints within an epoch
MAXIMUM_RETURNS = 3  # to an earlier state, because the loss was no number
OUT_OF_MEMORY = ("MemoryError", "ResourceExhausted", "RESOURCE_EXHAUSTED")  # in any backend's words
TRAINING_COST = 3  # of a training picture, in forward passes: the backward pass is worth two


class Training:
    """A network, its trainer and how far they are: what a checkpoint holds."""

    def __init__(self, network, make_trainer, folder, seed=0, parts=1):
        """Go on from the run's newest state, or begin with the network as it is.

        network: of `main.layers`; make_trainer: function (slowdown, parts) -> what `main.optimize`
        gives; folder: of the run, which the first of several processes alone reads and writes;
        parts: that a batch is cut into at least.
        """
        self.network, self.make_trainer = network, make_trainer
        self.folder, self.seed = folder, seed
        self.team = devices.team()
        self.least_parts = parts if self.team.cuts_steps else 1
        if not self.restore():
            self.save()

    def restore(self, **changes):
        """Bring everything to the newest whole state, with changes to its Progress.

        Returns whether there was a state.
        """
        arrays = {}

        def load():
            found, progress = checkpoint.load(self.folder, terminal.say)
            arrays.update(found or {})
            return bool(found), dataclasses.asdict(progress)

        there, progress = self.team.from_first(load)
        self.progress = progress = checkpoint.Progress(**progress | changes)
        progress.parts = max(progress.parts, self.least_parts)
        self.trainer = self.make_trainer(0.5**progress.returns, progress.parts)
        self.trainer.optimizer.build(self.trainer.trainable_variables)
        for name, variable in self.variables().items() if there else ():
            cut = progress.parts if variable.name == "iteration" else 1
            nothing = np.zeros(variable.shape, variable.dtype)
            array = self.team.broadcast(arrays.get(name, nothing).astype(nothing.dtype))
            variable.assign(cut * array)
        self.saved_at = time.monotonic()
        if changes:
            self.save()
            self.team.from_first(lambda: run_folder.note_settings(self.folder, changes))
        return there

    def variables(self):
        """Return {name: variable} of weights and optimizer: what has to outlive a step."""
        weights = {variable.path: variable for variable in self.network.weights}
        kept = [v for v in self.trainer.optimizer.variables if "accumulator" not in v.name]
        return weights | {f"optimizer/{index}/{v.name}": v for index, v in enumerate(kept)}

    def save(self):
        """Save a state. Raises LossError, and saves nothing, where a weight is no number."""
        if not self.team.from_first(self._save_finite):
            raise LossError("the weights are no numbers any more")
        self.saved_at = time.monotonic()

    def _save_finite(self):
        """Save a state if all of it is numbers. Returns whether it is."""
        arrays = {}
        for name, variable in self.variables().items():
            array = keras.ops.convert_to_numpy(variable)
            if not np.isfinite(array).all():
                return False
            arrays[name] = array // self.progress.parts if variable.name == "iteration" else array
        checkpoint.save(self.folder, arrays, self.progress)
        return True

    def step(self, pictures, labels, count):
        """Take a step on this process's share of a batch of `count` pictures. Returns its loss."""
        progress, started = self.progress, time.monotonic()
        reseed_dropout(self.network, self.seed, len(progress.history), progress.step)
        loss = take_step(self.trainer, pictures, labels, count, progress.parts)
        progress.step += 1
        progress.pictures += count
        progress.loss_sum += loss * count
        progress.seconds += time.monotonic() - started
        return loss

    @contextlib.contextmanager
    def averaged_weights(self):
        """Put the averaged weights in the place of the last ones for the time being."""
        variables = self.trainer.trainable_variables
        last = [keras.ops.copy(variable) for variable in variables]
        self.trainer.optimizer.finalize_variable_values(variables)
        for variable in variables:
            # JAX recycles the arrays of a network that predicts; the averages need theirs.
            variable.assign(keras.ops.copy(variable))
        try:
            yield
        finally:
            for variable, value in zip(variables, last, strict=True):
                variable.assign(value)

    def finish_epoch(self, validate):
        """Validate the averaged weights; keep them where they are the best. Returns a log row.

        validate: function () -> Tally, called by the first process alone.
        """
        progress, started = self.progress, time.monotonic()

        def judge():
            row = log_row(progress, validate(), self.trainer.optimizer)
            return row | {"seconds": round(progress.seconds + time.monotonic() - started, 1)}

        with self.averaged_weights():
            row = self.team.from_first(judge)
            if progress.best is None or selection_score(row) > selection_score(progress.best):
                progress.best = row
                if self.team.is_first:
                    save_weights = self.network.save_weights
                    checkpoint.save_best(self.folder, save_weights, row["epoch"], progress)
        progress.history.append(row)
        progress.step, progress.pictures, progress.loss_sum, progress.seconds = 0, 0, 0.0, 0.0
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
        """Return to the newest state and cut batches into twice as many parts from there on."""
        parts, team = 2 * self.progress.parts, self.team
        # Of several processes not all need be short of memory.
        if parts * team.own_devices > batch_size or team.processes > 1 or not team.cuts_steps:
            raise TrainingError(
                f"{reason}: try a smaller --image-shape or --batch-size, in a new --run"
            )
        self.restore(parts=parts)
        terminal.say(f"{reason}; back to {self.place()}, each batch cut into {parts} parts")

    def place(self):
        """Say where the training stands."""
        return f"epoch {len(self.progress.history) + 1}, step {self.progress.step}"


def train_epoch(training, get_batches_fn, batch_size, stopping, bar=None):
    """Take the steps that are left of an epoch, saving every few minutes."""
    progress = training.progress
    epoch = len(progress.history)
    for pictures, labels in get_batches_fn(batch_size, epoch, progress.step):
        count = len(get_batches_fn.names(batch_size, epoch, progress.step))
        loss = training.step(pictures, labels, count)
        if not math.isfinite(loss):
            # A finite loss can have gradients that are no numbers, which only the next step shows.
            suspects = range(max(0, progress.step - 2), progress.step)
            names = [" ".join(get_batches_fn.names(batch_size, epoch, n)) for n in suspects]
            pictures = " or, in the step before, ".join(reversed(names))
            raise LossError(f"the loss is {loss} at {training.place()}, on {pictures}")
        if bar is not None:
            bar.update(TRAINING_COST * count)
            bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
        is_due = time.monotonic() - training.saved_at > SAVE_SECONDS
        wish, is_due = training.team.largest([stopping.wish or 0, is_due])
        if wish:  # of whichever process
            stopping.wish = wish
        stopping.check()
        if is_due:
            training.save()


def take_step(trainer, pictures, labels, count=None, parts=1):
    """Train on one batch, cut into equal parts whose gradients the optimizer adds up.

    pictures, labels: arrays [N, ...], this process's share of the batch; count: pictures in the
    batch of all processes, default: N. What fills it up to equal parts on all devices has no
    weight.
    Returns the loss, its mean over `count` pictures. Raises MemoryShortError.
    """
    team, size, losses = devices.team(), len(labels), []
    count = count or size
    places = devices.fill_up(size, parts * team.own_devices)
    weights = np.zeros(len(places), np.float32)
    weights[:size] = team.real_rows(count, size)
    weights *= len(places) * team.processes / count
    try:
        cut = (np.split(array, parts) for array in (places, weights))
        for part, part_weights in zip(*cut, strict=True):
            trainer.reset_metrics()  # or the loss would be the mean since the start
            batch = pictures[part], labels[part], part_weights
            losses.append(float(trainer.train_on_batch(*map(team.spread_step, batch))))
    except Exception as error:  # each backend has its own class for this
        if any(sign in repr(error) for sign in OUT_OF_MEMORY):
            shape = "x".join(map(str, labels.shape))
            raise MemoryShortError(f"no memory for a batch of {shape} pixels") from error
        raise
    return sum(losses) / parts


def reseed_dropout(network, *numbers):
    """Make dropout depend on these numbers alone, so that a resumed run drops the same."""
    # Without a rate they draw nothing, and have no generator.
    dropouts = [x for x in network.layers if isinstance(x, keras.layers.Dropout) and x.rate]
    for index, layer in enumerate(dropouts):
        sequence = np.random.SeedSequence([*numbers, index])
        layer.seed_generator.state.assign(sequence.generate_state(2) >> 1)


def tell(row, epochs, is_best):
    """Tell the person at the terminal how an epoch went."""
    terminal.say(
        f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}, validation loss "
        f"{row['val_loss']:.4f}, IoU {row['val_iou']:.2f}, "
        + (f"F1 {row['val_max_f']:.2f}, " if row["val_max_f"] is not None else "")
        + f"{row['seconds']:.0f} s{', the best so far' if is_best else ''}"
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
