"""Whatever changes the weights of an accelerated flow of another library, its inverse is that of the changed flow."""

from typing import Any

import pytest
import torch
from changes import CHANGES
from flow_peers import library

import made_fast

QUICK = {"pruned", "plain number", "hooked weight norm"}


def _transform(name: str) -> Any:
    if name == "nflows":
        transforms: Any = library("nflows.transforms.autoregressive")
        return transforms.MaskedAffineAutoregressiveTransform(5, 12, num_blocks=1).double().eval()
    return library("zuko.flows").MAF(5, 0, transforms=1, hidden_features=(12,)).double().eval().transform.transforms[0]


@pytest.mark.parametrize("name", ["nflows", "zuko"])
@pytest.mark.parametrize(
    "change", [pytest.param(each, marks=[] if each in QUICK else pytest.mark.slow) for each in CHANGES]
)
def test_inverses_are_never_stale(name: str, change: str) -> None:
    torch.manual_seed(0)
    transform, z = _transform(name), torch.randn(6, 5).double()
    fast = made_fast.accelerate(transform)

    def inverse(module: Any) -> Any:
        with torch.no_grad():
            return module.inverse(z)[0] if name == "nflows" else module().inv(z)

    before = inverse(fast)
    for _ in range(2):
        CHANGES[change](transform)
        now = inverse(fast)
        torch.testing.assert_close(now, inverse(transform), rtol=1e-6, atol=1e-6)
        assert not torch.equal(now, before)
        before = now
