"""The run folder: its name, lock, settings and log."""

import contextlib
import csv
import itertools
import json
import math
import os
import platform
import subprocess
import time
from pathlib import Path

from roadseg import terminal
from roadseg.data.check import changed_files
from roadseg.data.datasets import FCN_8S, JOINT
from roadseg.errors import UserError
from roadseg.files import REPOSITORY, read_json, write_json
from roadseg.training.checkpoint import LOG_FIELDS

try:
    import fcntl
except ImportError:  # Windows has none, so no lock
    fcntl = None

RUNS = Path("runs")  # where runs lie, if nothing else is said
READY = REPOSITORY / "data" / "ready"  # the ready network: a run that comes with the program

# A run resumes only with these unchanged, and the same recipe.
FIXED_SETTINGS = (
    *("dataset", "classes", "vgg", "image_shape", "batch_size", "learning_rate", "precision"),
    *("class_weights", "seed", "limit", "backend"),
    "data_digest",  # follows from the others
)


# Flags of main.py that need not be repeated to resume a run.
FLAGS = (
    *("dataset", "data_dir", "vgg", "image_shape", "batch_size", "learning_rate", "precision"),
    *("class_weights", "seed", "limit", "minutes", "patience", "tensorboard"),
)


def open_run(runs_dir, name):
    """Return the run's folder, created if missing; the default name is the date and time.

    Raises UserError if the folder holds something other than a run.
    """
    if name:
        if Path(name).name != name or name == "..":
            raise UserError(f"--run {name}: expected a name, not a path; give --runs-dir for that")
        folder = runs_dir / name
        folder.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in folder.iterdir()}
        if names - {"checkpoint"} and "settings.json" not in names:
            raise UserError(
                f"{folder}: is no run folder (it has no settings.json); use another --run"
            )
        return folder
    stamp = time.strftime("%Y-%m-%d_%H%M")
    for ending in itertools.chain([""], (f"_{number}" for number in itertools.count(2))):
        with contextlib.suppress(FileExistsError):
            folder = runs_dir / (stamp + ending)
            folder.mkdir(parents=True)
            return folder


def look_for_run(name):
    """Return a run's folder from its path, or its name in RUNS; None if there is none."""
    folders = (Path(name), RUNS / name)
    return next((folder for folder in folders if (folder / "settings.json").is_file()), None)


def find_run(name=None):
    """Return a run's folder from its path, or its name in RUNS; None: the ready network's.

    Raises UserError if there is none.
    """
    if folder := look_for_run(READY if name is None else name):
        return folder
    names = sorted(path.parent.name for path in RUNS.glob("*/settings.json"))
    there = f"{RUNS}/ holds {', '.join(names) or 'none'}"
    if name is None:
        raise UserError(f"{READY}: the ready network was not found; give --run RUN; {there}")
    raise UserError(f"{name}: no run found (no settings.json); {there}")


def is_ready(folder):
    """Return whether a run is the ready network, whose folder is read alone."""
    return folder.resolve() == READY.resolve()


def output_folder(folder):
    """Return where to write what is made with a run: its folder.

    For READY, and for a file, it is the current folder.
    """
    return Path() if is_ready(folder) or folder.is_file() else folder


def earlier_settings(folder):
    """Read a run's settings.json. Returns a dict, empty for a new run."""
    return read_json(folder / "settings.json", missing={})


def defaults_to_resume(folder):
    """Return a run's settings as defaults of main.py's flags: {name: value}."""
    earlier = earlier_settings(folder)
    names = [name for name in FLAGS if name in earlier]
    kinds = {"data_dir": Path, "dataset": lambda text: text.split(JOINT)}
    return {name: kinds.get(name, lambda value: value)(earlier[name]) for name in names}


def shapes_text(settings):
    """Return the height x width of a run's pictures in training, several of joined data sets."""
    # Earlier runs have one shape alone, and one that was stopped at its start may have none.
    shapes = settings.get("image_shapes") or [settings.get("image_shape", "?")]
    return " and ".join("x".join(map(str, shape)) for shape in shapes)


@contextlib.contextmanager
def of_this_version(folder):
    """Turn an error in the body, for want of something in a run's settings, into a UserError."""
    try:
        yield
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder}: trained by another version of this program, or damaged ({error}); use that "
            "version, or another run"
        ) from error


def read_log(folder):
    """Read a run's log.csv. Returns its rows, dicts of text; [] before the first epoch.

    Raises UserError that names a damaged one.
    """
    path = folder / "log.csv"
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if rows and (missing := set(LOG_FIELDS) - rows[0].keys()):
            raise ValueError(f"no column {min(missing)}")
        for text in (text for row in rows for text in row.values() if text != ""):
            float(text)
    except (ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{path}: damaged ({error}); remove it, or use another run") from error
    return rows


def data_path(folder):
    """Return where a run keeps the digests of the files it is trained on."""
    return folder / "checkpoint" / "data.json"


def name_changed_files(folder, files):
    """Name the files that differ from those a run was trained on; files: of `check.files_below`."""
    path = data_path(folder)
    if not (trained_on := read_json(path, missing={})):
        return f"which of them differ is not known without {path}"
    return changed_files(trained_on, files)


def is_finished(folder, settings, files):
    """Tell whether a run is finished with settings like these, a dict.

    files: of `check.files_below`. Raises UserError where a setting or a file differs that makes
    going on wrong.
    """
    earlier = earlier_settings(folder)
    if not earlier:
        return False
    before, now = _fixed(earlier), _fixed(settings)
    for name in before | now:
        if before.get(name) == now.get(name):
            continue
        if name == "data_digest":
            raise UserError(
                f"{folder}: these are not the files that this run was trained on "
                f"({name_changed_files(folder, files)}); bring them back, or use another --run"
            )
        raise UserError(
            f"{folder}: this run has {name} {before.get(name)}, not {now.get(name)}; "
            "give the same settings to resume it, or another --run"
        )
    return (folder / "metrics.json").is_file() and not _asks_for_more(folder, earlier, settings)


def _asks_for_more(folder, earlier, settings):
    """Tell whether settings ask for more epochs than a run with results had."""
    before, now = (each.get("patience") or math.inf for each in (earlier, settings))
    is_more_patient = now > before and ended_early(folder, earlier)
    return settings["epochs"] > earlier["epochs"] or is_more_patient


def ended_early(folder, settings):
    """Tell whether a run with results has fewer epochs than its settings say: --patience."""
    return len(read_log(folder)) < settings["epochs"]


def recipe_of(settings):
    """Return the recipe in a run's settings: {field: value}.

    Earlier runs have the skips beside it, or are an FCN-8s.
    """
    recipe = settings.get("recipe", {})
    if "skips" in recipe and recipe["skips"] is None:
        return recipe | {"skips": settings.get("skips", FCN_8S)}
    return recipe


def _fixed(settings):
    """Return the settings that must not change, passed through JSON: {name: value}."""
    fixed = {name: settings.get(name) for name in FIXED_SETTINGS}
    fixed |= {f"recipe's {name}": value for name, value in recipe_of(settings).items()}
    if fixed["vgg"] not in ("conv", "none"):  # whose file decides; earlier runs noted another
        fixed.pop("recipe's head_channels", None)
    return json.loads(json.dumps(fixed))


def git_commit():
    """Return the commit of this checkout; None outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


@contextlib.contextmanager
def lock_run(folder):
    """Keep other processes away from a run.

    The system gives the lock back however this process ends. Raises UserError that names the
    process that has it. A disk that knows no locks is used without, and that is said.
    """
    path = folder / "checkpoint" / "lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        if fcntl:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise UserError(
                    f"{folder}: process {file.read().strip()} is using this run; wait for it, "
                    "stop it, or use another --run"
                ) from None
            except OSError as error:
                terminal.say(
                    f"{path}: this disk knows no locks ({error.strerror}); start no second "
                    "process on this run"
                )
        file.truncate(0)
        file.write(f"{os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def note_settings(folder, settings):
    """Write settings to settings.json; the other settings there stay."""
    write_json(folder / "settings.json", earlier_settings(folder) | settings)
