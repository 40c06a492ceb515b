"""Errors that the user can fix, each class with its exit status; a check that raises one."""

import importlib.util
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


def refuse_missing(modules, requirements=None):
    """Raise UserError that names the packages of modules that are not installed.

    requirements: file that brings them, if one does.
    """
    absent = [module for module in modules if not importlib.util.find_spec(module)]
    if missing := [module.replace("_", "-") for module in absent]:
        file = f"-r {requirements}, or pip install " if requirements else ""
        raise UserError(
            f"this needs {' and '.join(missing)}: pip install {file}{' '.join(missing)}"
        )
