"""The house: arrows between its rooms point down, and what does without TensorFlow is imported without it."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

import trainer

HOUSE = pathlib.Path(trainer.__file__).parent
FILES = sorted(HOUSE.rglob("*.py"))
INSIDE = [path for path in FILES if path != HOUSE / "__init__.py"]
"""All but the door, which names every room and enters none before it is asked to."""
MOST_LINES = 400

GROUND = {"errors"}
LEDGER = {*GROUND, "timeline", "storage"}
TOOLS = {*LEDGER, "ledger", "decide"}
RUN = {*TOOLS, "views", "checkpoint", "data", "optim", "process", "strategy"}
TRAINED = {*RUN, "run"}
PROOF = {*TRAINED, "trained"}
BELOW = {
    "errors": set(),
    "command": GROUND,
    "timeline": GROUND,
    "storage": GROUND,
    "ledger": LEDGER,
    "decide": {*LEDGER, "ledger"},
    "views": {*TOOLS, "checkpoint"},  # the pure retention says why a checkpoint is kept
    "checkpoint": TOOLS,
    "data": TOOLS,
    "optim": TOOLS,
    "process": TOOLS,
    "strategy": TOOLS,
    "run": RUN,
    "trained": TRAINED,
    "proof": PROOF,
}
"""What each room, and what the commands share, may know, itself aside."""
STREET = {*PROOF, "proof", "command"}
"""What the commands, the modules beside the rooms, may know: every room, and what they share. Not one another."""
WITHOUT_TENSORFLOW = ("timeline", "ledger", "decide", "views", "storage")


def tree_of(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_bytes(), str(path))


def imported(path: pathlib.Path) -> Iterator[str]:
    """The dotted names that a file imports, wherever in it, with the names taken from them."""
    package = ["trainer", *path.relative_to(HOUSE).parent.parts]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def room_of(path: pathlib.Path) -> str:
    """The folder of a file, or its own name where it stands beside the rooms."""
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def rooms_entered(path: pathlib.Path) -> set[str]:
    names = [name.split(".") for name in imported(path)]
    return {name[1] for name in names if name[0] == "trainer" and len(name) > 1} - {room_of(path)}


def name_of(path: pathlib.Path) -> str:
    return path.relative_to(HOUSE).as_posix()


@pytest.mark.parametrize("path", INSIDE, ids=name_of)
def test_arrows_point_down_only(path: pathlib.Path) -> None:
    room = room_of(path)
    if path.parent != HOUSE:
        assert room in BELOW, f"{room} is a new room: say in this test what it may know"
    upward = rooms_entered(path) - BELOW.get(room, STREET)
    assert not upward, f"{path.name} in {room} knows {', '.join(sorted(upward))}"


def test_no_two_rooms_know_each_other() -> None:
    assert not [(room, below) for room in BELOW for below in BELOW[room] if room in BELOW[below]]


def test_an_arrow_upward_would_be_seen(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "HOUSE", tmp_path)
    (tmp_path / "ledger").mkdir()
    module = tmp_path / "ledger" / "new.py"
    for line, room in (
        ("import trainer.run.loop", "run"),
        ("from trainer import views", "views"),
        ("from trainer.checkpoint.store import CheckpointStore", "checkpoint"),
        ("def f():\n    from ..data import arrays", "data"),
        ("from .. import optim", "optim"),
    ):
        module.write_text(line)
        assert rooms_entered(module) == {room}
    module.write_text("from . import record\nfrom .log import MetricLog\nimport os")
    assert rooms_entered(module) == set()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_keras_is_never_imported(path: pathlib.Path) -> None:
    assert not [name for name in imported(path) if "keras" in name.split(".")]
    for node in ast.walk(tree_of(path)):
        # TensorFlow imports it when `tf.keras` is looked at.
        looked_at = isinstance(node, ast.Attribute) and node.attr == "keras"
        assert not looked_at, f"{path.name} reads an attribute keras"
        called = isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__"))
        assert not (called and "keras" in ast.unparse(node)), f"{path.name} imports keras by its name"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_is_short_enough_to_be_read(path: pathlib.Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES


def run(program: str) -> str:
    """What `program` prints where neither TensorFlow nor Keras can be imported."""
    blocked = "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", blocked + program],
        cwd=HOUSE.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_rooms_without_tensorflow_are_imported_without_it() -> None:
    modules = [
        ".".join(("trainer", *path.relative_to(HOUSE).with_suffix("").parts))
        for path in FILES
        if room_of(path) in WITHOUT_TENSORFLOW
    ]
    assert {name.split(".")[1] for name in modules} == set(WITHOUT_TENSORFLOW)
    loaded = run(
        f"import importlib\nfor name in {modules}: importlib.import_module(name)\n"
        "print(*{name.split('.')[1] for name in sys.modules if name.startswith('trainer.')})"
    )
    assert set(loaded.split()) <= {*WITHOUT_TENSORFLOW, "checkpoint", "errors"}  # of checkpoint, the pure retention


def test_the_parts_for_a_loop_of_ones_own_are_had_from_the_top_without_tensorflow() -> None:
    assert run("import trainer; print(trainer.Schedule, trainer.MetricLog, trainer.Progress, trainer.Record)")


def test_import_trainer_costs_nothing() -> None:
    loaded = run("import trainer; print(*(name for name in sys.modules if name.split('.')[0] in ('trainer', 'numpy')))")
    assert loaded.split() == ["trainer"]
