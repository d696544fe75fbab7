"""The commands of the page about the command line."""

import datetime
import re
import shlex
from pathlib import Path

from made_fast import cli

PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"


def check_command_line(_: object) -> None:
    """Runs all that stand in blocks without a language, where the page's blocks of Python have run; looks at their files."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    for line in "".join(block for kind, block in blocks if not kind).splitlines():
        words = shlex.split(line)
        assert cli.main([*words[1:], *(["--threads", "1"] if words[1] != "doctor" else [])]) == 0, line
    import polars

    drawn, twenty = polars.read_parquet("drawn.parquet"), polars.read_parquet("twenty.parquet")
    assert drawn.schema == polars.read_csv("drawn.csv", try_parse_dates=True).schema
    assert drawn.columns == ["city", "age", "joined", "income"] and len(drawn) == 1000
    assert set(twenty["city"][:20]) == {"Oslo"} and set(twenty["age"][20:]) == {71} and len(twenty) == 40
    assert twenty["joined"].min() >= datetime.date(2024, 7, 1)
