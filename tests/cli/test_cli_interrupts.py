"""Ctrl-C, termination and a reader that goes away end the command with one line and a status, at any moment."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from made_fast import MADE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


def start(*words: object, ignore: bool = False) -> subprocess.Popen[str]:
    """The command in a process that does not ignore Ctrl-C, as a background job does, unless it is to."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignore else signal.default_int_handler)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "made_fast", *map(str, words)]
    try:
        return subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=environment)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    MADE(64, (32,)).save(path)
    return path


def _interrupted(process: subprocess.Popen[str], number: signal.Signals, folder: Path) -> None:
    process.send_signal(number)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert process.returncode == STATUS[number], err
    assert err.splitlines()[-1] == "made-fast: interrupted"
    assert "Traceback" not in err and "Exception ignored" not in err
    assert os.listdir(folder) == []


def _wait_for(folder: Path) -> None:
    """Until something is being written there."""
    for _ in range(1200):
        if os.listdir(folder):
            return
        time.sleep(0.05)
    raise AssertionError("nothing was written in a minute")


def test_ctrl_c_while_torch_is_imported(tmp_path: Path, model_file: Path) -> None:
    process = start("sample", model_file, "-n", 10**9, "--out", tmp_path / "x.npy")
    time.sleep(0.6)
    _interrupted(process, signal.SIGINT, tmp_path)


@pytest.mark.parametrize("number", STATUS)
def test_what_is_half_written_is_removed(tmp_path: Path, model_file: Path, number: signal.Signals) -> None:
    process = start("sample", model_file, "-n", 10**9, "--out", tmp_path / "x.npy")
    _wait_for(tmp_path)
    _interrupted(process, number, tmp_path)


def test_ctrl_c_after_all_is_done_changes_nothing(
    tmp_path: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import atexit, os, signal\natexit.register(os.kill, os.getpid(), signal.SIGINT)\n"
    (tmp_path / "sitecustomize.py").write_text(text)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    monkeypatch.setenv("PYTHONPATH", path)
    process = start("sample", model_file, "-n", 3, "--out", tmp_path / "x.npy")
    _, err = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in err, (tmp_path / "x.npy").exists()) == (0, False, True)


def test_a_background_job_goes_on(tmp_path: Path, model_file: Path) -> None:
    process = start("sample", model_file, "-n", 2 * 10**6, "--out", tmp_path / "x.npy", ignore=True)
    _wait_for(tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=120)[1] == ""
    assert process.returncode == 0
    assert os.listdir(tmp_path) == ["x.npy"]


def test_a_reader_that_goes_away_is_no_error() -> None:
    process = start("backends", "--outputs")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141


@pytest.mark.parametrize("number", STATUS)
def test_a_signal_within_a_text_that_is_executed(number: signal.Signals) -> None:
    """After which Python would end by SIGINT though the exception was caught."""
    code = f"""
import os, signal, sys
from made_fast import interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background ignores
with interrupts.noticed() as came:
    try:
        exec("os.kill(os.getpid(), {int(number)})\\nwhile True: pass")
    except KeyboardInterrupt:
        pass
sys.exit(128 + came[0])
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == STATUS[number]


@pytest.mark.slow
@pytest.mark.parametrize("number", STATUS)
def test_at_any_moment(tmp_path: Path, model_file: Path, number: signal.Signals) -> None:
    """From half a second after the start on, when Python itself has started."""
    moments, suffixes = random.Random(0), ("npy", "npz")
    for turn in range(4):
        process = start("sample", model_file, "-n", 10**9, "--out", tmp_path / f"x.{suffixes[turn % 2]}", "--progress")
        if number == signal.SIGTERM:
            _wait_for(tmp_path)  # before that nothing need be cleaned up, and the system's own end will do
        time.sleep(moments.uniform(0.5, 4) if number == signal.SIGINT else moments.uniform(0, 1))
        _interrupted(process, number, tmp_path)
