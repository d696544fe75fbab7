"""Files are written whole or not at all, whatever stands under the name, and leave nothing behind."""

import multiprocessing
import os
import signal
import stat
import sys
import threading
from pathlib import Path

import pytest

from made_fast.files import written_whole

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")


def _write(path: Path, text: str) -> None:
    with written_whole(path) as partial:
        partial.write_text(text)


def _stop(path: Path) -> None:
    with written_whole(path) as partial:
        partial.write_text("other")
        raise RuntimeError("half way")


def test_it_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with written_whole(path) as partial:
        partial.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    with pytest.raises(RuntimeError, match="half way"):
        _stop(path)
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["x"]


@posix
def test_a_link_stays_and_what_it_points_to_is_written(tmp_path: Path) -> None:
    folder, link = tmp_path / "elsewhere", tmp_path / "link"
    folder.mkdir()
    link.symlink_to("elsewhere/x")
    for text in ("first", "second"):  # at first it points to nothing
        _write(link, text)
        assert link.is_symlink()
        assert (folder / "x").read_text() == text
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "link"]
    assert os.listdir(folder) == ["x"]


@posix
def test_devices_and_pipes_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/null")):
        with pytest.raises(OSError, match="it is no regular file"):
            _write(path, "text")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


@posix
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_permissions_are_those_of_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with written_whole(tmp_path / "x") as partial:
            partial.unlink()  # some writers make another file
            partial.write_text("text")
            partial.chmod(0o600)
            assert os.umask(umask) == umask  # unchanged meanwhile, for other threads
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(tmp_path / "x").st_mode) == 0o666 & ~umask


def _stop_half_way(path: Path, begun: object) -> None:
    with written_whole(path) as partial:
        partial.write_text("half")
        begun.set()  # type: ignore[attr-defined]
        threading.Event().wait()


@posix
def test_what_a_killed_process_leaves_is_removed_by_the_next(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    path, begun = tmp_path / "x[1]", spawn.Event()
    process = spawn.Process(target=_stop_half_way, args=(path, begun))
    process.start()
    assert begun.wait(60)
    _write(path, "while it is alive")
    assert len(os.listdir(tmp_path)) == 2
    (tmp_path / ".x[1].00000000.part.txt").write_text("of somebody else")
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert len(os.listdir(tmp_path)) == 3
    _write(path, "after")
    assert sorted(os.listdir(tmp_path)) == [".x[1].00000000.part.txt", "x[1]"]
    assert path.read_text() == "after"


def test_many_writers_at_once(tmp_path: Path) -> None:
    """Each sees its own file, and the last one stays."""
    path, errors = tmp_path / "x", []

    def work(number: int) -> None:
        try:
            for turn in range(20):
                _write(path, f"{number} {turn} " * 100)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(set(path.read_text().split())) <= 2
    assert os.listdir(tmp_path) == ["x"]
