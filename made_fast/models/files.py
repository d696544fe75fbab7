"""Model files: safetensors with the configuration as JSON in the metadata. Reading one never runs code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from made_fast.arguments import whole_numbers
from made_fast.files import written_whole

__all__ = ["check_sizes", "check_widths", "load", "save"]

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
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    try:
        with written_whole(path) as partial:
            save_file(tensors, partial, metadata={"format": _FORMAT, "config": json.dumps(config)})
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from error


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


def check_widths(hidden_features: Sequence[int]) -> tuple[int, ...]:
    """Returns the widths of hidden layers as a tuple.

    Raises:
        ValueError: they are no sequence of positive integers.
    """
    return whole_numbers("hidden_features", hidden_features, 1)


def check_sizes(state: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Refuses a configuration that asks for other sizes than the file holds, before memory is asked for.

    Raises:
        ValueError: a tensor is missing or has another size; the message names it.
    """
    widths = check_widths(config.get("hidden_features", ()))
    layers = [width for index, width in enumerate(widths) for _ in range(2 if config.get("residual") and index else 1)]
    expected = {f"hidden.{index}.bias": width for index, width in enumerate(layers)}
    num_masks = config.get("num_masks", 1)
    if num_masks != 1:
        expected["ensemble.orders"] = max(num_masks, 1) * state["order"].numel() if "order" in state else 0
    for name, size in {"order": config.get("features"), **expected}.items():
        found = state[name].numel() if name in state else "none"
        if found != size:
            raise ValueError(f"{name} must have {size} values, got {found}")
