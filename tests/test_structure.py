"""The rooms of the house: imports run one way, and only the rooms that may speak HTTP do."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "app.py", ROOT / "models.py", *ROOT.glob("routes/**/*.py"))
}
# What each room may import of ours; the resources in `routes/` may import any.
ALLOWED = {
    "models": (),
    # Of a provider the rules know what it may be asked and what it says, as plain data, and no more.
    "routes.selling": ("models", "routes.selling", "routes.outside.provider"),
    "routes.outside": ("routes.outside",),
    "routes.jobs": ("models", "routes.jobs", "routes.selling", "routes.outside"),
    "routes.http": ("models", "routes.http", "routes.selling"),
    "routes.setup": ("models", "routes.setup", "routes.http"),
    "routes.docs": ("models", "routes.docs", "routes.http"),
    "routes.commands": ("models", "routes.commands", "routes.http", "routes.selling", "routes.outside", "routes.jobs"),
}
HTTP = ("flask.request", "flask_restful", "werkzeug", "flask_jwt_extended")


def imports(module: str) -> Iterator[str]:
    """The names a module imports, each with the module that it is from."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(module: str) -> set[str]:
    """The modules of ours that a module imports."""
    return {name if name in MODULES else name.rpartition(".")[0] for name in imports(module)} & set(MODULES)


def within(module: str, rooms: tuple[str, ...]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def test_imports_have_no_circle():
    assert len(list(TopologicalSorter({module: ours(module) for module in MODULES}).static_order())) == len(MODULES)


@pytest.mark.parametrize("room", ALLOWED)
def test_room_imports_only_what_it_may(room):
    found = {(module, name) for module in MODULES if within(module, (room,)) for name in ours(module)}
    assert [pair for pair in found if not within(pair[1], ALLOWED[room])] == []


def test_nobody_imports_the_application():
    assert [module for module in MODULES if "app" in ours(module)] == []


@pytest.mark.parametrize("room", ["models", "routes.selling", "routes.outside"])
def test_rules_know_no_http(room):
    names = {name for module in MODULES if within(module, (room,)) for name in imports(module)}
    assert [name for name in names if within(name, HTTP)] == []


@pytest.mark.parametrize("module", sorted(module for module in MODULES if within(module, ("routes.selling",))))
def test_rules_commit_nothing(module):
    assert ".commit()" not in MODULES[module].read_text().replace("savepoint.commit()", "")
