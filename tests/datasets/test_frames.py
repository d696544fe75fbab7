"""Files of tables in chunks: types of whole files, what is refused, what is written."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from made_fast.datasets import FrameFile, frames, split_rows, write_frames

LIBRARIES = [name for name in ("polars", "pyarrow") if importlib.util.find_spec(name)]
pytestmark = pytest.mark.skipif(not LIBRARIES, reason="needs polars or pyarrow")


@pytest.fixture(params=LIBRARIES)
def _library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip("narwhals")
    monkeypatch.setattr(frames, "library", lambda: request.param)
    return str(request.param)


def read(path: Path, **options: Any) -> dict[str, list[Any]]:
    import narwhals

    chunks = [narwhals.from_native(each, eager_only=True) for each in FrameFile(path, **options).chunks()]
    assert len({tuple(map(str, each.schema.values())) for each in chunks}) <= 1
    return {name: [cell for each in chunks for cell in each[name].to_list()] for name in FrameFile(path).names}


@pytest.mark.usefixtures("_library")
def test_cells_as_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(
        '\ufeffname,"a ""b""",n,day,flag\n"Ann, B.",x,1,2024-02-29,true\n"line\nbreak",,NA,n/a,\n"",nan,3,2024-03-01,false\n'
    )
    assert read(path)["name"] == ["Ann, B.", "line\nbreak", ""]
    found = read(path)
    assert found['a "b"'] == ["x", None, None] and found["n"] == [1, None, 3] and found["flag"] == [True, None, False]
    assert [day and day.isoformat()[:10] for day in found["day"]] == ["2024-02-29", None, "2024-03-01"]
    assert read(path, text={"n"})["n"] == ["1", None, "3"]


@pytest.mark.parametrize(
    ("first", "last", "cells"),
    [
        ("1", "2.5", (1.0, 2.5)),
        ("1", "x", ("1", "x")),
        ("", "7", (None, 7)),
        ("2024-01-01", "soon", ("2024-01-01", "soon")),
        ("true", "2", ("true", "2")),
    ],
)
def test_a_column_has_the_type_of_all_its_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, last: str, cells: Any
) -> None:
    """polars alone looks at the whole file."""
    pytest.importorskip("polars")
    monkeypatch.setattr(frames, "_FIRST", 40)
    path = tmp_path / "x.csv"
    path.write_text("a,b\n" + f"{first},1\n" * 100 + f"{last},1\n")
    found = read(path)["a"]
    assert (found[0], found[-1]) == cells and len(found) == 101


def test_pyarrow_refuses_cells_that_come_late_and_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(frames, "library", lambda: "pyarrow")
    path = tmp_path / "x.csv"
    path.write_text("a,b\n" + "1,1\n" * 600_000 + "x,1\n")
    with pytest.raises(ValueError, match=r"cannot be read as csv: .*invalid value 'x'"):
        list(FrameFile(path).chunks())


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_what_is_written_in_chunks_comes_back(tmp_path: Path, _library: str, suffix: str) -> None:  # noqa: PT019
    import narwhals

    columns = {"t": ["a,b", 'q"', None, ""], "x": [0.1, None, 1e300, -2.0], "n": [1, 2, None, 4]}
    native = narwhals.from_dict(columns, backend=_library).to_native()
    path = tmp_path / f"x.{suffix}"
    assert write_frames(path, [native, native, native]) == 12
    assert read(path) == {name: values * 3 for name, values in columns.items()}
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    text = io.StringIO()
    assert write_frames(text, [native]) == 4 and text.getvalue().count("\n") == 5


def test_pandas_frames_are_written_too(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"t": ["a", None], "x": [1.5, 2.0]}, index=[7, 8])
    write_frames(tmp_path / "x.csv", [frame, frame])
    assert (tmp_path / "x.csv").read_text() == "t,x\na,1.5\n,2.0\na,1.5\n,2.0\n"


def test_without_a_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.csv").write_text("a\n1\n")
    monkeypatch.setattr(frames, "_has", lambda _: False)
    with pytest.raises(ModuleNotFoundError, match=r"need polars or pyarrow: pip install 'made_fast\[tables\]'"):
        FrameFile(tmp_path / "x.csv")
    with pytest.raises(ValueError, match=r"must end in \.csv or \.parquet"):
        FrameFile(tmp_path / "x.xlsx")
    with pytest.raises(ValueError, match=r"must end in \.csv or \.parquet"):
        write_frames(tmp_path / "x.xlsx", [])


def test_parts_have_their_shares_and_depend_on_the_seed() -> None:
    parts = split_rows(1003, (0.5, 0.3, 0.2), 1)
    assert np.bincount(parts).tolist() == [502, 300, 201]
    assert np.array_equal(parts, split_rows(1003, (0.5, 0.3, 0.2), 1))
    assert not np.array_equal(parts, split_rows(1003, (0.5, 0.3, 0.2), 2))
    assert np.abs(np.corrcoef(parts, np.arange(1003))[0, 1]) < 0.2
