"""The suite ``ising`` on small lattices: exact figures, and tables that are complete."""

import itertools
import json
import math
import re
import shlex
from pathlib import Path

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.suites import ising


def energy_by_hand(spins: tuple[int, ...], size: int) -> int:
    """Site by site, every bond to the right and downwards."""
    total = 0
    for row, column in itertools.product(range(size), repeat=2):
        here = spins[row * size + column]
        total -= here * spins[row * size + (column + 1) % size]
        total -= here * spins[(row + 1) % size * size + column]
    return total


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("beta", [0.0, 0.3, 0.6])
def test_both_exact_methods_agree_with_a_sum_by_hand(size: int, beta: float) -> None:
    states = itertools.product((-1, 1), repeat=size**2)
    expected = -math.log(math.fsum(math.exp(-beta * energy_by_hand(state, size)) for state in states))
    assert ising.enumerated_free_energy(size, beta) == pytest.approx(expected, rel=1e-12)
    assert ising.transfer_matrix_free_energy(size, beta) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("beta", [*ising.BETAS, 2.0])
def test_exact_methods_agree_on_4_by_4(beta: float) -> None:
    expected = ising.enumerated_free_energy(4, beta)
    assert ising.transfer_matrix_free_energy(4, beta) == pytest.approx(expected, rel=1e-12)


def test_large_lattices_approach_onsager() -> None:
    """Free energy per site of the infinite lattice at the critical point: -(log 2) / 2 - 2 G / pi, G Catalan's constant."""
    critical = math.log(1 + 2**0.5) / 2
    onsager = -math.log(2) / 2 - 2 * 0.915965594177219 / math.pi
    errors = [abs(ising.exact_free_energy(size, critical) / size**2 - onsager) for size in (4, 8)]
    assert errors[1] < 0.011 and errors[0] / errors[1] == pytest.approx(
        4, rel=0.03
    )  # the correction is of order 1 / L**2


def test_energy_of_samples() -> None:
    x = ising.make_model(3).sample(20, seed=0)
    spins = (2 * x - 1).int().tolist()
    assert ising.energy(x, 3).tolist() == [energy_by_hand(tuple(row), 3) for row in spins]
    assert ising.energy(x.reshape(4, 5, 9), 3).shape == (4, 5)


def test_both_samplers_take_the_same_step() -> None:
    found = []
    for kind in (ising.MADE, ising.NaiveMADE):
        model = ising.make_model(3, kind)
        free_energy = ising.train_step(model, ising.make_optimizer(model), beta=0.4, batch=50, seed=5)
        found.append((free_energy.value, *model.parameters()))
    for cached, naive in zip(*found, strict=True):
        torch.testing.assert_close(cached, naive)


@pytest.mark.slow
def test_a_small_run_prints_and_writes_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = shlex.split("--size 3 --steps 60 --batch 100 --samples 2000 --timed 2 3 --seconds 0.01 --seed 1")
    main(["ising", *options, "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    for name in ("exact", "variational", "corrected", "variational gap", "cached, ms", "naive, ms", "naive / cached"):
        assert name in printed
    for beta in ising.BETAS:
        exact = ising.enumerated_free_energy(3, beta) / 9
        assert re.search(rf"^\| {beta:g} \| {exact:.6f} \| -\d\.\d{{6}} ± \d\.\d{{6}} \|", printed, re.MULTILINE)
    assert "| 2 x 2 | [64, 64] | 100 |" in printed and "| 3 x 3 |" in printed
    written = json.loads((tmp_path / "ising.json").read_text())
    assert [row["beta"] for row in written["free energies"]] == list(ising.BETAS)
    assert set(written["steps timed"][0]["naive / cached"]) == {"median", "low", "high"}
    for row in written["free energies"]:
        assert abs(row["corrected - exact, in standard errors"]) < 3
        assert row["variational gap"] > -3 * row["variational, standard error"]


def test_a_wrong_free_energy_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ising, "exact_free_energy", lambda size, beta: 0.0)
    with pytest.raises(SystemExit, match=r"standard errors off"):
        main(shlex.split(f"ising --size 2 --steps 2 --batch 10 --samples 100 --out {tmp_path} --timed"))
    assert "| 0.3 | 0.000000 |" in capsys.readouterr().out


@pytest.mark.parametrize("size", ["1", "9"])
def test_a_lattice_without_an_exact_figure_is_refused(size: str) -> None:
    with pytest.raises(SystemExit, match="--size must be 2 to 8"):
        main(["ising", "--size", size])
