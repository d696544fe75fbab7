"""Imports that earlier versions documented go on working."""

import importlib
import pickle

import pytest

from made_fast.former import FORMER

DOCUMENTED = [
    "acceleration.AcceleratedSampler",
    "adapters.accelerate_flow",
    "adapters.inverters",
    "adapters.is_flow",
    "backends.reference.draw",
    "backends.table",
    "backends.triton.conditionals.tail",
    "backends.triton.conditionals.uniform",
    "compat.nflows.MADE",
    "compat.pytorch_made.MADE",
    "conditionals.Conditional",
    "conditionals.PLAIN",
    "conditioning.Between",
    "datasets.image_grid",
    "datasets.load",
    "datasets.write_png",
    "drawing.Draws",
    "drawing.ScoredSamples",
    "drawing.WeightedSamples",
    "ensemble.EVALUATION_MASKS",
    "ensemble_sampler.EnsembleSampler",
    "estimates.Estimate",
    "estimation.free_energy",
    "flows.MaskedAutoregressiveFlow",
    "functional.masked_linear",
    "inspection.Report",
    "layers.MaskedLinear",
    "masks.make_order",
    "nn.MADE",
    "noise.uniform",
    "outputs.Own",
    "point.PointConditional",
    "program.ACTIVATIONS",
    "program.Program",
    "sampler.Sampler",
    "schedule.Kind",
    "schedule.build_schedule",
    "sharding.sample_rows",
    "testing.naive_sample",
    "testing.unexplained_differences",
    "training.evaluate",
    "training.fit",
]


@pytest.mark.parametrize("path", DOCUMENTED)
def test_a_documented_import_finds_what_it_names(path: str) -> None:
    module, name = path.rsplit(".", 1)
    if "triton" in module:
        pytest.importorskip("triton")
    assert hasattr(importlib.import_module(f"made_fast.{module}"), name)


@pytest.mark.parametrize("former", FORMER)
def test_a_former_module_is_the_one_of_today(former: str) -> None:
    package = importlib.import_module("made_fast")
    assert importlib.import_module(f"made_fast.{former}") is importlib.import_module(f"made_fast.{FORMER[former]}")
    assert getattr(package, former) is importlib.import_module(f"made_fast.{FORMER[former]}")


def test_an_old_pickle_finds_its_class() -> None:
    """A pickle holds the name of the module in which its class stood."""
    written = pickle.dumps(importlib.import_module("made_fast.sampling.estimates").Estimate(1.0, 0.5), protocol=0)
    old = written.replace(b"made_fast.sampling.estimates", b"made_fast.estimates")
    assert old != written
    assert pickle.loads(old) == pickle.loads(written)
