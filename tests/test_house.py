"""The rules of the house: arrows between rooms go one way, and the map of them is true."""

import ast
import re

from tests.small import HERE

ROOMS = ("ground floor", "data", "drawn", "answering", "scoring", "training", "page")
PACKAGE = HERE / "roadseg"
MODULES = {
    ".".join(path.relative_to(HERE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")
}


def imports_of(path):
    """Yield (module, name or None) of every import in a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)


def arrows_of(path):
    """Return the modules of the package that a file imports."""
    named = {f"{module}.{name}" for module, name in imports_of(path)} & MODULES.keys()
    return named | {module for module, _ in imports_of(path)} & MODULES.keys()


def room_of(module):
    """Return the room of a module, the ground floor for those of no room."""
    parts = module.split(".")
    return parts[1] if len(parts) > 2 else ROOMS[0]


def test_nothing_in_the_package_imports_a_file_of_the_root():
    in_root = {path.stem for path in HERE.glob("*.py")} | {"experiments", "tests"}
    for path in MODULES.values():
        assert not in_root & {module.split(".")[0] for module, _ in imports_of(path)}, path


def test_arrows_between_rooms_go_one_way():
    for module, path in MODULES.items():
        for target in arrows_of(path):
            assert ROOMS.index(room_of(target)) <= ROOMS.index(room_of(module)), (module, target)


def test_no_imports_run_in_a_circle():
    left = {module: arrows_of(path) - {module} for module, path in MODULES.items()}
    while free := {module for module, targets in left.items() if not targets & left.keys()}:
        left = {module: targets for module, targets in left.items() if module not in free}
    assert not left


def test_no_module_reaches_into_anothers_underscored_names():
    files = [*MODULES.values(), *HERE.glob("*.py"), *(HERE / "experiments").glob("*.py")]
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        own = {module.split(".")[-1] for module in MODULES}
        modules = {name or module for module, name in imports_of(path)} & own
        assert not any(name and name.startswith("_") for _, name in imports_of(path)), path
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                is_private = node.attr.startswith("_") and not node.attr.startswith("__")
                assert not (is_private and node.value.id in modules), (path, node.attr)


def test_the_map_of_the_imports_is_true():
    """Which rooms each room and each command imports, as docs/CONTRIBUTING.md draws it."""
    text = (HERE / "docs" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawn = dict(re.findall(r"^    ([\w .]+?) +-> (.*)$", text, re.MULTILINE))
    found = {room: set() for room in ROOMS[1:]}
    for module, path in MODULES.items():
        found.setdefault(room_of(module), set()).update(map(room_of, arrows_of(path)))
    commands = [path for path in HERE.glob("*.py") if path.name != "project_tests.py"]
    found |= {path.name: set(map(room_of, arrows_of(path))) for path in commands}
    found = {name: rooms - {name, ROOMS[0]} for name, rooms in found.items()}
    for name, rooms in found.items():
        expected = ", ".join(room for room in ROOMS if room in rooms) or "nothing"
        assert drawn.pop(name) == expected, name
    assert not drawn
