#!/usr/bin/env bash
# torchflows 1.2.1: the log-determinant of its deep sigmoidal flows is far from that of the map they compute. The map
# and its inverse agree, but the reported value is tens of nats away from the log-determinant of the Jacobian that
# autograd finds for the same points, for an untrained flow of two variables; the affine flow of the same package is
# exact. log_prob of such a flow is then not the log of a density, and maximum likelihood trains towards something
# else.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet torch==2.13.0
venv/bin/pip install --quiet torchflows==1.2.1 numpy==2.4.6
venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import torch
from torchflows.bijections.finite.autoregressive.architectures import MAF, MaskedAutoregressiveDeepSF


def errors(kind):
    torch.manual_seed(0)
    bijection = kind(event_shape=(2,), n_layers=1).double().eval()
    x = torch.randn(16, 2, dtype=torch.float64)
    z, reported = bijection.forward(x)
    jacobians = [torch.autograd.functional.jacobian(lambda row: bijection.forward(row[None])[0][0], r) for r in x]
    true = torch.linalg.slogdet(torch.stack(jacobians))[1]
    inverse = (bijection.inverse(z)[0] - x).abs().max().item()
    off = (reported - true).abs()
    return inverse, off.min().item(), off.max().item()


print(f"torchflows {version('torchflows')}, torch {torch.__version__}")
seen = {}
for kind in (MAF, MaskedAutoregressiveDeepSF):
    seen[kind] = errors(kind)
    inverse, least, most = seen[kind]
    print(f"{kind.__name__}: inverse off by {inverse:.0e}, log-determinant by {least:.2g} to {most:.2g} nats")
deep = seen[MaskedAutoregressiveDeepSF]
if not (seen[MAF][2] < 1e-9 and deep[0] < 1e-4 and deep[1] > 5):
    raise SystemExit("changed: the log-determinant of the deep sigmoidal flow is nearer to the true one")
PYTHON
