"""Errors that the user can fix, each class with its exit status."""

import signal


class UserError(Exception):
    """Wrong usage or wrong data. Each line says what was found, what was expected, what to do."""

    exit_status = 2


class DownloadError(UserError):
    """The file can't be downloaded."""


class FaultyPicturesError(UserError):
    """Some pictures can't be read; the others are done."""

    exit_status = 1


class WrongAnswerError(UserError):
    """An exported network's probabilities differ from the run's."""

    exit_status = 1


class TrainingError(Exception):
    """Training can't continue; the message says what to do."""

    exit_status = 1


class LossError(TrainingError):
    """The loss or a weight is not finite."""


class MemoryShortError(TrainingError):
    """A batch does not fit into memory."""


class StopRequest(BaseException):
    """Ctrl-C or SIGTERM asked the program to stop; everything is saved."""

    def __init__(self, number):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number
        self.exit_status = 128 + number
