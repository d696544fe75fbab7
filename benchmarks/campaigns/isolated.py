"""Numbered attempts in a process of its own: one that crashes or hangs is counted, and the next process goes on behind it."""

from __future__ import annotations

import importlib.util
import os
import random
import resource
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COLUMNS = ("tried", "attempts", "refused", "worked", "other exceptions", "crashed", "hung")
MOST_NOTES = 10
MODULE = "MADE_FAST_SANITIZED"  # the environment names a file that stands in for the compiled module


@dataclass
class Counts:
    """What came of one kind of attempt."""

    refused: int = 0
    worked: int = 0
    other: int = 0
    crashed: int = 0
    hung: int = 0
    notes: list[str] = field(default_factory=list)

    def row(self, kind: str) -> dict[str, Any]:
        """A row of the table."""
        return {
            "tried": kind,
            "attempts": self.refused + self.worked + self.other + self.crashed + self.hung,
            "refused": self.refused,
            "worked": self.worked,
            "other exceptions": self.other,
            "crashed": self.crashed,
            "hung": self.hung,
            "wrong": self.other + self.crashed + self.hung,
            "notes": self.notes,
        }


def attempt(kind: str, number: int, call: Callable[[], Any], refusals: tuple[type[BaseException], ...]) -> None:
    """In the child: announces, calls, says what came of it."""
    print(f"> {number} {kind}", flush=True)
    try:
        call()
    except refusals:
        print("refused", flush=True)
    except BaseException as error:
        print(f"other {type(error).__name__}: {' '.join(str(error).split())[:160]}", flush=True)
    else:
        print("worked", flush=True)


def use_module() -> None:
    """In the child, after torch: takes the compiled module that the environment names."""
    path = os.environ.get(MODULE)
    if path is None:
        return
    spec = importlib.util.spec_from_loader("made_fast._core", ExtensionFileLoader("made_fast._core", path), origin=path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["made_fast._core"] = module
    spec.loader.exec_module(module)


def limited(gibibytes: float) -> None:
    """In the child: no more address space than it has now and this much."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + int(gibibytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def run(
    module: str,
    seed: int,
    count: int,
    *,
    environment: Mapping[str, str] | None = None,
    patience: float = 60.0,
) -> list[dict[str, Any]]:
    """Rows of ``COLUMNS``, one for each kind.

    Args:
        module: of this package; its ``child(seed, first, count)`` makes attempts by ``attempt``.
        seed: of all attempts.
        count: how many.
        environment: of the child, besides this process's own.
        patience: seconds without a word after which the child hangs.
    """
    counts: dict[str, Counts] = {}
    done = 0
    while done < count:
        code = f"from benchmarks.campaigns import {module}; {module}.child({seed}, {done}, {count - done})"
        with tempfile.TemporaryFile("w+") as errors:  # a pipe would fill up
            child = subprocess.Popen(
                [sys.executable, "-c", code],
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                stdout=subprocess.PIPE,
                stderr=errors,
            )
            number, kind, ended = _follow(child, counts, patience)
            errors.seek(0)
            said = errors.read()
        if number is None and not ended:
            raise RuntimeError(f"{module} could not begin: {said[-2000:]}")
        if ended == "all":
            break
        assert number is not None
        mine = counts.setdefault(kind, Counts())
        setattr(mine, ended, getattr(mine, ended) + 1)
        if len(mine.notes) < MOST_NOTES:
            how = f"signal {signal.Signals(-child.returncode).name}" if child.returncode < 0 else child.returncode
            mine.notes.append(f"{kind}: attempt {number} of seed {seed} {ended} ({how}) {said[-300:].strip()}")
        done = number + 1
    return [mine.row(kind) for kind, mine in counts.items()]


def _lines(child: subprocess.Popen[bytes], patience: float) -> Iterator[str | None]:
    """Lines as they come; None if none came for so many seconds."""
    assert child.stdout is not None
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(patience):
                yield None
                return
            data = os.read(child.stdout.fileno(), 1 << 16)
            if not data:
                return
            *whole, rest = (rest + data).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)


def _follow(child: subprocess.Popen[bytes], counts: dict[str, Counts], patience: float) -> tuple[int | None, str, str]:
    """Reads what a child says to its end: the attempt it was in, its kind, and how it ended ("all" if with the last)."""
    number, kind, open_ = None, "", False
    for line in _lines(child, patience):
        if line is None:
            child.kill()
            child.wait()
            return number, kind, "hung" if open_ else ""
        word, _, rest = line.partition(" ")
        if word == ">":
            text, _, kind = rest.partition(" ")
            number, open_ = int(text), True
            continue
        mine = counts.setdefault(kind, Counts())
        setattr(mine, word, getattr(mine, word) + 1)
        open_ = False
        if word == "other" and len(mine.notes) < MOST_NOTES:
            mine.notes.append(f"{kind}: attempt {number}: {rest}")
    child.wait()
    if child.returncode == 0 and not open_:
        return number, kind, "all"
    return number, kind, "crashed" if open_ or child.returncode else "all"


def rng_of(seed: int, number: int, salt: str) -> random.Random:
    """The generator of one attempt."""
    return random.Random(f"{salt} {seed} {number}")
