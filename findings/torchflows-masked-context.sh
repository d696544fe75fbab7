#!/usr/bin/env bash
# torchflows 1.2.1: its masked autoregressive layers take a context and never use it. The context is joined to the variables as
# columns after them, the mask lets a parameter see only columns before its own, and so every derivative with respect to the
# context is exactly zero, affine or spline, whatever the weights. The couplings of the package do use it, and a whole MAF with
# a context still depends on it a little, through its elementwise layers alone, so that nothing looks wrong: whoever estimates
# a conditional density or a posterior with it fits something near the marginal one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet torch==2.13.0
venv/bin/pip install --quiet torchflows==1.2.1 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import warnings
from importlib.metadata import version

import torch

warnings.filterwarnings("ignore", module="torchflows")
from torchflows.bijections.finite.autoregressive import layers


def steepest(name, features=6, context=3):
    """The largest derivative of z with respect to the context, for random weights."""
    torch.manual_seed(0)
    layer = getattr(layers, name)(event_shape=(features,), context_shape=(context,)).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter))
    x, given = torch.randn(1, features).double(), torch.randn(1, context).double()
    return torch.autograd.functional.jacobian(lambda c: layer.forward(x, context=c)[0], given).abs().max().item()


print(f"torchflows {version('torchflows')}, torch {torch.__version__}")
masked = {name: steepest(name) for name in ("AffineForwardMaskedAutoregressive", "RQSForwardMaskedAutoregressive")}
coupling = steepest("AffineCoupling")
for name, found in {**masked, "AffineCoupling": coupling}.items():
    print(f"{name}: largest derivative with respect to the context {found:.2g}")
if any(masked.values()) or not coupling > 0:
    raise SystemExit("changed: the masked layers see their context")
PYTHON
