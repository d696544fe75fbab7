"""Every header of the engine includes what it needs: each is compiled alone, with the flags of a build of the engine."""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CSRC = ROOT / "csrc"
HEADERS = sorted(CSRC.rglob("*.h")) if CSRC.is_dir() else []
COMPILER = shutil.which(os.environ.get("CXX", "c++"))
FLAGS = ("-std=gnu++17", "-fopenmp", "-Wall", "-Wextra", "-Wno-psabi", "-Werror", f"-I{CSRC}")

pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")


def _cmake() -> str:
    return (ROOT / "CMakeLists.txt").read_text()


def _engines() -> dict[str, list[str]]:
    """Name and flags of each build of the engine that this processor's compiler knows."""
    common = re.search(r"set\(MADE_FAST_ENGINE_FLAGS ([^)]*)\)", _cmake())
    assert common is not None
    entries = re.findall(r'^ *(?:set\(MADE_FAST_ENGINES )?"(\w+)((?: -[^"]*)?)"\)?$', _cmake(), flags=re.MULTILINE)
    on_x86 = platform.machine() in ("x86_64", "AMD64")
    return {name: [*common[1].split(), *flags.split()] for name, flags in entries if on_x86 or name == "baseline"}


def _compile(source: str, flags: list[str]) -> str:
    """What the compiler says of it."""
    assert COMPILER is not None
    command = [COMPILER, "-x", "c++", "-fsyntax-only", *FLAGS, *flags, "-"]
    return subprocess.run(command, input=source, capture_output=True, text=True, check=False, timeout=300).stderr


def _python_flags() -> list[str]:
    if importlib.util.find_spec("pybind11") is None or not Path(sysconfig.get_path("include"), "Python.h").exists():
        pytest.skip("pybind11 and the headers of Python are not here")
    pybind11 = importlib.import_module("pybind11")
    return ["-isystem", pybind11.get_include(), "-isystem", sysconfig.get_path("include"), "-fvisibility=hidden"]


@pytest.mark.slow
@pytest.mark.parametrize("header", HEADERS, ids=lambda path: str(path.relative_to(CSRC)))
def test_a_header_compiles_alone(header: Path) -> None:
    name = header.relative_to(CSRC)
    source = f'#include "{name}"\n'
    if not name.name.endswith("-inl.h"):
        assert _compile(source, _python_flags() if name.parts[0] == "python" else []) == ""
        return
    engines = _engines()
    for isa in dict.fromkeys([*engines][index] for index in (0, -1)):  # the plainest and the richest
        assert _compile(source, [f"-DMADE_FAST_ISA={isa}", *engines[isa]]) == "", isa


def test_headers_know_each_other_by_folder() -> None:
    """plan/ knows neither Python nor instruction sets; engine/ knows no Python and uses no templates of the STL."""
    allowed = {"plan": {"plan"}, "engine": {"plan", "engine"}, "python": {"plan", "engine", "python"}}
    for path in [*HEADERS, *CSRC.rglob("*.cpp")]:
        text, folder = path.read_text(), path.relative_to(CSRC).parts[0]
        own = re.findall(r'#include "(\w+)/', text)
        assert set(own) <= allowed[folder], path
        if folder != "python":
            assert "pybind11" not in text, path
        if folder == "plan":
            assert "MADE_FAST_ISA" not in text and "__AVX" not in text, path
        if path.name.endswith("-inl.h") or path.name == "engine.cpp":
            system = re.findall(r"#include <([^>]*)>", text)
            assert set(system) <= {"cstdint", "cstdlib", "cstring", "ctime", "immintrin.h", "omp.h", "sched.h"}, path


def test_every_list_of_engines_has_the_same_names() -> None:
    """A build without its line in engines.def is never used; a line without a build does not link."""
    lines = re.findall(r"^MADE_FAST_ENGINE\((\w+),", (CSRC / "engine" / "engines.def").read_text(), flags=re.MULTILINE)
    built = re.findall(r'"(\w+)(?: -[^"]*)?"', _cmake()[_cmake().index("set(MADE_FAST_ENGINES") :].split("endif()")[0])
    assert sorted(lines) == sorted(built)
    assert len(set(lines)) == len(lines)
