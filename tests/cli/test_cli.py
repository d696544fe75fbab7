"""The command made-fast: what it prints, writes and refuses."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import call, one_line

from made_fast import MADE, __version__, backends, training
from made_fast.cli import commands, demo
from made_fast.cli import sample as cli_sample
from made_fast.testing import naive_sample

pytest.importorskip("sklearn")
image = pytest.importorskip("PIL.Image")

COMMANDS = ("demo", "train", "evaluate", "sample", "query", "doctor", "backends")


def start(*words: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "made_fast", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    # A background job ignores Ctrl-C, and its children inherit that; the command must be tested as in a foreground.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, **options)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _threads_stay_as_they_are():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    MADE(64, (24, 24), direct=True).save(path)
    return path


def write_data(path: Path, features: int = 12) -> Path:
    rows = np.random.default_rng(0).integers(0, 2, (50, features), dtype=np.uint8)
    packed = np.packbits(rows, axis=1)
    np.savez(path, train=packed, valid=packed[:20], test=packed[:10], n_features=features)
    return path


def test_fresh_process_prints_version_and_help():
    processes = [start("--version"), start("--help")]
    version, general = (process.communicate() for process in processes)
    assert version == (f"made-fast {__version__}\n", "")
    assert [process.returncode for process in processes] == [0, 0]
    assert all(command in general[0] for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_shows_an_example_that_parses(capsys, command):
    status, out, _ = call(capsys, command, "--help")
    examples = re.findall(r"^  made-fast (.+)$", out, re.MULTILINE)
    assert status == 0
    assert examples
    for example in examples:
        run = commands._parser().parse_args(shlex.split(example)).run
        assert run.__module__ == f"made_fast.cli.{command}"


def test_help_shows_the_defaults_that_say_something(capsys):
    _, out, _ = call(capsys, "train", "--help")
    flat = " ".join(out.split())
    assert "the training (default: 0)" in flat
    assert "--epochs EPOCHS stop after so many (default: 200; of tables 60)" in flat
    assert "None" not in out
    assert "False" not in out


def test_usage_errors_leave_with_2():
    process = start("sample", "m.safetensors")
    out, err = process.communicate()
    one_line((process.returncode, out, err), "required: --out", 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["train", "digits"], "required: --out"),
        (["train", "digits", "--out", "m", "--epochs", "0"], "--epochs: must be a whole number of 1 or more, got '0'"),
        (["train", "digits", "--out", "m", "--hidden", "8", "x"], "--hidden: must be a whole number"),
        (["train", "digits", "--out", "m", "--num-masks", "-1"], "--num-masks: must be a whole number of 0 or more"),
        (["train", "digits", "--out", "m", "--shuffle", "x"], "--shuffle: invalid choice: 'x'"),
        (["sample", "m", "--out", "x.npy", "-n", "-3"], "-n/--num-samples: must be a whole number of 0 or more"),
        (["evaluate", "m", "digits", "--split", "all"], "--split: invalid choice: 'all'"),
    ],
)
def test_usage_errors_are_one_line(capsys, words, message):
    one_line(call(capsys, *words), message, 2)


TRAIN = ("--hidden", "16", "--epochs", "3", "--threads", "1")


def test_train_writes_the_best_model_and_evaluate_agrees(tmp_path, capsys):
    out = tmp_path / "m.safetensors"
    status, text, _ = call(
        capsys, "train", "digits", "--out", out, *TRAIN, "--direct", "--order", "random", "--seed", 4
    )
    assert status == 0
    assert len(re.findall(r"^epoch +\d+  train +[\d.]+  valid +[\d.]+ nats", text, re.MULTILINE)) == 3
    test_figure = re.search(r"^test NLL ([\d.]+ ± [\d.]+) nats", text, re.MULTILINE)[1]
    assert [file.name for file in tmp_path.iterdir()] == ["m.safetensors"], "the checkpoint of a finished run is gone"
    model = MADE.load(out)
    assert model.direct
    assert model.hidden_features == (16,)
    assert not torch.equal(model.order, torch.arange(64))
    for split in ("test", "valid"):
        status, text, _ = call(capsys, "evaluate", out, "digits", "--split", split)
        assert status == 0
        assert text.startswith(f"{split} NLL ")
        assert (f"{split} NLL {test_figure} nats" in text) == (split == "test")


def test_an_ensemble_is_trained_evaluated_and_drawn(tmp_path, capsys):
    out, data = tmp_path / "m.safetensors", write_data(tmp_path / "rows.npz")
    words = ("--num-masks", 3, "--shuffle", "order", "--mask-conditioning", "--seed", 4)
    status, text, err = call(capsys, "train", data, "--out", out, *TRAIN, *words)
    assert status == 0, err
    model = MADE.load(out).eval()
    assert (model.num_masks, model.shuffle, model.mask_conditioning, model.seed) == (3, "order", True, 4)
    rows = torch.from_numpy(np.unpackbits(np.load(data)["test"], axis=1, count=12)).float()
    figure = f"test NLL {-model.log_prob(rows, masks=range(3)).mean().item():.3f} ± "
    assert figure in text
    assert figure in call(capsys, "evaluate", out, data)[1]
    rows = draw(capsys, out, tmp_path / "x.npy", "-n", 40, "--seed", 2, "--first-row", 7)
    np.testing.assert_array_equal(rows, naive_sample(model, 40, seed=2, first_row=7).numpy())
    assert call(capsys, "sample", out, "-n", 12, "--out", tmp_path / "x.png", "--image-shape", 3, 4)[0] == 0
    status, _, _ = call(capsys, "train", data, "--out", tmp_path / "free.safetensors", *TRAIN, "--num-masks", 0)
    assert status == 0
    assert MADE.load(tmp_path / "free.safetensors").num_masks == 0


def test_train_takes_a_npz_and_gives_the_same_model_again(tmp_path, capsys):
    data = write_data(tmp_path / "rows.npz")
    files = [tmp_path / name for name in ("a.safetensors", "b.safetensors", "c.safetensors")]
    for file, seed in zip(files, (1, 1, 2), strict=True):
        assert call(capsys, "train", data, "--out", file, *TRAIN, "--seed", seed)[0] == 0
    states = [MADE.load(file).state_dict() for file in files]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_training_resumes_to_the_numbers_of_an_uninterrupted_one(tmp_path, capsys, kill):
    words = ("train", "digits", *TRAIN[:2], "--epochs", "12", "--batch-size", "5", "--threads", "1", "--out")
    process = start(*words, str(tmp_path / "m.safetensors"))
    for line in process.stdout:
        if line.startswith("epoch   2"):
            process.send_signal(kill)
            break
    _, err = process.communicate()
    if kill == signal.SIGINT:
        assert process.returncode == 130
        assert "Traceback" not in err
        assert f"go on with: made-fast {' '.join(words)} {tmp_path / 'm.safetensors'} --resume" in err
    assert not (tmp_path / "m.safetensors").exists()
    again = call(capsys, *words, tmp_path / "m.safetensors")
    one_line(again, r"m\.safetensors\.ckpt is from an unfinished run: add --resume to go on", 1)
    resumed = call(capsys, *words, tmp_path / "m.safetensors", "--resume")
    whole = call(capsys, *words, tmp_path / "whole.safetensors")
    assert resumed[0] == whole[0] == 0
    assert not resumed[1].startswith(whole[1][:200])
    states = [MADE.load(tmp_path / name).state_dict() for name in ("m.safetensors", "whole.safetensors")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    figure = [re.search(r"best epoch.*\n.*test NLL.*", text)[0] for _, text, _ in (resumed, whole)]
    assert figure[0] == figure[1]


def test_out_of_time_keeps_the_checkpoint_and_says_how_to_go_on(tmp_path, capsys):
    out = tmp_path / "m.safetensors"
    status, text, _ = call(capsys, "train", "digits", "--out", out, *TRAIN, "--max-minutes", "1e-9")
    assert status == 0
    assert "time is up; best epoch 1 of 1" in text
    assert out.exists()
    assert call(capsys, "train", "digits", "--out", out, *TRAIN, "--resume")[0] == 0
    assert [file.name for file in tmp_path.iterdir()] == ["m.safetensors"]


def test_diverging_training_is_one_line(tmp_path, capsys):
    result = call(capsys, "train", "digits", "--out", tmp_path / "m.safetensors", *TRAIN, "--lr", "1e25")
    one_line(result, "loss is (nan|inf) in epoch 1: lower the learning rate", 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "gone.npz", "--out", "m"], r"no data at gone\.npz"),
        (["train", "bad.npz", "--out", "m"], r"bad\.npz cannot be read"),
        (["train", "digits", "--out", "gone/m"], r"cannot write gone/m: the folder gone does not exist"),
        (["train", "digits", "--out", "."], r"it is a folder"),
        (["train", "digits", "--out", "m", "--order", "zigzag"], "order must be"),
        (["train", "digits", "--out", "m", "--activation", "step"], "activation must be one of"),
        (["train", "digits", "--out", "m", "--lr", "-1"], "learning_rate must be a positive number"),
        (["train", "digits", "--out", "m", "--resume"], r"no checkpoint to resume from at m\.ckpt"),
        (["evaluate", "gone.safetensors", "digits"], r"no model file at gone\.safetensors"),
        (["evaluate", "bad.npz", "digits"], r"bad\.npz is truncated or no model file"),
        (["evaluate", "MODEL", "rows.npz"], "has 64 variables, but rows has 12"),
        (["sample", "gone.safetensors", "--out", "x.npy"], r"no model file at gone\.safetensors"),
        (["sample", "MODEL", "--out", "x.txt"], r"--out must end in .* or \.npz or \.png, got x\.txt"),
        (["sample", "MODEL", "--out", "gone/x.npy"], r"the folder gone does not exist"),
        (["sample", "MODEL", "--out", "x.npy", "--backend", "abacus"], "backend must be .*got 'abacus'"),
        (["sample", "MODEL", "--out", "x.png", "-n", "0"], r"a \.png holds 1 to 10,000 images, got -n 0"),
        (["sample", "MODEL", "--out", "x.png", "--image-shape", "3", "4"], "so that H x W is 64"),
        (["demo", "--out", "gone/x.png"], r"the folder gone does not exist"),
        (["demo", "--out", "x.jpg"], r"--out must end in \.png"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, capsys, monkeypatch, model_file, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.npz").write_bytes(b"hello, hello")
    write_data(tmp_path / "rows.npz")
    words = [model_file if word == "MODEL" else word for word in words]
    one_line(call(capsys, *words), message, 1)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bad.npz", "rows.npz"]


def test_bad_output_is_found_before_any_work(tmp_path, capsys, monkeypatch, model_file):
    def work(*_, **__):
        raise AssertionError("work began")

    monkeypatch.setattr(training, "fit", work)
    monkeypatch.setattr(MADE, "load", work)
    for words in (["train", "digits"], ["sample", model_file], ["demo"]):
        result = call(capsys, *words, "--out", tmp_path / "gone" / "x.png")
        one_line(result, "does not exist", 1)


def draw(capsys, model_file: Path, out: Path, *words: object) -> np.ndarray:
    status, text, err = call(capsys, "sample", model_file, "--out", out, *words)
    assert (status, str(out) in text) == (0, True), err
    loaded = np.load(out)
    if out.suffix == ".npy":
        return loaded
    return np.unpackbits(loaded["samples"], axis=1, count=int(loaded["n_features"]))


@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize("num_rows", [0, 1, 33])
def test_samples_are_the_models_whatever_the_chunk(tmp_path, capsys, monkeypatch, model_file, suffix, num_rows):
    model = MADE.load(model_file)
    expected = naive_sample(model, num_rows, seed=5, first_row=7).numpy()
    assert num_rows < 33 or 0 < expected.mean() < 1
    for chunk_values in (1, 64 * 10, cli_sample._CHUNK_VALUES):
        monkeypatch.setattr(cli_sample, "_CHUNK_VALUES", chunk_values)
        words = ("-n", num_rows, "--seed", 5, "--first-row", 7)
        rows = draw(capsys, model_file, tmp_path / f"{chunk_values}.{suffix}", *words)
        assert rows.dtype == np.uint8
        np.testing.assert_array_equal(rows, expected)


def test_samples_of_a_named_backend_and_with_a_bar(tmp_path, capsys, model_file):
    cpu = {"device": torch.device("cpu"), "dtype": torch.float32}
    names = [backend.name for backend in backends.BACKENDS if backends.why_not(backend, backends.Needs(**cpu)) is None]
    drawn = [draw(capsys, model_file, tmp_path / f"{name}.npy", "-n", 20, "--backend", name) for name in names]
    assert all(np.array_equal(rows, drawn[0]) for rows in drawn)
    status, _, err = call(capsys, "sample", model_file, "-n", 20, "--out", tmp_path / "x.npy", "--progress")
    assert status == 0
    assert "20/20" in err.replace("20.0", "20")


@pytest.mark.parametrize(("words", "cells"), [((), (10, 3)), (("--columns", 7), (7, 4)), (("--columns", 99), (25, 1))])
def test_png_is_a_grid_of_the_samples(tmp_path, capsys, model_file, words, cells):
    out = tmp_path / "x.png"
    assert call(capsys, "sample", model_file, "-n", 25, "--out", out, *words)[0] == 0
    with image.open(out) as picture:
        assert picture.format == "PNG"
        assert picture.size == (cells[0] * 63 + 7, cells[1] * 63 + 7)
        pixels = np.asarray(picture)
    first = pixels[10:63:7, 10:63:7]  # the middles of the pixels of the first image
    np.testing.assert_array_equal(first == 0, MADE.load(model_file).sample(1, seed=0).reshape(8, 8).numpy() == 1)


def test_png_of_images_that_are_not_square(tmp_path, capsys):
    MADE(6, (4,)).save(tmp_path / "m.safetensors")
    words = ("sample", tmp_path / "m.safetensors", "-n", 4, "--columns", 4, "--out", tmp_path / "x.png")
    one_line(call(capsys, *words), "--image-shape must be given so that H x W is 6", 1)
    assert call(capsys, *words, "--image-shape", 2, 3)[0] == 0
    with image.open(tmp_path / "x.png") as picture:
        scale = 56 // 3
        assert picture.size == (4 * 4 * scale + scale, 3 * scale + scale)


def test_backends_shows_every_row_and_the_build(capsys):
    status, text, _ = call(capsys, "backends")
    assert status == 0
    for row in backends.table():
        usable = "yes" if row.usable else "no"
        assert re.search(rf"^{row.name} +{usable} +{re.escape(row.reason or '-')}$", text, re.MULTILINE), text
    assert "compiled: " in text


@pytest.mark.slow
def test_demo_trains_compares_and_paints(tmp_path, capsys, monkeypatch):
    fit = training.fit
    monkeypatch.setattr(training, "fit", lambda *rows, **options: fit(*rows, **{**options, "epochs": 3}))
    status, text, _ = call(capsys, "demo", "--out", tmp_path / "x.png", "--threads", 1)
    assert status == 0
    assert re.search(r"^validation NLL \d+\.\d+ nats", text, re.MULTILINE)
    equal = int(re.search(r"^([\d,]+) of 1,000 rows are equal", text, re.MULTILINE)[1].replace(",", ""))
    assert equal > 990, "a uniform lies within 1e-5 of its threshold once in 1,600 draws of 64 at the most"
    assert re.search(r"^the cached sampler is \d+ times as fast", text, re.MULTILINE)
    assert str(tmp_path / "x.png") in text
    with image.open(tmp_path / "x.png") as picture:
        assert picture.size == (2 * 455 + 16, 455 + 28)


@pytest.mark.slow
def test_demo_trains_longer_on_a_busy_machine(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "_MINUTES", 1e-6)
    monkeypatch.setattr(demo, "_LEAST_EPOCHS", 3)
    status, text, _ = call(capsys, "demo", "--out", tmp_path / "x.png", "--threads", 1)
    assert status == 0
    assert re.search(r"^1 epochs in that time are too few.* for 2 more", text, re.MULTILINE)
    assert re.search(r"^3 epochs in \d+\.\d s", text, re.MULTILINE)


@pytest.mark.slow
def test_demo_counts_honestly(tmp_path, capsys, monkeypatch):
    fit = training.fit
    monkeypatch.setattr(training, "fit", lambda *rows, **options: fit(*rows, **{**options, "epochs": 1}))

    def wrong(model, num_samples, *, seed):
        rows = naive_sample(model, num_samples, seed=seed)
        rows[:3, 5] = 1 - rows[:3, 5]
        return rows

    monkeypatch.setattr("made_fast.testing.naive_sample", wrong)
    status, text, _ = call(capsys, "demo", "--out", tmp_path / "x.png", "--threads", 1)
    assert re.search(r"^99[0-7] of 1,000 rows are equal", text, re.MULTILINE)
    assert re.search(r"^3 rows contradict the model", text, re.MULTILINE)
    assert status == 1
