"""Checkpoint files: written whole, read without running code from them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import torch

from made_fast.files import written_whole

__all__ = ["read", "write"]

_FORMAT = 3


def write(path: Path, state: dict[str, Any]) -> None:
    """Writes a state under another name, then renames it: a kill leaves the old file or the new one.

    Raises:
        OSError: the folder does not exist, or there is no room.
    """
    written = io.BytesIO()
    torch.save({"format": _FORMAT, **state}, written)  # not to the disk: of a full one torch says "unexpected pos"
    with written_whole(path) as partial:
        partial.write_bytes(written.getbuffer())


def read(path: Path) -> dict[str, Any]:
    """The state that ``write`` wrote, its tensors on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or something else.
    """
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint to resume from at {path}: start without resume")
    with open(path, "rb") as file:
        try:
            bad = zipfile.ZipFile(file).testzip()  # torch does not look at the sums that it writes
            if bad is not None:
                raise zipfile.BadZipFile(f"{bad} is not what was written")
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever torch makes of bytes that were not written by it
            raise ValueError(f"checkpoint {path} is damaged or no checkpoint: delete it, start anew") from error
    found = state.get("format") if isinstance(state, dict) else None
    if not isinstance(found, int) or found != _FORMAT:
        raise ValueError(f"checkpoint {path} was not written by this version of made_fast: delete it, start anew")
    return state  # type: ignore[no-any-return]
