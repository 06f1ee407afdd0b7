"""The one-way rule of docs/architecture.md, read from the imports themselves."""

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest

import whybox

SOURCE = Path(whybox.__file__).parent

ROWS = [
    {
        *("errors", "class_checks", "progress", "versions", "lazy", "files", "network_state", "frame", "placement", "types"),
        *("pullback", "trace_checks", "model"),
        *("attention", "method", "truth", "rule"),
    },
    {"ops", "suppression"},
    {
        *("targets", "weights", "specs", "options"),
        *("models", "methods", "metrics", "accuracy", "losses", "data", "zoo", "report", "web"),
    },
    {
        *("registry", "catalog", "model_files", "unwrapping", "loading", "method_choice", "metric_choice", "missed"),
        *("drift", "selection", "given_detections", "rule_files", "duplicates", "decisions", "decide", "verdicts"),
        *("prompting", "remarks", "words", "explained", "pictures", "exports", "saved", "explanation", "api"),
    },
    {"runs", "training", "viewer", "study"},
    {"cli"},
    {"__main__"},
]
ROW_OF = {room: i for i, row in enumerate(ROWS) for room in row}
WITHIN_ROW = {
    ("registry", "methods"),
    ("catalog", "registry"),
    ("loading", "registry"),
    ("loading", "catalog"),
    ("loading", "unwrapping"),
    ("loading", "model_files"),
    ("method_choice", "registry"),
    ("metric_choice", "registry"),
    ("duplicates", "registry"),
    ("duplicates", "loading"),
    ("duplicates", "rule_files"),
    ("decisions", "duplicates"),
    ("decisions", "explained"),
    ("decide", "api"),
    ("decide", "decisions"),
    ("decide", "explained"),
    ("decide", "duplicates"),
    ("verdicts", "decisions"),
    ("verdicts", "duplicates"),
    ("decide", "prompting"),
    ("decide", "selection"),
    ("missed", "explained"),
    ("drift", "explained"),
    ("selection", "missed"),
    ("selection", "given_detections"),
    ("remarks", "explained"),
    ("remarks", "prompting"),
    ("words", "registry"),
    ("pictures", "explained"),
    ("exports", "explained"),
    ("saved", "explained"),
    ("saved", "exports"),
    ("saved", "pictures"),
    ("explanation", "explained"),
    ("explanation", "exports"),
    ("explanation", "pictures"),
    ("explanation", "saved"),
    ("api", "registry"),
    ("api", "duplicates"),
    ("api", "loading"),
    ("api", "method_choice"),
    ("api", "selection"),
    ("api", "prompting"),
    ("api", "remarks"),
    ("api", "words"),
    ("api", "explanation"),
    ("files", "errors"),
}
"""Files at the top that build on one another inside a row."""
IN_ORDER = (
    *("errors", "class_checks", "progress", "versions", "lazy", "files", "network_state", "frame", "placement", "types"),
    *("pullback", "trace_checks", "model"),
    *("attention", "method", "truth", "rule"),
)
"""The nouns of row 0: each may use those before it."""
LOOSE = {"targets", "weights", "specs", "options"}
"""Single files of row 2 that the rooms of their row may use."""


def imports_of(text: str) -> set[str]:
    """The rooms that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "whybox" else [f"whybox.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("whybox.")}
    return found


def beside(room: str, other: str) -> bool:
    """Whether a room may use another of its own row."""
    if {room, other} <= set(IN_ORDER):
        return IN_ORDER.index(other) < IN_ORDER.index(room)
    return (room, other) in WITHIN_ROW or other in LOOSE


def violations(room: str, text: str) -> list[str]:
    """The imports by which a file of `room` breaks the rule."""
    broken = []
    for other in sorted(imports_of(text) - {room}):
        if other not in ROW_OF:
            broken.append(f"{room} -> {other}, which has no row")
            continue
        sideways = ROW_OF[other] == ROW_OF[room] and not beside(room, other)
        if ROW_OF[other] > ROW_OF[room] or sideways:
            broken.append(f"{room} -> {other}")
    return broken


FILES = [path for path in sorted(SOURCE.rglob("*.py")) if path != SOURCE / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_imports_only_from_rows_above_its_own(path):
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    assert room in ROW_OF, f"{room} has no row in docs/architecture.md"
    assert violations(room, path.read_text()) == []


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("methods", "from whybox.models.plain import Plain"),
        ("ops", "import whybox.methods.odam"),
        ("types", "from whybox import api"),
        ("report", "def late():\n    from whybox.cli import main"),
        ("ops", "from whybox.novelty import anything"),
    ],
)
def test_a_planted_violation_is_found(room, line):
    assert len(violations(room, line)) == 1


def modules_of(text: str, known: Mapping[str, object]) -> set[str]:
    """The modules of the package that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in inner]
        found |= {name for name in names if name in known}
    return found


def ring_in(imports: Mapping[str, set[str]]) -> list[str]:
    """Modules that import one another in a circle, the first that is found; none: an empty list."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        done.add(name)
        return next((ring for other in sorted(imports[name]) if (ring := walk(other, [*path, name]))), [])

    return next((ring for name in sorted(imports) if (ring := walk(name, []))), [])


def test_no_files_import_one_another_in_a_ring():
    texts = {".".join(("whybox", *path.relative_to(SOURCE).with_suffix("").parts)): path.read_text() for path in FILES}
    texts = {name.removesuffix(".__init__"): text for name, text in texts.items()}
    assert ring_in({name: modules_of(text, texts) - {name} for name, text in texts.items()}) == []


def test_a_planted_ring_is_found():
    assert ring_in({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c"]
