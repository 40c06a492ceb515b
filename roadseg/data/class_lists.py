"""Which pixels of somebody's own masks are which class: a list, as a person or a tool writes it."""

import re
from pathlib import Path
from typing import NamedTuple

from roadseg.data.layouts import read_lines
from roadseg.data.pictures import VOID, as_text
from roadseg.errors import UserError
from roadseg.terminal import counted, listing

# The first that is there is read: ours, CVAT's, Roboflow's and two of labelme's.
FILE_NAMES = ("classes.txt", "labelmap.txt", "_classes.csv", "class_names.txt", "labels.txt")
LINES = (  # the first that fits; the value is a number, a colour or nothing
    r"(?P<name>[^:]+):(?P<value>\d+,\d+,\d+):[^:]*:[^:]*",  # CVAT
    r"(?P<value>\d+)\s*,\s*(?P<name>.+)",  # Roboflow
    r"(?P<name>.+?)\s+(?P<value>\d+\s+\d+\s+\d+|\d+)",
    r"(?P<name>.+)(?P<value>)",
)
# A line without a value that was meant to have one; it would count by its place.
NEARLY = r"-?\d+(\W.*)?|.*[,:=]|.*[,:=]\s*-?\d+|.*\s-\d+"
LEFT_OUT = r"#.*|pixel value\s*,\s*class"  # comments, and Roboflow's headings
UNNUMBERED = "__ignore__"  # what labelme numbers -1, and stores as 255
OTHER = "other"  # what is no other class
BACKGROUND = (OTHER, "background", "_background_")
COUNT_NOWHERE = ("void", "ignore", UNNUMBERED)
EXPECTED = (
    f"expected 2 to {VOID} classes, a line each, all different: each NAME, each NAME NUMBER, or "
    "each NAME R G B (what ends a line is the value in the masks, 0 to 255)"
)


class ClassList(NamedTuple):
    """A class list that was read."""

    path: Path
    lines: list[tuple[str, int | tuple[int, int, int]]]  # (name, number or (red, green, blue))

    @property
    def classes(self):
        """The names of the classes, in the order of their first lines.

        Of two BACKGROUND is the first, because the second is scored and painted.
        """
        names = classes_in(self.lines)
        is_last = len(names) == 2 and names[1].casefold() in BACKGROUND
        return names[::-1] if is_last else names

    @property
    def label_values(self):
        """As in a row of DATASETS. Unless a line says otherwise, the number 255 is VOID."""
        indices = {name: index for index, name in enumerate(self.classes)}
        values = {value: indices.get(name, VOID) for name, value in self.lines}
        return values if self.colours else {VOID: VOID} | values

    @property
    def counts_from_0(self):
        """Whether the labels hold class indices and VOID, which the list need not say."""
        return all(value == index for value, index in self.label_values.items())

    @property
    def colours(self):
        """The first colour of each class: {name: (red, green, blue)}; {} for numbers."""
        return {name: value for name, value in self.lines[::-1] if isinstance(value, tuple)}

    def needs(self, values, name="NAME"):
        """Say with which lines the list would fit masks that hold these values, too.

        name: of the class that gets them, and loses those it has.
        """
        kept = [
            f"{other} {as_text(value)}"
            for other, value in self.lines
            if other != name and value not in values and type(value) is type(values[0])
        ]
        added = listing([f"{name} {as_text(value)}" for value in values])
        beside = f"beside {listing(kept)}" if kept else "in place of those it has"
        return f"{self.path.name} needs the line{'s' * (len(values) > 1)} {added}, {beside}"


def classes_in(lines):
    """Return the names in lines, (name, anything), that are classes, each once."""
    return [name for name in dict(lines) if name.casefold() not in COUNT_NOWHERE]


def read_class_list(folder):
    """Read the class list of a folder. Returns ClassList.

    Raises UserError where there is none, for lines of different forms or with the same value, and
    for fewer than 2 or more than 255 classes.
    """
    path = next(filter(Path.is_file, (folder / name for name in FILE_NAMES)), None)
    if not path:
        raise UserError(
            f"{folder}: holds no class list; expected {FILE_NAMES[0]}, a class a line, or one of "
            f"{', '.join(FILE_NAMES[1:])}; --data-dir DIR, or folder:DIR, says where it is"
        )
    texts = [text for text in read_lines(path) if not re.fullmatch(LEFT_OUT, text, re.IGNORECASE)]
    lines = [_parse(text) for text in texts]
    if fault := next(_faults(texts, lines), None):
        raise UserError(f"{path}: {fault}; {EXPECTED}")
    if not any(numbers for _, numbers in lines):
        names = [name for name, _ in lines if name != UNNUMBERED]
        lines = [(name, (number,)) for number, name in enumerate(names)]
    lines = [(name, numbers if len(numbers) > 1 else numbers[0]) for name, numbers in lines]
    return ClassList(path, lines)


def _parse(text):
    """Return (name, numbers) of a line: one number, three or none."""
    found = next(filter(None, (re.fullmatch(pattern, text) for pattern in LINES)))
    return found["name"].strip(), tuple(map(int, re.findall(r"\d+", found["value"])))


def _faults(texts, lines):
    """Yield what is wrong with lines; lines: of `_parse`, in the order of texts."""
    known, forms = {}, {}
    for text, (name, numbers) in zip(texts, lines, strict=True):
        if max(numbers, default=0) > 255:
            yield f"'{text}' has a number above 255"
        if not numbers and re.fullmatch(NEARLY, name):
            yield f"'{text}' looks like a name and a number; the name comes first, then a space"
        if (numbers or name) in known:
            yield f"'{known[numbers or name]}' and '{text}' cannot be told apart"
        known[numbers or name] = forms[len(numbers)] = text
    if len(forms) > 1:
        yield "'{}' and '{}' have different forms".format(*forms.values())
    if not 2 <= len(classes_in(lines)) <= VOID:
        yield counted(len(classes_in(lines)), "name")
