"""What may go wrong and a person can put right: each class with the exit status it leads to."""

import signal


class UserError(Exception):
    """Wrong usage or wrong data. Each line says what was found, what was expected, what to do."""

    exit_status = 2


class DownloadError(UserError):
    """The file can't be had from the network now."""


class FaultyPicturesError(UserError):
    """Some pictures can't be read; all others are done."""

    exit_status = 1


class WrongAnswerError(UserError):
    """An exported network does not answer as the run does."""

    exit_status = 1


class TrainingError(Exception):
    """Training can't go on; the message says what to do."""

    exit_status = 1


class LossError(TrainingError):
    """The loss, or a weight, is NaN or infinite."""


class MemoryShortError(TrainingError):
    """A batch does not fit into memory."""


class StopRequest(BaseException):
    """The person or the machine wanted the program to stop; everything is saved."""

    def __init__(self, number):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number
        self.exit_status = 128 + number
