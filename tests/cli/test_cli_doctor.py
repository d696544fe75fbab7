"""The command doctor: what it says of a network, a model of ours and a flow, and what it refuses."""

import re
from pathlib import Path

import pytest
import torch

from made_fast import MADE, cli

MODULES = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, params=1):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 4 * params)
        rank, degrees = torch.arange(4), torch.arange(6) % 4
        self.register_buffer("a", (degrees[:, None] >= rank + 1).float())
        self.register_buffer("b", (rank[:, None] >= degrees).float().repeat_interleave(params, 0))

    def forward(self, x):
        hidden = torch.relu(nn.functional.linear(x, self.first.weight * self.a, self.first.bias))
        return nn.functional.linear(hidden, self.second.weight * self.b, self.second.bias)

class Group:
    inner = Net(3)

net = Net()
model = lambda: __import__("made_fast").MADE(5, (3,), num_masks=2)
text = "no module"
leaky = nn.Linear(3, 3)

def broken():
    raise RuntimeError("of the user's own\\ncode")

def flow():
    import zuko
    return zuko.flows.NSF(5, transforms=2, hidden_features=(8,))
"""


@pytest.fixture
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "doctor_modules.py").write_text(MODULES)
    monkeypatch.chdir(tmp_path)


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    status = cli.main(["doctor", *map(str, words)])
    return status, *capsys.readouterr()


@pytest.mark.usefixtures("_modules")
def test_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "doctor_modules:net")
    assert status == 0
    assert (
        "1 parameters for each variable" in out
        and "4 variables, drawn in 4 sequential steps, in the order 0, 1, 2, 3" in out
    )
    share = re.search(r"one sample: (\d+) multiply-adds, .* dense forward pass \((\d+)\)", out)
    assert share is not None and int(share[2]) == 48 and 0 < int(share[1]) < 48
    assert f"takes {round(4 * 48 / int(share[1]))} times as many, in 4 passes" in out
    status, out, _ = call(capsys, "doctor_modules:Group.inner", "--features", 4)
    assert status == 0 and "3 parameters for each variable, variable-major" in out


@pytest.mark.usefixtures("_modules")
def test_a_model_of_ours(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    MADE(6, (4, 4)).save(tmp_path / "m.safetensors")
    status, out, _ = call(capsys, tmp_path / "m.safetensors")
    assert status == 0 and "autoregressive" in out and "cannot see all that come before" in out and "in 6 passes" in out
    status, out, _ = call(capsys, "doctor_modules:model")
    assert status == 0 and "2 masks" in out


@pytest.mark.slow
@pytest.mark.usefixtures("_modules")
def test_a_flow(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("zuko")
    status, out, _ = call(capsys, "doctor_modules:flow")
    assert status == 0
    assert (
        len(
            re.findall(
                r"transform \d, MaskedAutoregressiveTransform: 5 variables in 5 sequential steps, levels, since", out
            )
        )
        == 2
    )
    status, _, err = call(capsys, "doctor_modules:flow", "--features", 5)
    assert status == 1 and "--features must be left out" in err


@pytest.mark.usefixtures("_modules")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "must be package.module:attribute or a .safetensors file, got 'nothing'"),
        (["no_such_package:net"], "ModuleNotFoundError: No module named 'no_such_package'"),
        (["doctor_modules:nett"], "AttributeError"),
        (["doctor_modules:broken"], "RuntimeError: of the user's own code"),
        (["doctor_modules:text"], r"must be a torch.nn.Module or a flow, got str"),
        (["doctor_modules:leaky"], "must be autoregressive"),
        (["doctor_modules:net", "--features", 3], "must accept x|features"),
        (["doctor_modules:net", "--output", "weather"], "weather"),
        (["doctor_modules:model", "--output", "normal"], "--output must be left out"),
        (["missing.safetensors"], "missing.safetensors"),
    ],
)
def test_errors_are_one_line_with_status_1(
    words: list[object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = call(capsys, *words)
    assert status == 1 and out == ""
    assert re.fullmatch(r"made-fast: error: [^\n]+\n", err) and re.search(message, err), err


def test_it_needs_a_module(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        call(capsys)
    assert stop.value.code == 2
