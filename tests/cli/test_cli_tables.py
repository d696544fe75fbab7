"""Tables on the command line: what train finds, and that evaluate, sample and query say what the table itself says."""

import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import call, one_line

from made_fast import cli
from made_fast.cli import tables as cli_tables
from made_fast.tables import Table

polars = pytest.importorskip("polars")
pytest.importorskip("narwhals")

TRAIN = ("--hidden", 8, "--components", 2, "--epochs", 1, "--threads", 1)


def people(rows: int = 600) -> Any:
    made = np.random.default_rng(0)
    age = made.integers(18, 90, rows)
    income = np.round(made.gamma(2.0, 900.0, rows), 2)
    frame = polars.DataFrame(
        {
            "city": made.choice(["Rome", "Oslo, N.", 'the "Hague"'], rows),
            "age": age,
            "income": income,
            "day": np.datetime64("2024-01-01") + made.integers(0, 90, rows),
            "member": made.random(rows) < 0.3,
        }
    )
    holes = polars.Series(made.random(rows) < 0.2)
    return frame.with_columns(polars.when(holes).then(None).otherwise(polars.col("income")).alias("income"))


@pytest.fixture(autouse=True)
def _threads_and_temporary_folders_stay_as_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any) -> Any:
    threads, folder = torch.get_num_threads(), tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    torch.set_num_threads(threads)
    assert os.listdir(folder) == []


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    people().write_csv(folder / "people.csv")
    people().write_parquet(folder / "people.parquet")
    assert (
        cli.main([str(word) for word in ("train", folder / "people.csv", "--out", folder / "m.safetensors", *TRAIN)])
        == 0
    )
    return folder


def test_train_says_what_it_found_and_both_kinds_of_files_give_the_same_table(
    tmp_path: Path, capsys: Any, files: Path
) -> None:
    out = tmp_path / "m.safetensors"
    status, text, err = call(capsys, "train", files / "people.parquet", "--out", out, *TRAIN)
    assert status == 0, err
    table = Table.load(out)
    assert err.startswith(f"{table.schema}\n")
    kinds = [(each.name, each.kind, each.missing) for each in table.schema.columns]
    assert kinds == [
        ("city", "category", False),
        ("age", "integer", False),
        ("income", "real", True),
        ("day", "datetime", False),
        ("member", "bit", False),
    ]
    assert "600 rows split by seed 0 into 480 to train and 60 to validate and 60 to test" in err
    assert text.startswith("people: 480 rows of 5 columns, 6 variables\nepoch   1 ")
    assert re.search(r"^test NLL [\d.]+ ± [\d.]+ nats \(95% interval, 60 rows\)$", text, re.MULTILINE)
    assert os.listdir(tmp_path) == ["m.safetensors"]
    known = Table.load(files / "m.safetensors")
    assert known.schema == table.schema
    states = [each.model.state_dict() for each in (known, table)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_columns_can_be_named_dropped_and_read_with_other_separators(tmp_path: Path, capsys: Any) -> None:
    people().write_csv(tmp_path / "p.csv", separator=";")
    people(70).write_csv(tmp_path / "v.csv", separator=";")
    out, words = tmp_path / "m.safetensors", ("--column", "age=real", "--drop", "city", "--drop", "member")
    more = ("--separator", ";", "--valid", tmp_path / "v.csv", "--test", tmp_path / "v.csv")
    status, text, err = call(capsys, "train", tmp_path / "p.csv", "--out", out, *TRAIN, *words, *more)
    assert status == 0, err
    assert [(each.name, each.kind) for each in Table.load(out).schema.columns][:2] == [
        ("age", "real"),
        ("income", "real"),
    ]
    assert "600 rows of 3 columns" in text and "interval, 70 rows" in text and "split" not in err
    status, text, err = call(capsys, "evaluate", out, tmp_path / "v.csv", "--separator", ";")
    assert status == 0 and "left out: city, member" in err


def test_evaluate_and_query_say_what_the_table_says(capsys: Any, files: Path) -> None:
    table = Table.load(files / "m.safetensors")
    nll = -table.log_prob(people()).mean().item()
    for name in ("people.csv", "people.parquet"):
        status, text, _ = call(capsys, "evaluate", files / "m.safetensors", files / name)
        assert (status, text.startswith(f"NLL {nll:.3f} ± ")) == (0, True), text
        assert text.endswith("nats (95% interval, 600 rows of people)\n")
    people().clear().write_csv(files / "none.csv")
    status, _, err = call(capsys, "evaluate", files / "m.safetensors", files / "none.csv")
    assert (status, "DATA must have at least one row" in err) == (1, True)
    queries = ["age between 30 and 40", "city = 'Rome' or income is null and day < '2024-02-01'"]
    status, text, err = call(capsys, "query", files / "m.safetensors", *queries, "-n", 500, "--seed", 3)
    assert (status, err) == (0, "")
    assert text == f"{table.probability(queries, 500, seed=3)}\n"
    status, text, _ = call(capsys, "query", files / "m.safetensors", queries[0], "-n", 500)
    assert re.fullmatch(r"0\.\d+ ± 0\.\d+\n", text)


def test_samples_have_the_names_and_types_whatever_the_chunk(
    tmp_path: Path, capsys: Any, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Table.load(files / "m.safetensors").sample(40, seed=2, first_row=5)
    words = ("sample", files / "m.safetensors", "-n", 40, "--seed", 2, "--first-row", 5)
    for rows in (7, 1 << 16):
        monkeypatch.setattr(cli_tables, "_ROWS", rows)
        status, text, err = call(capsys, *words, "--out", tmp_path / "x.parquet")
        assert (status, text, err) == (0, f"40 samples of 5 columns: {tmp_path / 'x.parquet'}\n", "")
        assert polars.read_parquet(tmp_path / "x.parquet").equals(expected)
        assert polars.read_parquet(tmp_path / "x.parquet").schema == people().schema
        assert call(capsys, *words, "--out", tmp_path / "x.csv")[0] == 0
        assert (tmp_path / "x.csv").read_text() == expected.write_csv()
        status, text, err = call(capsys, *words, "--out", "-")
        assert (status, text, err) == (0, expected.write_csv(), "40 samples of 5 columns: -\n")
    assert polars.read_csv(io.StringIO(text), try_parse_dates=True).schema == people().schema
    assert call(capsys, "sample", files / "m.safetensors", "-n", 0, "--out", "-")[1] == "city,age,income,day,member\n"
    assert sorted(os.listdir(tmp_path)) == ["x.csv", "x.parquet"]


def test_a_table_of_numbers_is_drawn_into_an_array_and_shards_join(tmp_path: Path, capsys: Any) -> None:
    data, out = people().select("age", "income", "member"), tmp_path / "m.safetensors"
    data.write_csv(tmp_path / "p.csv")
    assert call(capsys, "train", tmp_path / "p.csv", "--out", out, *TRAIN)[0] == 0
    table = Table.load(out)
    assert call(capsys, "sample", out, "-n", 50, "--out", tmp_path / "x.npy")[0] == 0
    expected = table.sample(50, seed=0)
    np.testing.assert_array_equal(
        np.load(tmp_path / "x.npy"), expected.cast(polars.Float64).fill_null(np.nan).to_numpy()
    )
    assert np.isnan(np.load(tmp_path / "x.npy")).any()
    for rank in range(2):
        words = ("--rank", rank, "--world-size", 2, "--out", tmp_path / "s.parquet", "--where", "age > 40")
        assert call(capsys, "sample", out, "-n", 31, *words)[0] == 0
    parts = polars.concat([polars.read_parquet(path) for path in sorted(tmp_path.glob("s-*.parquet"))])
    assert parts.equals(table.sample(31, seed=0, where="age > 40")) and parts["age"].min() > 40


def test_holes_are_filled_and_rows_hold_what_is_asked(
    tmp_path: Path, capsys: Any, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table.load(files / "m.safetensors")
    (tmp_path / "holes.csv").write_text('income,city,age\n,"Oslo, N.",30\n1200.5,,NA\n')
    words = ("sample", files / "m.safetensors", "--given", tmp_path / "holes.csv", "--candidates", 20)
    assert call(capsys, *words, "-n", 3, "--out", tmp_path / "x.csv")[0] == 0
    found = polars.read_csv(tmp_path / "x.csv", try_parse_dates=True)
    given = polars.DataFrame({"income": [None, 1200.5], "city": ["Oslo, N.", None], "age": [30, None]})
    assert found.equals(table.sample(3, given=given, seed=0, candidates=20))
    assert found["age"][:3].to_list() == [30] * 3 and found["income"][3:].to_list() == [1200.5] * 3
    assert found.null_count().sum_horizontal()[0] == 0
    monkeypatch.setattr(cli_tables, "_ROWS", 3)
    assert call(capsys, *words, "-n", 3, "--out", tmp_path / "y.csv")[0] == 0
    assert (tmp_path / "y.csv").read_bytes() == (tmp_path / "x.csv").read_bytes()
    status, text, _ = call(capsys, *words, "--where", "age between 20 and 35 and member = true", "--out", "-")
    assert status == 0
    drawn = polars.read_csv(io.StringIO(text))
    assert drawn["age"].is_between(20, 35).all() and drawn["member"].all() and len(drawn) == 2


def test_a_training_that_ran_out_of_time_goes_on(tmp_path: Path, capsys: Any, files: Path) -> None:
    words = ("train", files / "people.csv", *TRAIN, "--epochs", 2, "--out")
    assert "time is up" in call(capsys, *words, tmp_path / "a.safetensors", "--max-minutes", 1e-9)[1]
    status, text, err = call(capsys, *words, tmp_path / "a.safetensors", "--resume")
    assert status == 0 and "best epoch" in text, err
    assert call(capsys, *words, tmp_path / "b.safetensors")[0] == 0
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors", "b.safetensors"]


def test_a_column_that_looks_like_numbers_elsewhere_is_still_text(tmp_path: Path, capsys: Any) -> None:
    codes = [f"{number:03}" if number else "A" for number in range(4)] * 50
    out = tmp_path / "m.safetensors"
    polars.DataFrame({"code": codes, "x": np.arange(200.0) / 7}).write_csv(tmp_path / "p.csv")
    assert call(capsys, "train", tmp_path / "p.csv", "--out", out, *TRAIN)[0] == 0
    (tmp_path / "q.csv").write_text("code,x\n001,3.5\n002,4.5\n")
    assert call(capsys, "evaluate", out, tmp_path / "q.csv")[0] == 0
    words = ("--valid", tmp_path / "q.csv", "--test", tmp_path / "q.csv")
    assert call(capsys, "train", tmp_path / "p.csv", "--out", tmp_path / "n.safetensors", *TRAIN, *words)[0] == 0


MISTAKES = [
    (["train", "gone.csv", "--out", "m"], "no data at gone.csv"),
    (["train", "folder.csv", "--out", "m"], "no data at folder.csv: it is a folder"),
    (["train", "empty.csv", "--out", "m"], "empty.csv must have the names of its columns in the first line"),
    (["train", "header.csv", "--out", "m"], "header.csv must have at least one row"),
    (["train", "twice.csv", "--out", "m"], "twice.csv must have columns of different names, got 'a' more than once"),
    (
        ["train", "headless.csv", "--out", "m"],
        "headless.csv must have the names of its columns in the first line, got numbers",
    ),
    (["train", "ragged.csv", "--out", "m"], "ragged.csv cannot be read as csv: found more fields"),
    (["train", "bytes.csv", "--out", "m"], "bytes.csv cannot be read as csv"),
    (["train", "bytes.parquet", "--out", "m"], "bytes.parquet cannot be read as parquet"),
    (["train", "one.csv", "--out", "m"], "column 'b' must have at least two values, got 3 alone: leave it out"),
    (
        ["train", "missing.csv", "--out", "m"],
        "column 'b' must have cells that are not missing, got 4 missing: leave it out",
    ),
    (["train", "few.csv", "--out", "m"], "split must leave each part a row"),
    (["train", "people.csv", "--out", "m", "--column", "size=real"], "--column must name columns of .*; got 'size'"),
    (
        ["train", "people.csv", "--out", "m", "--column", "age=huge"],
        "--column must be NAME=KIND with a kind of category, ",
    ),
    (
        ["train", "people.csv", "--out", "m", "--column", "city=real"],
        "the kind of column 'city', which has texts, must be",
    ),
    (["train", "people.csv", "--out", "m", "--drop", "size"], "--drop must name columns of"),
    (["train", "people.csv", "--out", "m", "--direct"], "--direct must be left out for a table"),
    (["train", "people.csv", "--out", "m", "--output", "spin"], "--output must be left out for a table"),
    (["train", "people.csv", "--out", "m", "--valid", "twice.csv"], "twice.csv must have columns of different names"),
    (
        ["train", "people.csv", "--out", "m", "--valid", "one.csv"],
        "one.csv must have the columns of DATA, but lacks 'city'",
    ),
    (["train", "people.csv", "--out", "m", "--separator", ";;"], "separator must be one sign"),
    (["train", "people.csv", "--out", "old.safetensors"], "old.safetensors is there already: add --overwrite"),
    (["evaluate", "MODEL", "one.csv"], "one.csv must have the columns of the table, but lacks 'city'"),
    (["evaluate", "MODEL", "rows.npy"], "is a table: DATA must end in .csv or .parquet"),
    (
        ["evaluate", "MODEL", "strange.csv"],
        "column 'city' has a value that was not seen where it was fitted, 'Lima' in row 0",
    ),
    (["evaluate", "MODEL", "people.csv", "--split", "test"], "--split must be left out"),
    (["sample", "MODEL", "--out", "x.npy"], "--out must end in .csv or .parquet: column 'city' has text"),
    (["sample", "MODEL", "--out", "x.npz"], "x.npz must end in .csv or .parquet"),
    (["sample", "MODEL", "--out", "gone/x.csv"], "the folder gone does not exist"),
    (["sample", "MODEL", "--out", "x.csv", "--given", "gone.csv"], "no data at gone.csv"),
    (["sample", "MODEL", "--out", "x.csv", "--given", "one.csv"], "one.csv: column must be one of 'city', .*got 'a'"),
    (["sample", "MODEL", "--out", "x.csv", "--given", "header.csv"], "header.csv must have at least one row"),
    (["sample", "MODEL", "--out", "x.csv", "--where", "size > 3"], "column must be one of 'city', .*got 'size'"),
    (["sample", "MODEL", "--out", "x.csv", "--where", "age > 30 or age < 20"], "where must be a query without 'or'"),
    (["sample", "MODEL", "--out", "x.csv", "--where", "age > 300"], "got a query of probability 0"),
    (["sample", "MODEL", "--out", "x.csv", "--context", "rows.npy"], "--context must be left out"),
    (["sample", "MODEL", "--out", "x.csv", "-n", str(10**13), "--given", "holes.csv"], "memory"),
    (["query", "MODEL", "size > 3"], "column must be one of 'city', .*got 'size'"),
    (["query", "MODEL", "day = '2024-02-31'"], "query must compare column 'day' with dates or times, got '2024-02-31'"),
    (["query", "MODEL", "age >"], "query must have a value"),
    (["query", "gone.safetensors", "age > 3"], "no model file at gone.safetensors"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[" ".join(words)[:60] for words, _ in MISTAKES])
def test_mistakes_are_one_line_and_leave_nothing(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, files: Path, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = {
        **{"empty.csv": "", "header.csv": "city,age\n", "twice.csv": "a,b,a\n1,2,3\n", "headless.csv": "1,2.5\n3,4\n"},
        **{"ragged.csv": "a,b\n1,2\n3,4,5\n", "one.csv": "a,b\n1,3\n2,3\n1,3\n5,3\n", "holes.csv": "city,age\n,30\n"},
        **{"missing.csv": "a,b\n1,\n2,\n1,\n5,\n", "few.csv": "a,b\n1,2\n2,1\n", "old.safetensors": "old"},
        "strange.csv": "city,age,income,day,member\nLima,30,2.5,2024-01-03,true\n",
    }
    for name, text in texts.items():
        Path(name).write_text(text)
    Path("folder.csv").mkdir()
    for name in ("bytes.csv", "bytes.parquet"):
        Path(name).write_bytes(b"a,b\n1,\xff\xfe\xff\n" * 3)
    Path("people.csv").symlink_to(files / "people.csv")
    np.save("rows.npy", np.zeros((3, 5)))
    before = sorted(os.listdir())
    one_line(call(capsys, *[files / "m.safetensors" if word == "MODEL" else word for word in words]), message)
    assert sorted(os.listdir()) == before
    assert Path("old.safetensors").read_text() == "old"


@pytest.mark.skipif(sys.platform == "win32", reason="sets a POSIX limit")
@pytest.mark.parametrize("name", ["x.csv", "x.parquet", "m.safetensors"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, capsys: Any, files: Path, name: str) -> None:
    words: tuple[object, ...] = ("sample", files / "m.safetensors", "-n", 20_000, "--out", tmp_path / name)
    if name == "m.safetensors":
        words = ("train", files / "people.csv", "--out", tmp_path / name, *TRAIN)
    import resource  # of POSIX alone

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        status, _, err = call(capsys, *words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 1
    assert re.fullmatch(r"made-fast: error: .*File too large.*", err.splitlines()[-1]), err
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_leaves_no_rows_behind(tmp_path: Path, number: signal.Signals) -> None:
    people(60_000).write_csv(tmp_path / "p.csv")
    folder = tmp_path / "temporary"
    folder.mkdir()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    words = ("train", tmp_path / "p.csv", "--out", tmp_path / "m.safetensors", "--epochs", 100)
    command = [sys.executable, "-m", "made_fast", *map(str, words)]
    environment = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    try:
        process = subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=environment)
    finally:
        signal.signal(signal.SIGINT, before)
    for _ in range(1200):
        if list(folder.glob("made_fast-*/part2")):
            break
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and err.splitlines()[-1] == "made-fast: interrupted"
    assert os.listdir(folder) == [] and os.listdir(tmp_path) and not (tmp_path / "m.safetensors").exists()
