"""The campaigns at small sizes: they end, count what they should, and see what is wrong."""

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.campaigns import bits, cells, chi_square, damaged, edges, fuzz, isolated, sanitize, uniforms
from benchmarks.campaigns.judged import Judge, Tally
from benchmarks.campaigns.trials import SIZES, trial_of
from benchmarks.campaigns.ways import PATHS, Drawn, Way, all_ways
from made_fast import MADE, build_config

minutes = pytest.mark.skipif(
    os.environ.get("MADE_FAST_ALL_ROWS") != "1", reason="takes minutes: MADE_FAST_ALL_ROWS=1 runs it"
)
compiled = pytest.mark.skipif(not build_config()["compiled"], reason="the compiled module is not installed")


def _written(folder: Path, name: str) -> Any:
    assert (folder / f"{name}.md").read_text().startswith("# ")
    return json.loads((folder / f"{name}.json").read_text())


@compiled
@pytest.mark.slow
def test_fuzz(tmp_path: Path) -> None:
    assert main(["fuzz", "--quick", "--out", str(tmp_path)]) == 0
    found = _written(tmp_path, "fuzz")
    assert set(found["draws"]) == {way.name for way in all_ways(fuzz.QUICK["only"])}
    assert all(tally["draws"] > 1000 for tally in found["draws"].values())
    assert sum(row["attempts"] for row in found["edges"]) == fuzz.QUICK["edges"]
    assert sum(row["attempts"] for row in found["damaged"]) == fuzz.QUICK["damaged"] * len(damaged.FILES)


@compiled
def test_bits(tmp_path: Path) -> None:
    file = tmp_path / "bits.json"
    assert main(["bits", "--quick", "--write", str(file)]) == 0
    assert main(["bits", "--quick", "--against", str(file)]) == 0
    digests = json.loads(file.read_text())
    assert len(digests) >= len(bits.QUICK["rows"]) * bits.QUICK["trials"] * len(PATHS)
    file.write_text(json.dumps({**digests, next(iter(digests)): "another"}))
    assert main(["bits", "--quick", "--against", str(file)]) == 1


@compiled
@pytest.mark.slow
@minutes
def test_faults(tmp_path: Path) -> None:
    assert main(["faults", "--quick", "--out", str(tmp_path)]) == 0
    rows = _written(tmp_path, "faults")["rows"]
    assert {"taskset -c 0", "SIGINT while training", "kill -9 of sampling, then again"} <= {
        row["fault"] for row in rows
    }
    assert all(row["trials"] for row in rows)


@compiled
def test_chi_square(tmp_path: Path) -> None:
    assert main(["chi_square", "--quick", "--only", "cpp", "--out", str(tmp_path)]) == 0
    rows = _written(tmp_path, "chi_square")["rows"]
    assert len(rows) > len(chi_square.OUTPUTS)
    assert rows[-1]["numbers"] >= f"{chi_square.QUICK['uniforms']:,}"


@compiled
@pytest.mark.slow
@minutes
def test_sanitize(tmp_path: Path) -> None:
    try:
        assert main(["sanitize", "--quick", "--out", str(tmp_path)]) == 0
    except SystemExit as error:
        pytest.skip(str(error))
    assert sum(row["attempts"] for row in _written(tmp_path, "sanitize")["rows"]) == sanitize.QUICK["attempts"]


def test_trials_are_functions_of_their_number() -> None:
    for number in range(20):
        one, other = trial_of(0, number), trial_of(0, number)
        assert one.text == other.text and one.count in SIZES
        for name, tensor in one.model.state_dict().items():
            assert torch.equal(tensor, other.model.state_dict()[name]), name
    assert len({trial_of(0, number).text for number in range(20)}) == 20


WRONG = {
    "unexplained": lambda drawn: Drawn(drawn.x.flip(0), drawn.log_prob, drawn.log_weight),
    "log_probs": lambda drawn: Drawn(drawn.x, drawn.log_prob + 0.01, drawn.log_weight),
    "log_weights": lambda drawn: Drawn(drawn.x, drawn.log_prob, drawn.log_weight - 0.1),
    "pieces": lambda drawn: Drawn(drawn.x, drawn.log_prob, drawn.log_weight, same_in_pieces=False),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_draw_is_counted(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.campaigns import judged

    numbers = (n for n in range(500) if len(_weights_of(n)) and trial_of(0, n).count > 30)
    trial, way = trial_of(0, next(numbers)), Way("reference")
    for change, least in ((lambda drawn: drawn, 0), (WRONG[what], 1)):
        draw = judged.draw.__wrapped__ if hasattr(judged.draw, "__wrapped__") else judged.draw
        tally = Tally()
        with monkeypatch.context() as patch:
            patch.setattr(judged, "draw", lambda *of, draw=draw, change=change: change(draw(*of)))
            Judge(trial).judge(way, tally)
        assert (getattr(tally, what) > 0) == bool(least) and tally.raised == 0
        assert tally.wrong == getattr(tally, what) or what != "pieces"


def _weights_of(number: int) -> dict[str, Any]:
    options = trial_of(0, number).options
    return {name: options[name] for name in ("given", "allowed") if name in options}


def test_draws_of_another_model_fail_the_chi_square() -> None:
    model = chi_square.model_of("bernoulli")
    x = model.sample(4000, seed=0)
    other = chi_square.model_of("bernoulli")
    with torch.no_grad():
        other.parameters_layer.bias.add_(0.5)
    right, wrong = (cells.worst(chi_square.tests_of(chi_square.places(each, x, 0))) for each in (model, other))
    assert right.p_value > 1e-4
    assert wrong.p_value < 1e-9


def test_uniforms_that_are_not_are_found() -> None:
    rng = np.random.default_rng(0)
    for spoil in (None, "bit", "pair"):
        collected = uniforms.Collected()
        for _ in range(2):
            words = rng.integers(0, 2**24, (400, 400))
            if spoil == "bit":
                words |= np.where(rng.random(words.shape) < 0.01, 1 << 7, 0)
            if spoil == "pair":
                words[:, 1::2] = np.where(rng.random((400, 200)) < 0.05, words[:, ::2], words[:, 1::2])
            collected.add((words * 2.0**-24).astype(np.float32))
        assert (cells.worst(collected.tests()).p_value < 1e-6) == (spoil is not None), spoil


def test_what_crashes_or_hangs_is_counted_and_gone_on_from() -> None:
    rows = isolated.run("crashing", 0, 8, patience=5.0)
    (row,) = rows
    expected = {"attempts": 8, "refused": 1, "worked": 4, "other exceptions": 1, "crashed": 1, "hung": 1, "wrong": 3}
    assert {name: row[name] for name in expected} == expected
    assert len(row["notes"]) == 3


def test_changes_at_the_edges_are_changes() -> None:
    rng, arguments = random.Random(0), {"a": 3, "b": [np.arange(6).reshape(2, 3), 0.5], "c": {"d": True}}
    assert edges.leaves(arguments) == [("a",), ("b", 0), ("b", 1), ("c", "d")]
    found = [repr(edges.with_change(arguments, rng)) for _ in range(50)]
    assert len(set(found)) > 25
    assert repr(arguments) == repr({"a": 3, "b": [np.arange(6).reshape(2, 3), 0.5], "c": {"d": True}})


def test_damage_changes_a_file(tmp_path: Path) -> None:
    MADE(9, (8,)).save(tmp_path / "m.safetensors")
    whole = (tmp_path / "m.safetensors").read_bytes()
    damages = [damaged.damage(whole, random.Random(number)) for number in range(50)]
    assert sum(each != whole for each in damages) > 45
