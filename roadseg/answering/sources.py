"""Find the pictures and videos to predict, and plan where their outputs go."""

import collections
import contextlib
import glob
import itertools
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from roadseg.answering import video
from roadseg.answering.painting import encode_png
from roadseg.data.pictures import PICTURE_SUFFIXES, count_pictures, is_left_by_system, read_image
from roadseg.errors import UserError

SUFFIXES = (*PICTURE_SUFFIXES, *video.SUFFIXES)  # found in folders
OUTPUT_SUFFIXES = (".png", *(codec.suffix for codec in video.CODECS.values()))


@dataclass(frozen=True)
class Picture:
    """A picture to read, one frame long.

    name: stem of its outputs; notes: lines about what is left out.
    """

    path: Path
    name: str
    notes: list[str] = field(default_factory=list, compare=False)
    expected = 1  # frames

    def __iter__(self):
        yield self.path

    def read(self, frame):
        """Read uint8 [H, W, 3]."""
        if (count := count_pictures(frame)) > 1:
            self.notes.append(f"{frame}: holds {count} pictures; the first is done")
        return read_image(frame)

    def suffix(self, lossless):
        """Return the suffix of an output."""
        return ".png"

    def encode(self, picture, lossless):
        """Return bytes of uint8 [H, W, 3] or [H, W]."""
        return encode_png(picture)

    @contextlib.contextmanager
    def writing(self, path, lossless):
        """Return a context manager that gives write(encoded, frame)."""
        yield lambda encoded, _: path.write_bytes(encoded)


def find_sources(paths, output=None, kinds=()):
    """Find pictures and videos.

    paths: files, folders with all below, globs, "camera:0", addresses of streams; output: folder of
    outputs of these kinds, names; those of an earlier command are left out, where it lies below
    what is looked through. Returns (Pictures and Videos, files of folders that are neither, outputs
    that are left out). Raises UserError for a path that matches nothing.
    """
    found, others, made = {}, [], []
    for text in paths:
        base, files = _find_files(text, others)
        earlier = _earlier_outputs(files, base, output, kinds) if output else set()
        made += sorted(earlier)
        files = {file: _names(file, base) for file in files if file not in earlier}
        if not files and Path(text).is_dir():
            earlier = " but outputs of earlier commands" if earlier else ""
            raise UserError(
                f"{text}: holds neither pictures nor videos{earlier}; give another folder"
            )
        if not files:
            raise UserError(
                f"{text}: nothing found; expected a picture, a video, a folder, a glob, an "
                "address, or camera:0"
            )
        found |= files
    sources = [
        (video.Video if is_video(path) else Picture)(path, name)
        for path, name in zip(found, _shortest_names(found.values()), strict=True)
    ]
    return sources, [path for path in dict.fromkeys(others) if path not in found], made


def _find_files(text, others):
    """Return (the folder that is looked through, the files below it) of what the text matches.

    Of a file, or an address, that is named itself the folder is None. others: list that gets files
    of a folder that are neither pictures nor videos.
    """
    path = Path(text)
    if text.startswith((video.CAMERA, *video.STREAMS)):
        return None, [text]
    if path.is_file():
        return None, [path]
    if path.is_dir():
        return path, _pictures_below(path, others)
    base = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
    matches = sorted(map(Path, glob.glob(text, recursive=True)), key=lambda match: match.parts)
    found = []
    for match in matches:
        found += _pictures_below(match, others) if match.is_dir() else [match]
    found = [file for file in found if os.path.exists(file) and not is_left_by_system(file.name)]
    # Once each: links may lead around in a circle.
    return base, list({os.path.realpath(file): file for file in reversed(found)}.values())[::-1]


def _names(file, base):
    """Return two names that a source may have, Paths.

    The path below the folder given, or below the part of the glob that is no pattern; and the same
    with that folder's name before it, for all where the first would not do; the current folder has
    none. Of an address: its letters.
    """
    if isinstance(file, str):
        return 2 * [Path(re.sub(r"[^\w-]+", "_", file).strip("_"))]
    folder = base or file.parent
    short = file.relative_to(folder)
    if ".." in short.parts:
        short = Path(file.name)
    return short, (folder.name and os.path.basename(os.path.abspath(folder))) / short


def _shortest_names(choices):
    """Choose what tells sources apart; choices: the `_names` of each. Returns texts."""
    short, long = map(_with_suffix_where_needed, zip(*choices, strict=True))
    return long if len(set(long)) > len(set(short)) else short


def _with_suffix_where_needed(names):
    """Return the Paths as texts, without suffixes but where they tell two apart."""
    bare = [name.with_suffix("") for name in names]
    count = collections.Counter(bare)
    pairs = zip(bare, names, strict=True)
    return [(stem if count[stem] == 1 else whole).as_posix() for stem, whole in pairs]


def _earlier_outputs(files, base, output, kinds):
    """Return the set of the files that an earlier command has made in its output folder.

    Where that is the folder that is looked through, or no folder is, there are none.
    """
    folder = os.path.realpath(output)
    if base is None or folder == os.path.realpath(base):
        return set()
    suffixes = "|".join(map(re.escape, OUTPUT_SUFFIXES))
    name = re.compile(rf"_({'|'.join(kinds)})({suffixes})$")
    named = (file for file in files if name.search(file.name))
    return {file for file in named if Path(os.path.realpath(file)).is_relative_to(folder)}


def _pictures_below(folder, others):
    """List the pictures and videos below a folder; others: list that gets all other files."""
    inside = sorted(_walk(folder))
    others += [file for file in inside if file.suffix.lower() not in SUFFIXES]
    return [file for file in inside if file.suffix.lower() in SUFFIXES]


def _walk(folder):
    """Yield all files below a folder, also behind links, but for what systems leave there."""
    seen = set()
    for top, folders, names in os.walk(folder, followlinks=True):
        here = os.path.realpath(top)
        if here in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(here)
        for name in names:
            if not is_left_by_system(name):
                yield Path(top) / name


def is_video(path):
    """Tell a video from a picture by its suffix, or by its content if that is unknown."""
    suffix = Path(path).suffix.lower()
    if str(path).startswith((video.CAMERA, *video.STREAMS)):
        return True
    if suffix in PICTURE_SUFFIXES:
        return False
    try:
        with Image.open(path) as opened:
            return getattr(opened, "is_animated", False)
    except (OSError, ValueError):
        return True


def plan_targets(sources, output, kinds):
    """Choose the output paths.

    kinds: {name: whether it is lossless}. Returns {source: {kind: path to write}}. Raises
    UserError if a path is an input, or belongs to two sources.
    """
    inputs, owners, targets = {Path(source.path).resolve() for source in sources}, {}, {}
    for source in sources:
        targets[source] = {
            kind: output / f"{source.name}_{kind}{source.suffix(lossless)}"
            for kind, lossless in kinds.items()
        }
        for path in targets[source].values():
            if path.resolve() in inputs:
                raise UserError(f"{path}: is one of the inputs; give another --output")
            owner = owners.setdefault(path.resolve(), source)
            if owner is not source:
                raise UserError(
                    f"{path}: both {owner.path} and {source.path} would be written there; predict "
                    "them one at a time, each with its own --output"
                )
    return targets
