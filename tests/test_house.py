"""The house: imports go down only and in no circle, files and functions stay short, public names are few and documented."""

import ast
import functools
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import made_fast

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "made_fast"

# Who may import whom, of the entries of made_fast/: folders and files. Imports for types count, and those inside functions.
EVERYBODY = "arguments files noise tracing"
ALLOWED = {
    **dict.fromkeys(
        ("arguments", "files", "noise", "tracing", "interrupts", "outputs", "masks", "training", "datasets"), ""
    ),
    "programs": "outputs masks",
    "requests": "outputs",
    "backends": "outputs masks programs requests",
    "layers": "masks programs outputs backends",
    "sampling": "masks outputs programs requests backends",
    "models": "outputs masks programs layers sampling requests",
    "capture": "outputs programs layers",
    "flows": "outputs programs requests backends sampling models layers capture",
    "acceleration": "outputs programs requests sampling capture flows",
    "estimation": "sampling models",
    "compat": "outputs requests programs sampling models flows acceleration",
    "tables": "outputs requests programs sampling models training",
    "plots": "outputs programs sampling models training tables",
}
ANYTHING = {"former", "testing", "cli", "__init__", "__main__"}  # doors: what they open is below them
MOST_FILES, MOST_FLOORS = 10, 12


def _name(path: Path, package: Path = PACKAGE) -> str:
    """Dotted name of a module of the package, without the package: ``backends.cpp.engine``."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
SOURCES = [
    path
    for folder in ("made_fast", "csrc", "tests", "benchmarks", "examples")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in {".py", ".pyi", ".h", ".cpp", ".hpp", ".cu"}
    and not any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(ROOT).parts)
]


def _imports(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything imported, inside functions and for types too."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from ((child.lineno, alias.name) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: relative import"
            yield from ((child.lineno, f"{child.module}.{alias.name}") for alias in child.names)


def _when_loaded(tree: ast.Module) -> Iterator[str]:
    """Dotted names of what is imported while the module itself is."""
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (name for _, name in _imports(ast.Module([node], [])))


def _own(names: Iterable[str], modules: Iterable[str] = MODULES) -> set[str]:
    """The modules of the package among imported names; ``__init__`` for a name of the package's face."""
    found = set()
    for name in names:
        parts = name.split(".")
        if parts[0] == "made_fast":
            candidates = [".".join(parts[1:end]) for end in range(len(parts), 1, -1)]
            found.add(next((each for each in candidates if each in modules or each == "_core"), "__init__"))
    return found


def _graph() -> dict[str, set[str]]:
    """Module -> modules that it imports."""
    found = {name: _own(each for _, each in _imports(ast.parse(path.read_text()))) for name, path in MODULES.items()}
    return {name: others - {name, "_core"} for name, others in found.items()}


def _entry(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def _entries(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same between entries of made_fast/: each folder and each file there is one."""
    found: dict[str, set[str]] = {_entry(module): set() for module in graph}
    for module, others in graph.items():
        found[_entry(module)] |= {_entry(other) for other in others} - {_entry(module)}
    return found


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = [*graph[start]]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += graph.get(name, ())
    return found


def _circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Names that reach one another, in groups: strongly connected components of more than one."""
    reached = {name: _reachable(graph, name) for name in graph}
    groups = {
        frozenset({name, *(other for other in reached[name] if name in reached.get(other, ()))}) for name in graph
    }
    return sorted(sorted(group) for group in groups if len(group) > 1)


def _longest(graph: dict[str, set[str]]) -> list[str]:
    """The longest chain of names that import one another, from the top; there is no circle."""

    @functools.cache
    def below(name: str) -> tuple[str, ...]:
        return (name, *max((below(other) for other in graph[name]), key=len, default=()))

    return list(max(map(below, graph), key=len))


def test_imports_go_down_only() -> None:
    wrong = []
    for module, others in _graph().items():
        entry = _entry(module)
        if entry in ANYTHING:
            continue
        assert entry in ALLOWED, f"{entry} is new: give it a row in ALLOWED"
        allowed = {entry, *EVERYBODY.split(), *ALLOWED[entry].split()}
        wrong += [f"{module} imports {other}" for other in sorted(others) if _entry(other) not in allowed]
    assert wrong == []


def test_doors_are_not_imported_from_below() -> None:
    """What may import anything is imported by nobody but what is above it."""
    above = {
        "testing": {"cli"},
        "cli": {"__main__"},
        "former": {"__init__"},
        "__init__": {"testing", "cli", "__main__"},
    }
    graph = _entries(_graph())
    for door in ANYTHING:
        assert {name for name, others in graph.items() if door in others} <= above.get(door, set()), door


def test_no_backend_imports_another() -> None:
    wrong = []
    for module, others in _graph().items():
        parts = module.split(".")
        if parts[0] == "backends" and len(parts) > 1:
            wrong += [
                f"{module} imports {each}"
                for each in others
                if _entry(each) == "backends" and each.split(".")[1:2] not in (parts[1:2], ["known"])  # what all ask
            ]
    assert wrong == []
    loaded = _own(_when_loaded(ast.parse(MODULES["backends"].read_text())))
    assert {name for name in loaded if name.startswith("backends.")} == set(), "a backend is loaded when it is chosen"


def test_only_its_backend_loads_the_compiled_module() -> None:
    """And after torch: there must be one OpenMP pool."""
    for module, path in MODULES.items():
        lines = {name: line for line, name in _imports(ast.parse(path.read_text()))}
        core = [line for name, line in lines.items() if name.startswith("made_fast._core")]
        if core:
            assert module.startswith("backends.cpp.")
            assert lines["torch"] < min(core)


def test_no_circle_between_files() -> None:
    assert _circles(_graph()) == []


def test_no_circle_between_folders() -> None:
    assert _circles(_entries(_graph())) == []


def test_the_house_is_low() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_FILES, "a subject has a folder"
    graph = _entries(_graph())
    if not _circles(graph):
        chain = _longest(graph)
        assert len(chain) <= MOST_FLOORS, " > ".join(chain)


def test_the_import_test_sees_imports() -> None:
    code = """
from typing import TYPE_CHECKING
import made_fast.nn
from made_fast import backends, MADE
from made_fast.backends import cpp
def function():
    from made_fast.program import X
if TYPE_CHECKING:
    from made_fast.cli import main
"""
    known = {"nn", "backends", "backends.cpp", "program", "cli"}
    tree = ast.parse(code)
    assert _own((name for _, name in _imports(tree)), known) == {*known, "__init__"}
    assert _own(_when_loaded(tree), known) == {"nn", "backends", "backends.cpp", "__init__"}
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}
    assert _circles(graph) == [["b", "c"]]
    assert _longest({"a": {"b"}, "b": {"c"}, "c": set(), "d": {"c"}}) == ["a", "b", "c"]


def test_files_and_functions_are_short() -> None:
    """400 lines and 60: where there is more, there are two subjects."""
    wrong = []
    for path in SOURCES:
        text, name = path.read_text(), path.relative_to(ROOT)
        if text.count("\n") > 400:
            wrong.append(f"{name} has {text.count(chr(10))} lines")
        if path.suffix == ".py":
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    documented = node.body[0].end_lineno - node.lineno if ast.get_docstring(node) else 0
                    if node.end_lineno - node.lineno - documented >= 60:
                        wrong.append(f"{name}: {node.name} in line {node.lineno}")
    assert wrong == []


def _modules() -> Iterator[ModuleType]:
    yield made_fast
    for info in pkgutil.walk_packages(made_fast.__path__, "made_fast."):
        if info.name.rsplit(".", 1)[-1] not in ("__main__", "_core") and not info.name.startswith(
            "made_fast.backends."
        ):
            yield importlib.import_module(info.name)
    for row in made_fast.backends.BACKENDS:
        if row.missing is None:
            yield made_fast.backends.load(row)


def _members(kind: type) -> Iterator[tuple[str, object]]:
    """The public methods and properties that a class defines itself."""
    for name, value in vars(kind).items():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if not name.startswith("_") and inspect.isfunction(function) and function.__name__ != "<lambda>":
            yield name, getattr(kind, name)


def test_everything_public_is_documented() -> None:
    missing = []
    for module in _modules():
        if not module.__doc__:
            missing.append(module.__name__)
        for name, thing in vars(module).items():
            if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__ or not callable(thing):
                continue
            members = _members(thing) if inspect.isclass(thing) else ()
            for label, documented in [(name, thing), *((f"{name}.{member}", value) for member, value in members)]:
                if not inspect.getdoc(documented):
                    missing.append(f"{module.__name__}.{label}")
    assert missing == []


def test_public_names_are_few_and_exist() -> None:
    assert len(made_fast.__all__) <= 12
    assert sorted(set(made_fast.__all__)) == sorted(made_fast.__all__)
    for name in made_fast.__all__:
        assert hasattr(made_fast, name), name
    assert {"MADE", "MaskedLinear", "Sampler", "backends", "build_config"} <= set(made_fast.__all__)
    for module in _modules():
        for name in getattr(module, "__all__", ()):
            assert hasattr(module, name), f"{module.__name__}.{name}"


def _fresh(code: str) -> str:
    """What a new interpreter prints."""
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_loads_nothing_heavy_but_torch() -> None:
    ours = "import sys, torch; before = set(sys.modules); import made_fast; print(*sorted(set(sys.modules) - before))"
    loaded = set(_fresh(ours).split())  # what torch itself loads is not ours
    assert "made_fast.models.made" in loaded
    heavy = {"triton", "numba", "llvmlite", "sklearn", "scipy", "matplotlib", "PIL", "pandas", "narwhals"}
    assert loaded & (heavy | {"made_fast._core", "made_fast.testing", "made_fast.cli", "made_fast.training"}) == set()


@pytest.mark.skipif(not made_fast.build_config()["compiled"], reason="the compiled module is not installed")
def test_the_compiled_module_never_comes_before_torch() -> None:
    """A finder in front of all others sees every import in the order in which they happen."""
    code = """
import sys
order = []
class Watch:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in ("torch", "made_fast._core"):
            order.append(name)
sys.meta_path.insert(0, Watch)
from made_fast.backends import cpp
print(*dict.fromkeys(order))
"""
    assert _fresh(code) == "torch made_fast._core"


def test_build_config_says_what_is_in_use() -> None:
    config = made_fast.build_config()
    if not config["compiled"]:
        assert config == {"compiled": False}
        return
    assert config["instruction_set"] in config["instruction_sets"]
    assert config["instruction_sets"][-1] == "baseline"
    assert config["compiler"]
    assert re.match(r"\d+\.\d+\.\d+(\.dev|\+|$)", made_fast.__version__)
