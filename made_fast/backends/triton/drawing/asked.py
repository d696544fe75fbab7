"""What a launch is told of a piece: the words of its request, and what is asked for besides plain samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from made_fast.backends.triton.codes import ALLOWED, DECODED, GIVEN
from made_fast.backends.triton.columns import RequestWord, Setting, row_of
from made_fast.outputs.decoding import Decoding
from made_fast.outputs.rules import bounded
from made_fast.requests.conditions import Conditions
from made_fast.requests.piece import Piece

__all__ = ["Asked", "request_of"]


def request_of(piece: Piece, out: Tensor) -> Tensor:
    """The words of ``RequestWord``, int64 on the device of ``out``."""
    words = {
        RequestWord.SEED: _signed(piece.seed),
        RequestWord.NOISE_ROW: piece.first_row + piece.row_offset,
        RequestWord.ROW_OFFSET: piece.row_offset,
        RequestWord.ROWS_PER_CONDITION: piece.rows_per_condition,
        RequestWord.NUM_ROWS: len(out),
    }
    return torch.tensor(row_of(RequestWord, words), dtype=torch.int64, device=out.device)


def _signed(seed: int) -> int:
    """The lowest 64 bits of a seed as a signed number."""
    low = seed & 0xFFFFFFFFFFFFFFFF
    return low - (1 << 64) if low >= 1 << 63 else low


@dataclass(frozen=True)
class Asked:
    """What a draw is asked for besides plain samples."""

    conditions: Conditions | None
    decoding: Decoding
    log_weight: Tensor | None
    features: int  # bits of codes.py
    settings: Tensor | None  # fp32 (3,) by ``Setting``

    @classmethod
    def of(cls, piece: Piece, out: Tensor) -> Asked:
        """From a piece, for what is drawn into ``out``."""
        conditions, decoding, log_weight = piece.conditions, piece.decoding, piece.log_weight
        given = conditions is not None and conditions.given is not None
        allowed = conditions is not None and conditions.support is not None
        settings = None
        if decoding.features:
            temperature = decoding.temperature
            row = {
                Setting.SHARPNESS: 1 / bounded(temperature),
                Setting.STRETCH: temperature**0.5,
                Setting.SPREAD: temperature,
            }
            settings = torch.tensor([row[column] for column in Setting], device=out.device)
        if (given or allowed) and log_weight is None:
            log_weight = out.new_empty(len(out))
        features = given * GIVEN.value | allowed * ALLOWED.value | bool(decoding.features) * DECODED.value
        return cls(conditions, decoding, log_weight, features, settings)

    def arguments(self, unused: Tensor, weights: Tensor) -> dict[str, Any]:
        """Arguments of ``draw_kernel``; ``unused`` stands in for what is not read, ``weights`` keep log-weights."""
        tensors = dict.fromkeys(("given", "observed", "support", "bounds", "constrained", "decoding"), unused)
        support_width = 0
        if self.conditions is not None:
            named = {name: getattr(self.conditions, name) for name in tensors if name != "decoding"}
            tensors |= {name: value for name, value in named.items() if value is not None}
            support_width = 0 if self.conditions.support is None else self.conditions.support.shape[1]
        if self.settings is not None:
            tensors["decoding"] = self.settings
        return {
            **tensors,
            "support_width": support_width,
            "greedy": int(self.decoding.greedy),
            "all_weights": weights,
            "log_weight": unused if self.log_weight is None else self.log_weight,
            "FEATURES": self.features,
        }
