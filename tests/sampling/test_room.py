"""Draws that no memory holds are refused by a sentence with the numbers, before anything is allocated."""

import numpy as np
import pytest
import torch

from made_fast import MADE
from made_fast.sampling import room
from made_fast.tables import Schema, Table

WORDS = r"num_samples must fit into memory: 10,000,000,000,000 rows x 3 columns x {} bytes are {} bytes, of [\d,]+ of"


@pytest.mark.parametrize("masks", [1, 4])
@pytest.mark.parametrize(("dtype", "size"), [(None, 4), (torch.float64, 8)])
def test_the_message_has_the_numbers(masks: int, dtype: torch.dtype | None, size: int) -> None:
    model = MADE(3, (4,), num_masks=masks).eval()
    with pytest.raises(MemoryError, match=WORDS.format(size, f"{3 * size * 10**13:,}")):
        model.sample(10**13, seed=0, dtype=dtype)


def test_tables_too() -> None:
    schema = Schema.of({name: np.arange(40) % 7 for name in "abc"})
    table = Table(schema, MADE(3, (4,), output=schema.output(1, 0.1)).eval())
    with pytest.raises(MemoryError, match="10,000,000,000,000 rows x 3 columns x 4 bytes"):
        table.sample(10**13, seed=0)


def test_what_the_allocator_refuses_has_the_same_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_memory", lambda: None)
    with pytest.raises(
        MemoryError, match=r"1,000,000,000,000,000 rows x 3 columns x 4 bytes are 12,000,000,000,000,000 bytes; "
    ):
        room.empty_rows(10**15, 3, torch.float32, torch.device("cpu"))
