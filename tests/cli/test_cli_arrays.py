"""Arrays on the command line: every kind of file, every output, contexts, CSV of samples."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import call, one_line

from made_fast import MADE

TRAIN = ("--hidden", 8, "--epochs", 1, "--threads", 1)


@pytest.fixture(autouse=True)
def _threads_stay_as_they_are() -> Any:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def bits(rows: int = 100) -> np.ndarray:
    return np.random.default_rng(rows).integers(0, 2, (rows, 6), dtype=np.uint8)


@pytest.mark.parametrize("names", [("train", "valid", "test"), ("train_data", "valid_data", "test_data")])
def test_parts_of_a_npz_that_is_not_packed_are_those_of_a_packed_one(tmp_path: Path, capsys: Any, names: Any) -> None:
    parts = [bits(80), bits(20), bits(15)]
    np.savez(tmp_path / "plain.npz", **dict(zip(names, parts, strict=True)))
    packed = {name: np.packbits(part, axis=1) for name, part in zip(("train", "valid", "test"), parts, strict=True)}
    np.savez(tmp_path / "packed.npz", **packed, n_features=6)
    said = []
    for name in ("plain", "packed"):
        status, text, err = call(capsys, "train", tmp_path / f"{name}.npz", "--out", tmp_path / name, *TRAIN)
        assert (status, err) == (0, "")
        said.append(re.search(r"valid [\d.]+ nats\ntest NLL .*, 15 rows\)", text)[0])
        assert call(capsys, "evaluate", tmp_path / name, tmp_path / f"{name}.npz", "--split", "valid")[0] == 0
    assert said[0] == said[1]
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "packed").read_bytes()


def test_rows_without_parts_are_split_by_the_seed(tmp_path: Path, capsys: Any) -> None:
    np.save(tmp_path / "x.npy", bits())
    np.savetxt(tmp_path / "x.amat", bits(), fmt="%d")
    np.savez(tmp_path / "x.npz", samples=bits())
    models = []
    for name in ("x.npy", "x.amat", "x.npz"):
        out = tmp_path / f"{name}.safetensors"
        status, text, err = call(
            capsys, "train", tmp_path / name, "--out", out, *TRAIN, "--split", "0.5,0.2,0.3", "--seed", 3
        )
        assert status == 0, err
        assert (
            err
            == f"{tmp_path / name} comes in no parts: split by seed 3 into 50 to train and 20 to validate and 30 to test\n"
        )
        assert ", 30 rows)" in text and "x: 50 rows of 6 variables" in text
        models.append(out.read_bytes())
        assert "100 rows of x)" in call(capsys, "evaluate", out, tmp_path / name)[1]
    assert models[0] == models[1] == models[2]
    call(
        capsys, "train", tmp_path / "x.npy", "--out", tmp_path / "other", *TRAIN, "--split", "0.5,0.2,0.3", "--seed", 4
    )
    assert (tmp_path / "other").read_bytes() != models[0]


def test_parts_in_files_of_their_own(tmp_path: Path, capsys: Any) -> None:
    for name, rows in (("train", 40), ("valid", 12), ("test", 7)):
        np.savetxt(tmp_path / f"{name}.amat", bits(rows), fmt="%d")
    words = ("train", tmp_path / "train.amat", "--out", tmp_path / "m", *TRAIN, "--test", tmp_path / "test.amat")
    status, text, err = call(capsys, *words, "--valid", tmp_path / "valid.amat")
    assert (status, err) == (0, "") and "train: 40 rows" in text and ", 7 rows)" in text
    status, text, err = call(capsys, *words, "--overwrite")
    assert "split by seed 0 into 36 to train and 4 to validate" in err and ", 7 rows)" in text


OUTPUTS = [
    ("spin", 2.0 * bits() - 1, {}),
    ("categorical:4", bits() + 2 * bits(), {"sizes": 4}),
    ("normal", np.random.default_rng(0).normal(size=(100, 6)), {"floor": 1e-4}),
    ("mixture_of_normals:3,0.01", np.random.default_rng(0).normal(size=(100, 6)), {"components": 3, "floor": 0.01}),
    ("mixture_of_logistics:2,16", bits() * np.int16(9), {"components": 2, "levels": 16}),
]


@pytest.mark.parametrize(("output", "rows", "described"), OUTPUTS, ids=[each[0] for each in OUTPUTS])
def test_every_output_is_trained_evaluated_and_drawn(
    tmp_path: Path, capsys: Any, output: str, rows: Any, described: dict[str, Any]
) -> None:
    np.save(tmp_path / "x.npy", rows)
    out = tmp_path / "m.safetensors"
    status, _, err = call(capsys, "train", tmp_path / "x.npy", "--out", out, *TRAIN, "--output", output)
    assert status == 0, err
    model = MADE.load(out).eval()
    assert type(model.output).name == output.partition(":")[0] and described.items() <= model.output.arguments().items()
    nll = -model.log_prob(torch.from_numpy(rows).float()).mean().item()
    assert call(capsys, "evaluate", out, tmp_path / "x.npy")[1].startswith(f"NLL {nll:.3f} ±")
    expected = model.sample(9, seed=0).numpy()
    for words in (("--out", tmp_path / "s.csv"), ("--out", "-")):
        status, text, err = call(capsys, "sample", out, "-n", 9, *words)
        text = text if words[1] == "-" else (tmp_path / "s.csv").read_text()
        drawn = np.loadtxt(text.splitlines(), delimiter=",", dtype=np.float32)
        np.testing.assert_array_equal(drawn, expected)
        assert status == 0 and (err == "9 samples of 6 variables: -\n") == (words[1] == "-")


def test_contexts(tmp_path: Path, capsys: Any) -> None:
    torch.manual_seed(0)
    model, context = MADE(6, (8,), context_features=2), np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    out = tmp_path / "m.safetensors"
    model.save(out)
    np.save(tmp_path / "c.npy", context)
    np.save(tmp_path / "x.npy", bits(5))
    words = ("--context", tmp_path / "c.npy")
    assert call(capsys, "sample", out, "-n", 3, "--out", tmp_path / "s.npy", "--seed", 1, *words)[0] == 0
    expected = model.sample(3, torch.from_numpy(context), seed=1).reshape(15, 6).numpy()
    np.testing.assert_array_equal(np.load(tmp_path / "s.npy"), expected)
    nll = -model.log_prob(torch.from_numpy(bits(5)).float(), torch.from_numpy(context)).mean().item()
    assert call(capsys, "evaluate", out, tmp_path / "x.npy", *words)[1].startswith(f"NLL {nll:.3f} ±")
    np.save(tmp_path / "wide.npy", np.zeros((5, 3)))
    np.save(tmp_path / "few.npy", np.zeros((4, 2)))
    one_line(call(capsys, "sample", out, "--out", "-"), "--context must be given: the model has 2 context variables")
    one_line(
        call(capsys, "sample", out, "--out", "-", "--context", tmp_path / "wide.npy"), "must have 2 columns .* got 3"
    )
    one_line(
        call(capsys, "evaluate", out, tmp_path / "x.npy", "--context", tmp_path / "few.npy"), "a row for each of the 5"
    )


MISTAKES = [
    (
        ["train", "x.npy", "--out", "m", "--output", "weather"],
        "--output must be one of bernoulli, spin, .*got 'weather'",
    ),
    (["train", "x.npy", "--out", "m", "--output", "categorical"], "must have numbers that fit after a colon"),
    (["train", "x.npy", "--out", "m", "--output", "categorical:x"], "must have numbers that fit after a colon"),
    (["train", "x.npy", "--out", "m", "--output", "spin"], "x, train: x must be -1 or .?1 for output 'spin', got 0"),
    (["train", "real.npy", "--out", "m"], "real, train: x must be 0 or 1 .*binarize the data first"),
    (["train", "x.npy", "--out", "m", "--column", "a=real"], "--column must be left out for arrays"),
    (["train", "flat.npy", "--out", "m"], "flat.npy must be a matrix of numbers"),
    (["train", "text.npy", "--out", "m"], "text.npy must be a matrix of numbers"),
    (["train", "none.npy", "--out", "m"], "none.npy must be a matrix of numbers with a row at least"),
    (["train", "bad.npy", "--out", "m"], r"bad.npy cannot be read as .npy"),
    (["train", "bad.amat", "--out", "m"], r"bad.amat cannot be read as .amat"),
    (["train", "two.npz", "--out", "m"], "two.npz is no data set of made_fast: it lacks train, valid, test"),
    (["train", "widths.npz", "--out", "m"], "its parts must have as many columns as each other"),
    (["train", "few.npy", "--out", "m"], "split must leave each part a row, got"),
    (["train", "digits", "--out", "m", "--split", "0.5,0.3,0.2"], "--split must be left out: digits comes in parts"),
    (["train", "x.npy", "--out", "m", "--test", "real3.npy"], "must have as many columns as each other"),
    (["evaluate", "MODEL", "people.csv"], "is a model of arrays"),
    (["evaluate", "MODEL", "x.npy", "--split", "test"], "--split must be left out: x.npy does not come in parts"),
    (["evaluate", "MODEL", "x.npy", "--context", "x.npy"], "--context must be left out: the model has no context"),
    (["sample", "MODEL", "--out", "x.parquet"], "--out must end in .npy"),
    (["sample", "MODEL", "--out", "-", "--where", "x > 3"], "--where must be left out: .* is no table"),
    (["sample", "MODEL", "--out", "-", "--given", "x.csv"], "--given must be left out: .* is no table"),
    (["query", "MODEL", "x > 3"], "must hold a table to be asked by names of columns"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[" ".join(words)[:60] for words, _ in MISTAKES])
def test_mistakes_are_one_line_and_leave_nothing(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    MADE(6, (8,)).save("model.safetensors")
    arrays = {"x": bits(), "real": bits() * 0.5, "real3": np.zeros((9, 3)), "flat": np.zeros(3), "few": bits(4)}
    for name, array in {**arrays, "text": np.array([["a", "b"]]), "none": np.zeros((0, 4))}.items():
        np.save(f"{name}.npy", array)
    np.savez("two.npz", a=bits(), b=bits())
    np.savez("widths.npz", train=bits(), valid=bits(), test=bits()[:, :3])
    Path("bad.npy").write_bytes(b"hello, hello")
    Path("bad.amat").write_text("0 1 0\n0 1\n")
    before = sorted(path.name for path in tmp_path.iterdir())
    one_line(call(capsys, *["model.safetensors" if word == "MODEL" else word for word in words]), message)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
