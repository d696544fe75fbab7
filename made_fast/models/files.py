"""Model files: safetensors with the configuration as JSON in the metadata. Reading one never runs code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from made_fast.arguments import whole_number, whole_numbers
from made_fast.files import written_whole
from made_fast.outputs.codes import Encoding
from made_fast.outputs.kinds import make_output

__all__ = ["Config", "attachment", "check_state", "check_widths", "fitting", "load", "load_checked", "save"]

_FORMAT = "made_fast 1"
_FLAGS = ("residual", "direct", "mask_conditioning")
_COUNTS = (("context_features", 0), ("num_masks", 1))
_WEIGHTS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_DEEPEST = 8  # columns of different kinds within such columns


class Config(dict[str, Any]):
    """Arguments by name; a call returns them."""

    def __call__(self) -> dict[str, Any]:
        """A plain copy."""
        return dict(self)


def save(path: str | Path, state: dict[str, Tensor], config: dict[str, Any], attachment: str = "") -> None:
    """Writes a model file, whole or not at all.

    Args:
        path: of the file.
        state: tensors by name.
        config: what builds the module again; must fit into JSON.
        attachment: text that is kept beside it; see ``attachment``.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    text = json.dumps(config)
    metadata = {"format": _FORMAT, "config": text, "digest": _digest(text + attachment, tensors)}
    if attachment:
        metadata["attachment"] = attachment
    try:
        with written_whole(path) as partial:
            save_file(tensors, partial, metadata=metadata)
            _sort_metadata(partial)
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
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} has no readable configuration") from error
    if "digest" in metadata and metadata["digest"] != _digest(
        metadata["config"] + metadata.get("attachment", ""), state
    ):
        raise ValueError(f"{path} is damaged: it does not hold what was written")
    if not isinstance(config, dict) or not state:
        raise ValueError(f"{path} has no readable configuration")
    return state, config


def attachment(path: str | Path) -> str:
    """The text that was saved beside a model, of a file that ``load`` has read; empty if there is none."""
    with safe_open(path, framework="pt") as file:
        return str((file.metadata() or {}).get("attachment", ""))


def _sort_metadata(path: Path) -> None:
    """Puts the metadata in the order of their names, so that equal models are equal files: they are written in any order."""
    with open(path, "r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:
            file.seek(8)
            file.write(text.ljust(size))


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a configuration and of all tensors: their format has no sum that would tell of a changed bit."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def fitting(path: str | Path) -> Iterator[None]:
    """Errors within the block are those of a file that does not fit its own configuration."""
    try:
        yield
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} does not fit its own configuration: {' '.join(str(error).split())}") from error


def load_checked(path: str | Path, names: Collection[str]) -> tuple[dict[str, Tensor], dict[str, Any], torch.dtype]:
    """Reads a model file whose tensors are those of its configuration: these, the configuration and the dtype of weights.

    Args:
        path: of the file.
        names: that the configuration may have.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, foreign, or does not fit its own configuration.
    """
    state, config = load(path)
    if "members" in config and "members" not in names:
        raise ValueError(f"{path} must hold a single model, got a mixture: Mixture.load reads it")
    if not set(config) <= set(names):
        raise ValueError(f"{path} was written by another version: unknown {sorted(set(config) - set(names))}")
    with fitting(path):
        return state, config, check_state(state, config)


def check_widths(hidden_features: Sequence[int]) -> tuple[int, ...]:
    """Returns the widths of hidden layers as a tuple.

    Raises:
        ValueError: they are no sequence of positive integers.
    """
    return whole_numbers("hidden_features", hidden_features, 1)


def check_state(state: Mapping[str, Tensor], config: dict[str, Any]) -> torch.dtype:
    """Makes sure that tensors are those of the model of a configuration, by arithmetic alone: no memory is asked for.

    Returns:
        the dtype of the weights.

    Raises:
        ValueError: a tensor is missing, surplus, or has another shape or dtype; the message names it.
    """
    for name in _FLAGS:
        if type(config.get(name, False)) is not bool:
            raise ValueError(f"{name} must be True or False, got {config[name]!r}")
    features = whole_number("features", config.get("features"), 1)
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if found.get("order") != (features,):
        raise ValueError(f"order must have shape ({features},), got {found.get('order', 'none')}")
    _check_parts(config.get("output"), features, _DEEPEST)
    expected = _shapes(config, features)
    for name in [*expected, *found]:
        if expected.get(name) != found.get(name):
            raise ValueError(f"{name} must have shape {expected.get(name, 'none')}, got {found.get(name, 'none')}")
    dtypes = {tensor.dtype for name, tensor in state.items() if not _is_structure(name)}
    for name, tensor in state.items():
        kinds = dtypes & _WEIGHTS if not _is_structure(name) else {torch.bool if name.endswith("mask") else torch.int64}
        if tensor.dtype not in kinds or (not _is_structure(name) and len(dtypes) > 1):
            shown = ", ".join(sorted(map(str, kinds))) or "one of float16, bfloat16, float32 and float64"
            raise ValueError(f"{name} must have dtype {shown}, got {tensor.dtype}")
    return dtypes.pop()


def _is_structure(name: str) -> bool:
    return name == "order" or name.endswith(".mask") or name.startswith("ensemble.")


def _check_parts(output: Any, count: int, depth: int) -> None:
    """Refuses a description of columns of different kinds that is longer than the columns.

    Raises:
        ValueError: see above.
    """
    if not isinstance(output, dict) or output.get("name") != "mixed" or not isinstance(output.get("parts"), list):
        return
    pairs = [part if isinstance(part, list) and len(part) == 2 else (part, 1) for part in output["parts"]]
    total = sum(whole_number("parts", number, 1) for _, number in pairs)
    if total != count or depth == 0:
        raise ValueError(
            f"parts must describe {count} variables, got {total}, at most {_DEEPEST} of them within others"
        )
    for part, number in pairs:
        _check_parts(part, number, depth - 1)


def _shapes(config: dict[str, Any], features: int) -> dict[str, tuple[int, ...]]:
    """The names and shapes of all tensors of a model."""
    flags = {name: bool(config.get(name, False)) for name in _FLAGS}
    conditionals = make_output(config.get("output", "bernoulli")).conditionals(features)
    widths = check_widths(config.get("hidden_features", ()))
    context, masks = (whole_number(name, config.get(name, least)) for name, least in _COUNTS)
    inputs, params = sum(each.units for each in conditionals), sum(each.num_params for each in conditionals)
    hidden = [width for index, width in enumerate(widths) for _ in range(2 if flags["residual"] and index else 1)]
    below = [inputs, *hidden]
    layers = {f"hidden.{number}": pair for number, pair in enumerate(zip(hidden, below, strict=False))}
    layers["parameters_layer"] = (params, below[-1])
    shapes: dict[str, tuple[int, ...]] = {"order": (features,)}
    shapes.update({f"{name}.bias": shape[:1] for name, shape in layers.items()})
    if flags["mask_conditioning"]:
        shapes.update({f"{name}.mask_weight": shape for name, shape in layers.items()})
    if flags["direct"] and hidden:
        layers["direct_layer"] = (params, inputs)
    shapes.update({f"{name}.weight": shape for name, shape in layers.items()})
    if masks == 1:
        shapes.update({f"{name}.mask": shape for name, shape in layers.items()})
    else:
        sets = widths[:1] if flags["residual"] else widths
        shapes["ensemble.orders"] = (max(masks, 1), features)
        shapes.update({f"ensemble.degrees_{number}": (max(masks, 1), width) for number, width in enumerate(sets)})
    if context and hidden:
        shapes["context_layer.weight"] = (hidden[0], context)
    if context and (flags["direct"] or not hidden):
        shapes["context_direct_layer.weight"] = (params, context)
    embedded = [each for each in conditionals if each.encoding == Encoding.EMBEDDING]
    if embedded:
        shapes["encoder.embedding"] = (sum(each.size for each in embedded), max(each.units for each in embedded))
    return shapes
