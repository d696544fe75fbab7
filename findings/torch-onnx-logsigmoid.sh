#!/usr/bin/env bash
# torch 2.13.0 with onnxscript 0.7.2: torch.onnx.export(dynamo=True) writes log_sigmoid as the Log of a Sigmoid, and
# expm1 as Exp less 1, the two things that these functions exist to avoid. In onnxruntime 1.32.0, whose Sigmoid of
# float32 is 0 from there on, the log-probability of a bit with a logit of -20 is -inf instead of -20,
# and expm1(1e-8) is 0. So a binary log-likelihood or a cross-entropy that was right in torch is infinite when served,
# without any message. z.clamp(max=0) - log1p(exp(-abs(z))) is exported as it stands and is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import logging
import warnings

import onnxruntime
import torch
import torch.nn.functional as F

logging.disable(logging.WARNING)
warnings.filterwarnings("ignore")


class Functions(torch.nn.Module):
    def forward(self, z, small):
        by_hand = z.clamp(max=0) - torch.log1p(torch.exp(-z.abs()))
        return F.logsigmoid(z), by_hand, torch.expm1(small)


inputs = torch.tensor([-10.0, -20.0, -50.0, -100.0]), torch.tensor([1e-8, 1e-3])
program = torch.onnx.export(Functions(), inputs, dynamo=True, verbose=False)
program.save("functions.onnx")
session = onnxruntime.InferenceSession("functions.onnx", providers=["CPUExecutionProvider"])
names = [each.name for each in session.get_inputs()]
found = session.run(None, {name: value.numpy() for name, value in zip(names, inputs)})
wanted = Functions()(*inputs)
print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, nodes {[node.op_type for node in program.model.graph]}")
for name, right, served in zip(("log_sigmoid", "by hand", "expm1"), wanted, found):
    print(f"{name:12} torch {right.tolist()}, onnxruntime {served.tolist()}")
infinite = bool((found[0][1:] == -float("inf")).all())
right_by_hand = torch.allclose(torch.from_numpy(found[1]), wanted[1])
if not (infinite and right_by_hand and found[2][0] == 0):
    raise SystemExit("changed: log_sigmoid of logits from -20 on is no longer -inf, or expm1 of small numbers no longer 0")
PYTHON
