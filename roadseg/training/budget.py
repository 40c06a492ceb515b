"""A time budget, --minutes: an epoch is timed, then as many are trained as fit."""

import contextlib
import itertools
import math
import time

from roadseg import terminal
from roadseg.answering.network import prediction_batch
from roadseg.errors import LossError, MemoryShortError, UserError
from roadseg.training import run_folder
from roadseg.training.trainer import SAVING_SHARE

TIMED_SECONDS = 10  # of steps, after the first, which compiles
SAVE_COST = 4 / 3  # of an epoch, in saves of a state: the best weights, too


def fit_epochs(job, training, get_batches_fn, validate):
    """Decide how many epochs fit into a run's minutes, and note it in settings.json.

    training: Training, on which steps are tried; it is no good afterwards, and the next one loads
    the state that was saved before them. validate: function of `make_validate`. Raises UserError
    if no epoch fits.
    """
    seconds = None
    while not seconds:
        try:
            seconds = measure(job, training, get_batches_fn, validate)
        except MemoryShortError as error:
            training.cut_batches(error, job.settings["pictures_a_step"])
    return job.team.from_first(lambda: decide(job, *seconds))


def measure(job, training, get_batches_fn, validate):
    """Time steps, a validation and a save.

    Returns the seconds that pass before the first epoch, compiling again included, and those of an
    epoch.
    """
    team, (samples, validation, _) = job.team, job.split.parts
    began, saving = time.monotonic(), seconds_of(training.save)
    with contextlib.closing(endless(get_batches_fn, job.settings["pictures_a_step"])) as batches:
        compiling = seconds_of(lambda: try_step(training, next(batches)))
        compiling += seconds_of(lambda: settle(training))
        picture = seconds_a_picture(training, batches)
    few = validation[: prediction_batch(team)]
    compiling += team.from_first(lambda: seconds_of(lambda: validate(few)))
    validating = team.from_first(lambda: seconds_of(validate))
    epoch = len(samples) * picture + validating
    epoch += min(SAVE_COST * saving, SAVING_SHARE * epoch)
    return time.monotonic() - began + compiling, epoch


def seconds_of(function):
    """Call a function. Returns the seconds that it takes."""
    began = time.monotonic()
    function()
    return time.monotonic() - began


def endless(get_batches_fn, batch_size):
    """Yield the batches of one epoch after the other: (pictures, labels, their names)."""
    for epoch in itertools.count():
        for number, batch in enumerate(get_batches_fn(batch_size, epoch)):
            yield *batch, get_batches_fn.names(batch_size, epoch, number)


def try_step(training, batch):
    """Take a step on a batch of `endless`. Returns its number of pictures."""
    with left_to_training():
        training.step(*batch)
    return len(batch[2])


def settle(training):
    """Wait for the steps that were taken."""
    with left_to_training():
        training.settle()


def left_to_training():
    """Leave a loss that is not finite to the training itself, which knows how to answer it."""
    return contextlib.suppress(LossError)


def seconds_a_picture(training, batches):
    """Time steps for TIMED_SECONDS, one at least."""
    began, pictures, is_short = time.monotonic(), 0, True
    while is_short:  # in any process, so that all take the same steps
        pictures += try_step(training, next(batches))
        (is_short,) = training.team.largest([time.monotonic() - began < TIMED_SECONDS])
    settle(training)
    return (time.monotonic() - began) / pictures


def decide(job, start, epoch):
    """Note how many epochs fit; start, epoch: of `measure`. Returns their number."""
    minutes = job.settings["minutes"]
    epochs = int((60 * minutes - start) // epoch)
    if epochs < 1:
        raise UserError(
            f"--minutes {minutes:g}: one epoch takes {epoch / 60:.2f} minutes here, and the start "
            f"{start / 60:.2f}; give --run {job.folder.name} and --minutes "
            f"{math.ceil((start + epoch) / 6) / 10:g} or more"
        )
    run_folder.note_settings(job.folder, {"epochs": epochs})
    terminal.say(f"epochs of {epoch:.1f} s: {epochs} fit into {minutes:g} min")
    return epochs
