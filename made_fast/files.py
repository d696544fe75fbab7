"""A file is written whole or not at all."""

from __future__ import annotations

import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # no POSIX: what a killed process leaves stays
    fcntl = None  # type: ignore[assignment]

__all__ = ["followed", "written_whole"]


def followed(path: Path) -> Path:
    """What a symbolic link points to, there or not; any other path itself."""
    return path.resolve() if path.is_symlink() else path


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new empty file beside ``path``, to be written within the block; afterwards it is on the disk and has that name.

    If the block raises, the new file is removed and what stood under the name before is left alone. A process that is killed
    at once within the block leaves a file whose name begins with a dot and ends in ``.part``; the next that writes under the
    same name removes it, unless its writer is alive.

    Args:
        path: where the file is to be. Of a symbolic link what it points to is written, and the link stays.

    Yields:
        The path to write to. Its permissions are those that the umask gives, whatever the writer makes of them.

    Raises:
        FileNotFoundError: the folder does not exist.
        OSError: the folder or the file cannot be written, or it is a device, a pipe or a folder.
    """
    target = followed(Path(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {target.parent} does not exist")
    if target.exists() and not target.is_file():
        raise OSError(f"cannot write {path}: it is no regular file, give the name of one")
    _remove_abandoned(target)
    partial, file = _create(target)
    try:
        mode = os.fstat(file).st_mode & 0o777
        yield partial
        partial.chmod(mode)
        with open(partial, "rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
        os.close(file)


def _create(target: Path) -> tuple[Path, int]:
    """A new file beside the target, locked for as long as it is open, so that others know that somebody writes it."""
    while True:
        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        file = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file).st_nlink:
            return partial, file
        os.close(file)  # taken for an abandoned one before it was locked


def _remove_abandoned(target: Path) -> None:
    """Removes what killed processes have left of this target."""
    if fcntl is None:
        return
    for left in target.parent.glob(f".{glob.escape(target.name)}.{'[0-9a-f]' * 8}.part"):
        with suppress(OSError):
            file = os.open(left, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
            finally:
                os.close(file)
