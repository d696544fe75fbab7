"""Every block of Python on every page is run as it stands, and so is every example in a docstring.

Pages are found, not listed. What a page takes for granted, what it needs, and the few blocks that are not run stand in
tables, each with its reason.
"""

import doctest
import importlib
import linecache
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from page_checks import (
    check_command_line,
    check_conditions,
    check_large_data,
    check_lightning,
    check_physics,
    check_train,
)
from quick import some
from torch import Tensor, nn

from made_fast import MADE, backends
from made_fast.datasets.samples import write_rows
from made_fast.testing import unexplained_differences

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^[ \t>]*(?:```|~~~) *\{?\.?(?:py|Py)", re.MULTILINE)  # however it is spelled and indented

Names = dict[str, Any]


def _name(path: Path) -> str:
    """The page relative to docs/, or to the repository for those that are not in it."""
    return str(path.relative_to(DOCS if DOCS in path.parents else ROOT))


PAGES = {
    _name(path): path
    for path in [*ROOT.glob("*.md"), *sorted((ROOT / "benchmarks").rglob("*.md")), *sorted(DOCS.rglob("*.md"))]
    if FENCE.search(path.read_text())
}

# Blocks that are not run: a page, text that is in one block of it, the reason.
NOT_RUN = (
    ("distributed.md", "import ray", "needs ray; its function is that of the next block, which is run"),
    *(("examples.md", path.name, "run by test_examples.py") for path in (ROOT / "examples").glob("*.py")),
    ("distributed.md", "from joblib import", "starts interpreters; its function is that of a block that is run"),
    ("distributed.md", "from dask.distributed import", "needs dask; its function is that of a block that is run"),
    ("export.md", "torch.onnx.export", "needs onnx; tests/layers/test_onnx.py exports the same"),
    ("export.md", "huggingface_hub", "needs huggingface_hub; tests/models/test_hugging_face.py does the same"),
)

# Pages whose blocks need packages that the tests can do without. `make test` has all but RARE, and then skips nothing else.
RARE = {"sbi", "netket", "flowjax", "lightning", "pyarrow"}  # are in no group
NEEDED = {
    "command-line.md": ("polars", "narwhals"),
    "flows.md": ("zuko",),
    "large-data.md": ("pyarrow",),
    "lightning.md": ("lightning",),
    "libraries/nflows.md": ("nflows",),
    "libraries/zuko.md": ("zuko",),
    "libraries/normflows.md": ("normflows",),
    "libraries/pyro.md": ("pyro",),
    "libraries/sbi.md": ("sbi",),
    "libraries/netket.md": ("netket",),
    "libraries/flowjax.md": ("flowjax",),
    "own-outputs.md": ("numba", "triton"),
    "quick-start.md": ("sklearn",),
    "scikit-learn.md": ("pandas", "narwhals", "sklearn"),
    "tables.md": ("pandas", "narwhals", "matplotlib"),
}


def _readme() -> Names:
    x = torch.bernoulli(torch.full((20, 784), 0.13))
    known, seen = torch.zeros(3), torch.tensor([True, False, False])
    return {
        "torch": torch,
        "network": _accelerate()["model"],
        "known": known,
        "seen": seen,
        "x": x,
        "minibatches": x.split(10),
        "optimizer": torch.optim.SGD([nn.Parameter(x)], lr=0.1),
    }


def _accelerate() -> Names:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.ones(12, 12).tril(-1))
            self.weight = nn.Parameter(torch.randn(12, 12))

        def forward(self, x: Tensor) -> Tensor:
            return x @ (self.weight * self.mask).T

    return {"model": Network()}


def _flows() -> Names:
    import zuko

    return {"zuko": zuko}


def _distributed() -> Names:
    MADE(64, (8,)).save("digits.safetensors")
    rows = torch.bernoulli(torch.full((11, 64), 0.5)).to(torch.uint8)
    for rank, part in enumerate(rows.tensor_split(2)):
        for kind in ("npy", "npz"):
            write_rows(Path(f"samples-0000{rank}-of-00002.{kind}"), [part], len(part), 64)
    return {"expected": rows}


# What a page takes for granted: names, and files in the folder where its blocks run.
GIVEN: dict[str, Callable[[], Names]] = {
    "README.md": _readme,
    "accelerate.md": _accelerate,
    "flows.md": _flows,
    "distributed.md": _distributed,
}


def _check_own_outputs(names: Names) -> None:
    model, fast, x = names["model"], names["fast"], names["x"]
    expected = model.sample(1000, seed=0)
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=2e-4)
    torch.testing.assert_close(names["log_prob"], model.log_prob(x), rtol=1e-4, atol=1e-4)
    usable = {row.name for row in backends.table() if row.usable}
    for backend in sorted(usable & {"cpp", "numba"}):
        for each in (fast, names["anywhere"]):
            drawn = each.sample(1000, seed=0, backend=backend)
            torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=2e-4)
    with pytest.raises(ValueError, match="native_draw"):
        model.sample(3, backend="numba")


def _check_outputs(names: Names) -> None:
    table, x = names["table"], names["x"]
    assert x.shape == names["mode"].shape == names["share"].shape == (5, 6)
    assert not unexplained_differences(table, x, seed=0).any()
    assert ((names["share"] >= 0) & (names["share"] <= 1)).all()
    for model in (table, names["pixels"], names["words"], names["codes"]):
        drawn = model.sample(20, seed=1)
        model.output.check(drawn)
        assert model.log_prob(drawn).isfinite().all()
    grey = torch.arange(16.0).expand(5, -1)
    levels = torch.stack(
        [names["pixels"].output.log_prob(torch.zeros(16 * 15), level) for level in grey[:1].T.expand(16, 16)]
    )
    torch.testing.assert_close(levels.exp().sum(0), torch.ones(16))
    assert names["mean"].shape == (5, 16)
    assert ((names["mean"] >= 0) & (names["mean"] <= 15)).all()


def _check_tables_by_hand(names: Names) -> None:
    table, mean, scale = names["table"], names["mean"], names["scale"]
    assert names["history"].best.valid_nll < 3.4
    assert names["rows"].shape == (4000, 4)
    for column in range(4):
        difference = names["rows"][:, column].mean() - table[:, column].mean()
        assert difference.abs() < 0.15 * table[:, column].std(), column
    wrong = (names["expected_rent"] - (table[3600:3700, 3] * scale + mean)).abs()
    assert wrong[1::2].mean() < 90 < wrong[::2].mean()  # where the number of rooms is known, 48 are noise
    observed = names["observed"]
    assert torch.equal(names["one_each"][observed], names["incomplete"][observed])
    assert names["one_each"].isfinite().all()
    assert abs(names["cardinality"] / 4000 / float(names["share"]) - 1) < 0.25
    assert names["least"] < names["cardinality"] < names["most"]


def _check_tables(names: Names) -> None:
    fresh, holes, filled, several = names["flats"](200_000), names["holes"], names["filled"], names["several"].value
    assert filled.index.equals(holes.index) and (filled == holes).eq(holes.notna()).all(axis=None)
    assert names["ten"].district.tolist() == ["centre"] * 10 + ["north"] * 10
    march, cheap = fresh.listed.dt.month == 3, (fresh.district != "centre") & (fresh.rent <= 900)
    asked = (fresh.rooms.between(2, 3) & cheap, fresh.rent.isna(), march, fresh.lift & (fresh.area > 80), march & cheap)
    found = torch.stack([names["answer"].value, *several, names["same"].value])
    assert (found - torch.tensor([each.mean() for each in asked])).abs().max() < 0.03


def _check_distributed(names: Names) -> None:
    assert np.array_equal(names["samples"], names["expected"])  # of the packed shards, read last
    joined = np.load("samples.npy")
    assert np.array_equal(joined, names["expected"])


def _check_autoencoder(names: Names) -> None:
    assert float(names["total"].detach()) > 200  # as the page says
    assert float(names["log_prob"].detach().exp().sum()) == pytest.approx(1, abs=1e-5)


def _check_property(names: Names) -> None:
    connected = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 1], [0, 1, 0, 0]]).bool()
    assert not bool((names["jacobian"] != 0)[~connected].any())


def _check_equal(before: str, after: str) -> Callable[[Names], None]:
    """Draws, or scores, before and after, from the same noise."""
    return lambda names: torch.testing.assert_close(names[after], names[before], rtol=1e-4, atol=1e-4)


def _check_own_module(names: Names) -> None:
    assert names["y"].shape == (100, 6)
    assert names["log_prob"].shape == (100,)


# What must be true of the names that a page defines, beyond its own assertions.
CHECKS: dict[str, Callable[[Names], None]] = {
    "command-line.md": check_command_line,
    "own-outputs.md": _check_own_outputs,
    "distributed.md": _check_distributed,
    "large-data.md": check_large_data,
    "lightning.md": check_lightning,
    "train.md": check_train,
    "libraries/nflows.md": _check_equal("x", "y"),
    "libraries/zuko.md": _check_equal("x", "y"),
    "libraries/normflows.md": _check_equal("x", "y"),
    "libraries/pyro.md": _check_equal("log_prob", "same"),
    "libraries/sbi.md": _check_equal("before", "after"),
    "libraries/your-own-module.md": _check_own_module,
    "outputs.md": _check_outputs,
    "conditions.md": check_conditions,
    "physics.md": check_physics,
    "tables.md": _check_tables,
    "tables-by-hand.md": _check_tables_by_hand,
    "understand/autoencoders.md": _check_autoencoder,
    "understand/autoregressive.md": _check_property,
}


def _reason(page: str, block: str) -> str | None:
    """Why a block is not run; None if it is."""
    return next((reason for name, text, reason in NOT_RUN if name == page and text in block), None)


def _run_script(block: str, name: str) -> None:
    """A block that is a program of its own, in an interpreter of its own."""
    path = Path(f"{re.sub('[^a-z]', '_', name)}.py")
    path.write_text(block)
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def run_page(page: str, names: Names | None = None) -> Names:
    """The names that the page's blocks of Python define, run one after the other in the current folder."""
    names = {} if names is None else names
    blocks = BLOCK.findall(PAGES[page].read_text())
    assert blocks
    for number, block in enumerate(blocks):
        if _reason(page, block) is not None:
            continue
        if 'if __name__ == "__main__":' in block:
            _run_script(block, f"{page} {number}")
        else:
            label = f"{page}, block {number}"
            linecache.cache[label] = (
                len(block),
                None,
                block.splitlines(keepends=True),
                label,
            )  # Triton reads its kernels
            exec(compile(block, label, "exec"), names)
    return names


# Pages that train, start processes or need libraries that are not ours.
LONG = {
    *("command-line.md", "flows.md", "distributed.md", "README.md", "scikit-learn.md"),
    *("tables.md", "tables-by-hand.md", "physics.md", "index.md", "understand/autoencoders.md"),
}


@pytest.mark.parametrize("page", some([*PAGES], [page for page in PAGES if page not in LONG and "/" not in page]))
def test_blocks_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in NEEDED.get(page, ()):
        if package in RARE or os.environ.get("MADE_FAST_PEERS") != "1":
            pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))  # for pages that show how to measure
    torch.manual_seed(0)
    with warnings.catch_warnings():
        if page.startswith("libraries/"):
            warnings.simplefilter("ignore")  # of the libraries
        names = run_page(page, GIVEN.get(page, dict)())
    CHECKS.get(page, lambda _: None)(names)


@pytest.mark.parametrize("page", PAGES)
def test_no_block_escapes(page: str) -> None:
    text = PAGES[page].read_text()
    assert len(BLOCK.findall(text)) == len(FENCE.findall(text)), (
        "write ```python at the start of a line, and nothing after it"
    )


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.interpreter
@pytest.mark.skipif(not backends._TRITON_INTERPRETED, reason="needs TRITON_INTERPRET=1 (make test-all does that)")
def test_own_outputs_by_triton() -> None:
    torch.manual_seed(0)
    names = run_page("own-outputs.md")
    expected = names["model"].sample(100, seed=0, backend="reference")
    x, log_prob = names["anywhere"].sample_and_log_prob(100, seed=0, backend="triton")
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=2e-4)
    torch.testing.assert_close(log_prob, names["model"].log_prob(x).detach(), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="triton_draw"):
        names["fast"].sample(3, backend="triton")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_own_outputs_by_triton_on_a_gpu() -> None:
    pytest.importorskip("numba")
    torch.manual_seed(0)
    names = run_page("own-outputs.md")
    expected = names["model"].sample(1000, seed=0, backend="reference")
    x = names["anywhere"].cuda().sample(1000, seed=0, backend="triton").cpu()
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-3)


def test_the_tables_name_what_exists() -> None:
    assert {"README.md", "accelerate.md", "understand/sampling.md"} <= set(PAGES)
    for table in (NEEDED, GIVEN, CHECKS):
        assert set(table) <= set(PAGES)
    for page, text, _ in NOT_RUN:
        assert sum(text in block for block in BLOCK.findall(PAGES[page].read_text())) == 1, (page, text)


MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "made_fast").rglob("*.py")
    if ">>>" in path.read_text()
)


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings(module: str) -> None:
    torch.manual_seed(0)
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, tried = doctest.testmod(importlib.import_module(module), optionflags=options)
    assert tried
    assert not failed


def _documented() -> set[str]:
    """What the pages of reference show: names, and of whole modules all that they name."""
    shown = set()
    for path in (DOCS / "reference").glob("*.md"):
        for name, options in re.findall(r"^::: (\S+)\n((?: +.*\n)*)", path.read_text(), re.MULTILINE):
            shown.add(name)
            members = re.search(r"members: \[([^\]]*)\]", options)
            if members is not None:
                shown |= {f"{name}.{each.strip()}" for each in members[1].split(",")}
            elif "show_root_heading: false" in options:  # a module, whole
                shown |= {f"{name}.{each}" for each in importlib.import_module(name).__all__}
    return shown


@pytest.mark.parametrize(
    "module", ["made_fast", "layers", "masks", "flows", "flows.adapters", "estimation", "plots", "testing"]
)
def test_the_reference_has_all_public_names(module: str) -> None:
    name = module if module == "made_fast" else f"made_fast.{module}"
    public, shown = importlib.import_module(name).__all__, _documented()
    ours = {each for each in public if name == "made_fast" or f"made_fast.{each}" not in shown}
    assert {each for each in ours if f"{name}.{each}" not in shown} == set()
