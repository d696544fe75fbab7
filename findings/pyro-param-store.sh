#!/usr/bin/env bash
# pyro-ppl 1.9.2: pyro.module and the parameter store, which are there "to save and load modules", store parameters
# only, no buffers. A masked autoregressive flow draws its order of variables at random and keeps it and the masks as
# buffers. A flow that is built afresh and filled from the store therefore has all the trained weights under another
# order and other masks: nothing is reported, and log_prob belongs to no trained model. Save flow.state_dict() beside
# the store.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet torch==2.13.0
venv/bin/pip install --quiet pyro-ppl==1.9.2 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import torch

x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def flow(seed):
    torch.manual_seed(seed)
    return transforms.affine_autoregressive(6, [16])


def log_prob(flow):
    base = dist.Normal(torch.zeros(6), torch.ones(6)).to_event(1)
    flow.clear_cache()  # the transform keeps its last answer
    return dist.TransformedDistribution(base, [flow.inv]).log_prob(x.clone()).detach()


trained = flow(0)
pyro.module("flow", trained)
pyro.get_param_store().save("store.pt")

pyro.clear_param_store()
fresh = flow(1)  # what another process would build
pyro.get_param_store().load("store.pt")
pyro.module("flow", fresh, update_module_params=True)

pairs = zip(trained.parameters(), fresh.parameters(), strict=True)
same = all(torch.equal(a, b) for a, b in pairs)
apart = (log_prob(trained) - log_prob(fresh)).abs().max().item()
print(f"pyro {pyro.__version__}, torch {torch.__version__}")
print("parameters the same:           ", same)
print("order of the saved flow:       ", trained.arn.permutation.tolist())
order = fresh.arn.permutation.tolist()
print("order of the loaded flow:      ", order)
print(f"largest difference of log_prob: {apart:.2f}")
fresh.load_state_dict(trained.state_dict())
mended = torch.equal(log_prob(trained), log_prob(fresh))
print("the same after load_state_dict:", mended)
if not (same and trained.arn.permutation.tolist() != order and apart > 0.1 and mended):
    raise SystemExit("changed: the store brings the order of variables back")
PYTHON
