"""How tests call a backend: every field of a ``Piece`` as an argument, all else for that backend alone."""

from types import ModuleType
from typing import Any

from torch import Tensor

from made_fast.requests.piece import Piece


def draw_piece(
    backend: ModuleType | Any, packed: Any, out: Tensor, log_prob: Tensor | None = None, **arguments: Any
) -> None:
    """``backend.draw``: the arguments of ``Piece`` by their names, the rest for that backend alone."""
    fields = {name: arguments.pop(name) for name in Piece._fields if arguments.get(name) is not None}
    arguments = {name: value for name, value in arguments.items() if name not in Piece._fields}
    backend.draw(packed, out, Piece(**{"seed": 0, "log_prob": log_prob, **fields}), **arguments)
