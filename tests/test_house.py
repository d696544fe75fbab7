"""The shape of the code: imports go down only, files and functions stay short, public names are few and documented."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import made_fast

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "made_fast"

# What a module may import of the package. Everything above may also import the ground.
GROUND = {
    *("masks", "mask_plan", "noise", "program", "dependencies", "schedule", "checkpoint", "ensemble", "estimates"),
    *("conditionals", "real_conditionals", "conditioning", "distributions", "outputs"),
}
ALLOWED = {
    **{name: set() for name in GROUND},
    "real_conditionals": {"conditionals"},
    "conditioning": {"conditionals"},
    "outputs": {"conditionals", "real_conditionals", "distributions"},
    "point": {"conditionals", "outputs"},
    "program": {"conditionals"},
    "dependencies": {"program"},
    "schedule": {"conditionals", "dependencies", "program"},
    "ensemble": {"masks", "noise"},
    "backends": set(),
    "ops": {"backends", *GROUND},
    "functional": {"backends", "ops", *GROUND},
    "request": GROUND,
    "drawing": {"request", *GROUND},
    "sampler": {"backends", "drawing", "request", *GROUND},
    "capabilities": {"backends", "sampler", "request", *GROUND},
    "symbols": {"program"},
    "graph": set(),
    "translators": {"symbols", "program"},
    "translate_moves": {"translators", "symbols", "program"},
    "translate_functions": {"translators", "symbols", "program"},
    "translate_arithmetic": {"ops", "translate_functions", "translators", "symbols", "program"},
    "translate": {
        "graph",
        "translators",
        "translate_moves",
        "translate_functions",
        "translate_arithmetic",
        "symbols",
        "program",
    },
    "simplify": {"symbols", "program"},
    "layouts": {"dependencies", "graph"},
    "capture": {"graph", "translate", "symbols", "simplify", "layouts", *GROUND},
    "sharding": set(),
    "layers": {"functional", *GROUND},
    "encoder": {"functional", "layers", *GROUND},
    "parameters": {"encoder", "functional", *GROUND},
    "summary": GROUND,
    "acceleration": {"adapters", "capture", "graph", "freeze", "summary", "sampler", "drawing", "request", *GROUND},
    "lowering": {"layers", *GROUND},
    "inspection": {"summary", *GROUND},
    "model_draws": {"drawing", *GROUND},
    "model_files": {"inspection", *GROUND},
    "ensemble_sampler": {"sampler", "drawing", "request", "backends", *GROUND},
    "freeze": {"sampler", "ensemble_sampler", *GROUND},
    "nn": {
        *("layers", "lowering", "functional", "sampler", "drawing", "ensemble_sampler", "freeze"),
        *("encoder", "parameters", "inspection", "model_draws", "model_files", *GROUND),
    },
    "inverse": {"freeze", "point", "sampler", *GROUND},
    "levels": {"backends", "point", *GROUND},
    "adapters": {"adapters", "capture", "freeze", "graph", "inverse", "levels", "point", "sampler", *GROUND},
    "compat": {"acceleration", "compat", *GROUND},
    "flows": {"inverse", "nn", "point", "request", "sampler", *GROUND},
    "estimation": {"nn", "sampler", "ensemble_sampler", *GROUND},
    "datasets": GROUND,
    "training": {"nn", "sampler", "datasets", *GROUND},
    # the program on top: it compares samplers in `demo`, lists backends, and says the version
    "cli_options": set(),
    "cli_sample": {"cli_options", "datasets", "nn", "sharding", *GROUND},
    "cli_doctor": {"cli_options", "adapters", "capture", "nn", "point", "summary", *GROUND},
    "cli": {
        *(
            "cli_options",
            "cli_doctor",
            "cli_sample",
            "training",
            "datasets",
            "nn",
            "backends",
            "capabilities",
            "testing",
            "made_fast",
        ),
        *GROUND,
    },
    "__main__": {"cli"},
}
ANYTHING = {"__init__", "testing"}
TOOLS = {"cpp": {"_core"}}  # a backend's own tool, where that is part of the package


def _name(path: Path) -> str:
    """Dotted name of a module of the package, without the package: ``backends.cpp``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
SOURCES = [
    path
    for folder in ("made_fast", "csrc", "tests", "benchmarks", "examples")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in {".py", ".pyi", ".h", ".cpp", ".hpp", ".cu"}
    and not any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(ROOT).parts)
]


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _imports(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything imported when the code runs, inside functions too."""
    for child in ast.iter_child_nodes(node):
        if _is_type_checking(child):
            continue
        if isinstance(child, ast.Import):
            yield from ((child.lineno, alias.name) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: relative import"
            yield from ((child.lineno, f"{child.module}.{alias.name}") for alias in child.names)
        yield from _imports(child)


def _own(path: Path) -> set[str]:
    """The modules of the package that a file imports; ``made_fast`` itself for a name of the package's face."""
    found = set()
    for _, name in _imports(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] != "made_fast":
            continue
        candidates = [".".join(parts[1:end]) for end in range(len(parts), 1, -1)]
        found.add(next((each for each in candidates if each in MODULES or each == "_core"), "made_fast"))
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    if module in ANYTHING:
        return
    found = _own(MODULES[module])
    package = module.split(".", maxsplit=1)[0]
    if package in ("adapters", "compat"):
        assert {name for name in found if name.split(".")[0] not in ALLOWED[package]} == set()
    elif module.startswith("backends."):
        backend = module.split(".")[1]
        inside = {name for name in found if name.startswith(f"backends.{backend}")}
        assert found - inside <= GROUND | TOOLS.get(backend, set())
    else:
        assert module in ALLOWED, "a new module: give it a row in ALLOWED"
        allowed = ALLOWED[module]
        assert {name for name in found if name.split(".")[0] not in allowed} == set()


def test_the_import_test_sees_imports(tmp_path: Path) -> None:
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
    (tmp_path / "file.py").write_text(code)
    assert _own(tmp_path / "file.py") == {"nn", "backends", "backends.cpp", "program", "made_fast"}


def test_torch_is_imported_before_the_compiled_module() -> None:
    for module, path in MODULES.items():
        lines = {name: line for line, name in _imports(ast.parse(path.read_text()))}
        core = [line for name, line in lines.items() if name.startswith("made_fast._core")]
        if core:
            assert module == "backends.cpp"
            assert lines["torch"] < min(core)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                documented = node.body[0].end_lineno - node.lineno if ast.get_docstring(node) else 0
                assert node.end_lineno - node.lineno - documented < 60, f"{node.name} in line {node.lineno}"


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
    assert "made_fast.nn" in loaded
    heavy = {"triton", "numba", "llvmlite", "sklearn", "scipy", "matplotlib", "PIL", "pandas"}
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
    assert made_fast.__version__.count(".") == 2
