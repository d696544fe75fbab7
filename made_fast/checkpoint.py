"""Model files: safetensors with the configuration as JSON in the metadata. Reading one never runs code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["load", "save"]

_FORMAT = "made_fast 1"


def save(path: str | Path, state: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Writes a model file, whole or not at all.

    Args:
        path: of the file.
        state: tensors by name.
        config: what builds the module again; must fit into JSON.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        save_file(tensors, partial, metadata={"format": _FORMAT, "config": json.dumps(config)})
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)  # safetensors leaves it to the owner alone
        partial.replace(path)
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def load(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a model file: tensors by name, and the configuration.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated or was not written by ``save``.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no model file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is truncated or no model file: {error}") from error
    if metadata.get("format") != _FORMAT:
        raise ValueError(f"{path} was not written by MADE.save: its format is {metadata.get('format')!r}")
    try:
        config = json.loads(metadata["config"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} has no readable configuration") from error
    if not isinstance(config, dict) or not state:
        raise ValueError(f"{path} has no readable configuration")
    return state, config
