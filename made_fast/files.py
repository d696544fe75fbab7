"""A file is written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["written_whole"]


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new empty file beside ``path``, to be written within the block; afterwards it is on the disk and has that name.

    If the block raises, the new file is removed and what stood under the name before is left alone. A process that is killed
    within the block leaves a file whose name begins with a dot and ends in ``.part``.

    Args:
        path: where the file is to be.

    Yields:
        The path to write to. Its permissions are those that the umask gives, whatever the writer makes of them.

    Raises:
        FileNotFoundError: the folder does not exist.
        OSError: the folder or the file cannot be written.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist")
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    file = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        mode = os.fstat(file).st_mode & 0o777
        os.close(file)
        yield partial
        partial.chmod(mode)
        with open(partial, "rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
