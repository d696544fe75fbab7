"""The commands of the package in processes that are disturbed: killed, interrupted, without disk, permission or memory."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0  # seconds after which a process hangs
NOBODY = 65534
STARTED = 0.35  # seconds in which Python itself starts: a signal before has nothing of ours to meet
COLUMNS = ("fault", "trials", "wrong", "lost", "crashed", "hung")


@dataclass
class Row:
    """Counts of one fault.

    Attributes:
        wrong: bytes or values are not those of an undisturbed run.
        lost: what was there before is gone, or cannot be gone on from, or parts of files are left.
        crashed: a traceback, or an end by another signal than the one sent.
        hung: no end within two minutes.
    """

    fault: str
    trials: int = 0
    wrong: int = 0
    lost: int = 0
    crashed: int = 0
    hung: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def bad(self) -> int:
        return self.wrong + self.lost + self.crashed + self.hung

    def count(self, what: str, note: str) -> None:
        setattr(self, what, getattr(self, what) + 1)
        if len(self.notes) < 5:
            self.notes.append(f"{self.fault}: {what}: {' '.join(note.split())[-400:]}")


@dataclass(frozen=True)
class Ended:
    """How a process ended: its status (None if it hung), what it wrote to stderr, the seconds that it took."""

    status: int | None
    errors: str
    seconds: float


def start(*words: str, before: Callable[[], None] | None = None, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """``made-fast`` with these words, on one thread."""
    command = [*prefix, sys.executable, "-m", "made_fast", *words]
    around = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    options: dict[str, Any] = {"cwd": ROOT, "env": around, "preexec_fn": before, "text": True}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options)


def ended(process: subprocess.Popen[str], began: float) -> Ended:
    try:
        _, errors = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        _, errors = process.communicate()
        return Ended(None, errors, time.monotonic() - began)
    return Ended(process.returncode, errors, time.monotonic() - began)


def run(*words: str, before: Callable[[], None] | None = None, prefix: tuple[str, ...] = ()) -> Ended:
    """To the end."""
    began = time.monotonic()
    return ended(start(*words, before=before, prefix=prefix), began)


def disturbed(number: int, delay: float, *words: str) -> Ended:
    """Sends a signal after so many seconds."""
    began = time.monotonic()
    process = start(*words)
    time.sleep(delay)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
    return ended(process, began)


class Bench:
    """A folder with data, and undisturbed runs of the commands in it."""

    def __init__(self, folder: Path, rng: random.Random, *, quick: bool) -> None:
        self.folder, self.rng = folder, rng
        bits = (np.random.default_rng(0).random((300 if quick else 900, 48)) < 0.3).astype(np.uint8)
        packed = np.packbits(bits, axis=1)
        self.data = folder / "data.npz"
        np.savez(self.data, train=packed, valid=packed[:100], test=packed[:200], n_features=48)
        self.epochs, self.samples = (4, 20_000) if quick else (25, 1_500_000)
        self.model, self.drawn = folder / "whole.safetensors", folder / "whole.npz"
        self.train_seconds = self._whole(*self.training(self.model))
        self.sample_seconds = self._whole(*self.sampling(self.drawn))
        self.evaluate_seconds = self._whole(*self.evaluating())

    def training(self, out: Path) -> list[str]:
        options = ["--hidden", "64", "64", "--batch-size", "20", "--patience", "1000", "--input-dropout", "0.1"]
        return ["train", str(self.data), "--out", str(out), "--epochs", str(self.epochs), *options, "--threads", "1"]

    def sampling(self, out: Path) -> list[str]:
        return ["sample", str(self.model), "-n", str(self.samples), "--out", str(out), "--seed", "3", "--threads", "1"]

    def evaluating(self) -> list[str]:
        return ["evaluate", str(self.model), str(self.data), "--threads", "1"]

    def moment(self, seconds: float) -> float:
        """A random moment of a run that takes so long, after Python has started."""
        return self.rng.uniform(STARTED, max(seconds, 2 * STARTED))

    def empty(self) -> Path:
        """A new folder."""
        path = self.folder / f"trial-{self.rng.randrange(2**40)}"
        path.mkdir()
        return path

    @staticmethod
    def _whole(*words: str) -> float:
        found = run(*words)
        if found.status != 0:
            raise RuntimeError(f"made-fast {' '.join(words)} must end with 0, got {found.status}: {found.errors}")
        return found.seconds

    def finish_training(self, row: Row, out: Path) -> None:
        """Goes on with a training, as its user would, and compares the model with the undisturbed one."""
        checkpoint = out.with_name(out.name + ".ckpt")
        if checkpoint.exists() or not out.exists():
            found = run(*self.training(out), *(["--resume"] if checkpoint.exists() else []))
            if found.status != 0:
                row.count("hung" if found.status is None else "lost", f"resume: {found.status} {found.errors}")
                return
        if out.read_bytes() != self.model.read_bytes():
            row.count("wrong", "the model has other bytes than that of an uninterrupted training")
        self.no_parts(row, out.parent)

    def finish_sampling(self, row: Row, out: Path) -> None:
        """Draws again, as its user would; what is under the name before must be whole."""
        if out.exists() and out.read_bytes() != self.drawn.read_bytes():
            row.count("wrong", "a file of samples under its name is not whole")
        found = run(*self.sampling(out))
        if found.status != 0:
            row.count("hung" if found.status is None else "lost", f"again: {found.status} {found.errors}")
        elif out.read_bytes() != self.drawn.read_bytes():
            row.count("wrong", "samples have other bytes than those of an uninterrupted run")
        self.no_parts(row, out.parent)

    @staticmethod
    def no_parts(row: Row, folder: Path) -> None:
        left = [path.name for path in folder.iterdir() if path.name.endswith(".part")]
        if left:
            row.count("lost", f"parts of files are left: {left}")


def killed(bench: Bench, trials: int) -> Iterator[Row]:
    """kill -9 at random moments; trainings are resumed, samples drawn again."""
    for name, words, seconds, finish in (
        ("training", bench.training, bench.train_seconds, bench.finish_training),
        ("sampling", bench.sampling, bench.sample_seconds, bench.finish_sampling),
    ):
        row = Row(f"kill -9 of {name}, then again")
        for _ in range(trials):
            out = bench.empty() / bench_name(name)
            row.trials += 1
            disturbed(signal.SIGKILL, bench.moment(seconds), *words(out))
            finish(row, out)
            shutil.rmtree(out.parent)
        yield row


def bench_name(name: str) -> str:
    return "model.safetensors" if name == "training" else "samples.npz"


def interrupted(bench: Bench, trials: int) -> Iterator[Row]:
    """SIGINT and SIGTERM at random moments: one line, a status that says so, nothing half-written; then again."""
    usual = {signal.SIGINT: (0, 130), signal.SIGTERM: (0, 143, -signal.SIGTERM)}
    for number, name in ((n, w) for n in usual for w in ("training", "sampling", "evaluate")):
        row = Row(f"{number.name} while {name}")
        for _ in range(trials):
            out = bench.empty() / bench_name(name)
            row.trials += 1
            seconds = {"training": bench.train_seconds, "sampling": bench.sample_seconds}.get(
                name, bench.evaluate_seconds
            )
            words = {"training": bench.training, "sampling": bench.sampling}.get(name, lambda _: bench.evaluating())(
                out
            )
            delay = bench.moment(seconds)
            found = disturbed(number, delay, *words)
            if found.status is None:
                row.count("hung", found.errors)
            elif found.status not in usual[number] or "Traceback" in found.errors:
                row.count("crashed", f"status {found.status} after {delay:.2f} s: {found.errors}")
            if found.status != -signal.SIGTERM:  # by the time of imports, when nothing was begun
                bench.no_parts(row, out.parent)
            if name == "training":
                bench.finish_training(row, out)
            elif name == "sampling" and out.exists() and out.read_bytes() != bench.drawn.read_bytes():
                row.count("wrong", "a file of samples under its name is not whole")
            shutil.rmtree(out.parent)
        yield row


def refused(bench: Bench, row: Row, out: Path, words: list[str], old: bytes, before: Any = None) -> None:
    """A command that cannot write must end with 1 and one line, leave no part, and keep the old file."""
    row.trials += 1
    found = run(*words, before=before)
    if found.status is None:
        row.count("hung", found.errors)
    elif found.status != 1 or "Traceback" in found.errors or not found.errors.strip():
        row.count("crashed", f"{words[0]}: status {found.status}: {found.errors}")
    if not out.exists() or out.read_bytes() != old:
        row.count("lost", f"{words[0]}: the old file is gone or changed")
    bench.no_parts(row, out.parent)


def without_disk(bench: Bench) -> Iterator[Row]:
    """No room: a limit on the size of files, and a full file system where one may be mounted."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    row = Row("no room for files (RLIMIT_FSIZE)")
    _refused_everywhere(bench, row, bench.empty(), limit)
    yield row
    with mounted("size=600k") as folder:
        if folder is not None:
            row = Row("disk full (tmpfs of 600 kB)")
            (folder / "ballast").write_bytes(bytes(560_000))
            _refused_everywhere(bench, row, folder, None)
            yield row


def without_permission(bench: Bench) -> Iterator[Row]:
    """A folder that is not to be written: by its mode for another user, and on a read-only file system."""
    if os.geteuid() == 0 and _nobody_runs_python():
        row = Row("folder of another user (as nobody)")
        folder = bench.empty()
        for path in (folder, *folder.parents):
            if path.is_relative_to(bench.folder):
                path.chmod(0o755)
        _refused_everywhere(bench, row, folder, lambda: os.setuid(NOBODY))
        yield row
    with mounted("size=600k") as folder:
        if folder is not None:
            row = Row("read-only file system")
            _refused_everywhere(bench, row, folder, None, after=("mount", "-o", "remount,ro", str(folder)))
            yield row


def _nobody_runs_python() -> bool:
    try:
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import made_fast"
        done = subprocess.run([sys.executable, "-c", code], user=NOBODY, capture_output=True, check=False)
    except PermissionError:
        return False
    return done.returncode == 0


def _refused_everywhere(
    bench: Bench, row: Row, folder: Path, before: Callable[[], None] | None, after: tuple[str, ...] = ()
) -> None:
    files = {name: folder / name for name in ("old.safetensors", "old.npz", "old.npy", "old.png")}
    for path in files.values():
        path.write_bytes(b"old")
    if after:
        subprocess.run(after, check=True)
    refused(
        bench, row, files["old.safetensors"], [*bench.training(files["old.safetensors"]), "--overwrite"], b"old", before
    )
    for name in ("old.npz", "old.npy", "old.png"):
        words = [*bench.sampling(files[name]), "--image-shape", "6", "8"]
        words[words.index("-n") + 1] = "9000"
        refused(bench, row, files[name], words, b"old", before)


@contextlib.contextmanager
def mounted(options: str) -> Iterator[Path | None]:
    """A small file system in memory, or None where that is not allowed."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        command = ["mount", "-t", "tmpfs", "-o", options, "none", name]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            yield None
            return
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", name], check=False)


def on_one_processor(bench: Bench) -> Iterator[Row]:
    """The same bytes when all threads share one processor."""
    if shutil.which("taskset") is None:
        return
    row = Row("taskset -c 0", trials=1)
    out = bench.empty() / "samples.npz"
    words = [word if word != "1" else "8" for word in bench.sampling(out)]
    first = sorted(os.sched_getaffinity(0))[0]
    found = run(*words, prefix=("taskset", "-c", str(first)))
    if found.status != 0:
        row.count("hung" if found.status is None else "crashed", f"{found.status} {found.errors}")
    elif out.read_bytes() != bench.drawn.read_bytes():
        row.count("wrong", "other bytes")
    yield row
