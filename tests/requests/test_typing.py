"""The options of a draw are written out: an editor shows them, and mypy finds a wrong one."""

import inspect
from pathlib import Path

import pytest

from made_fast import MADE, Sampler
from made_fast.acceleration import AcceleratedSampler
from made_fast.compat import nflows, pytorch_made
from made_fast.flows.maf import MaskedAutoregressiveFlow
from made_fast.sampling.draws import Draws
from made_fast.sampling.ensemble_sampler import EnsembleSampler

ROOT = Path(__file__).parents[2]
DRAWS = ("sample", "sample_and_log_prob")
OPTIONS = ("seed", "generator", "given", "observed", "allowed", "temperature", "greedy", "top_k", "top_p", "backend")
KINDS = (MADE, Sampler, EnsembleSampler, AcceleratedSampler, nflows.MADE, pytorch_made.MADE)
CALLS = """
from made_fast import MADE

model = MADE(5, (4,))
model.sample(10, seed=3, temperature=0.5, allowed={0: {1}})
model.sample(10, sed=3)
model.sample_and_log_prob(10, temprature=2.0)
model.sampler().sample(10, top=3)
"""


@pytest.mark.parametrize("name", DRAWS)
def test_help_shows_the_options(name: str) -> None:
    for kind in KINDS:
        parameters = inspect.signature(getattr(kind, name)).parameters
        assert {*OPTIONS} <= {*parameters}, kind
        assert all(each.kind is not inspect.Parameter.VAR_KEYWORD for each in parameters.values()), kind
    documented = inspect.getdoc(MADE.sample) or ""
    assert all(f"{option}:" in documented for option in OPTIONS)


@pytest.mark.parametrize("name", DRAWS)
def test_all_that_draw_take_the_same(name: str) -> None:
    """What models, ensembles and captured modules take is written once."""
    expected = inspect.signature(getattr(Draws, name))
    for kind in KINDS:
        assert inspect.signature(getattr(kind, name)) == expected, kind


def test_flows_refuse_what_they_do_not_know() -> None:
    with pytest.raises((TypeError, ValueError), match="sed"):
        MaskedAutoregressiveFlow(3, 1, (4,)).sample(2, sed=3)


@pytest.mark.slow
def test_a_misspelt_option_does_not_type_check(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    path = tmp_path / "calls.py"
    path.write_text(CALLS)
    found, errors, _ = api.run([str(path), "--cache-dir", str(ROOT / ".mypy_cache"), "--follow-imports=silent"])
    wrong = sorted({int(line.split(":")[1]) for line in found.splitlines() if ": error:" in line})
    lines = CALLS.splitlines()
    assert [lines[number - 1] for number in wrong] == lines[-3:], found + errors
    assert all(word in found for word in ("sed", "temprature", "top"))
