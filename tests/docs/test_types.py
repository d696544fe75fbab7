"""The table of types in docs/distributed.md."""

import re
from pathlib import Path

import torch

from made_fast import MADE, outputs
from made_fast.outputs.dtypes import smallest_dtype

PAGE = Path(__file__).parents[2] / "docs" / "distributed.md"


def test_files_have_the_types_that_the_page_says() -> None:
    rows = re.findall(r"^\| `(\w+\(.*\))` \| `(\w+)`", PAGE.read_text(), re.MULTILINE)
    assert len(rows) == 10
    for output, name in rows:
        model = MADE(2, (4,), output=eval(output, vars(outputs).copy()))
        assert smallest_dtype(model.conditionals) == getattr(torch, name), output
