"""The table of ``made-fast demo --table`` as rows of numbers: columns of several kinds beside the paper's bits."""

from __future__ import annotations

import torch

from made_fast.datasets import Dataset
from made_fast.datasets.patients import load_patients
from made_fast.outputs.output import Output
from made_fast.tables import Schema

__all__ = ["patients"]

COMPONENTS, FLOOR = 2, 0.1  # those of the demo
VALID = 88  # of 442 rows


def patients() -> tuple[Dataset, Output]:
    """Rows to learn from and to validate by, in the order of the file, none to test; and what the columns are.

    Figures are nats a row of standardised columns.
    """
    frame = load_patients()
    schema = Schema.of(frame, None)
    rows = schema.encode(frame)[:, : schema.starts[-1]].to(torch.float32)
    return Dataset("patients", rows[VALID:], rows[:VALID], rows[:0], None), schema.output(COMPONENTS, FLOOR)
