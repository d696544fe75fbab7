#!/usr/bin/env bash
# onnxruntime 1.32.0 runs ONNX's Bernoulli operator the wrong way round: a one comes with probability 1 - p. It takes
# the operator apart by the function body that onnx 1.23.2 gives for it, and that body compares "greater" where "less"
# is meant; onnx's own reference evaluator draws ones with probability p. torch.onnx writes torch.bernoulli as this
# operator, so an exported sampler of a binary model draws each variable from the opposite of its conditional, without
# any message.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

wanted = np.array([0.1, 0.5, 0.9], dtype=np.float32)
p = np.tile(wanted, (100_000, 1))
graph = helper.make_graph(
    [helper.make_node("Bernoulli", ["p"], ["x"])],
    "draw",
    [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", 3])],
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
onnx.checker.check_model(model, full_check=True)

session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
by_runtime = session.run(None, {"p": p})[0].mean(axis=0)
by_reference = ReferenceEvaluator(model).run(None, {"p": p})[0].mean(axis=0)
print(f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}")
print("p:                            ", wanted)
print("ones by onnx's reference:     ", by_reference.round(3))
print("ones by onnxruntime:          ", by_runtime.round(3))
if not (np.allclose(by_reference, wanted, atol=0.01) and np.allclose(by_runtime, 1 - wanted, atol=0.01)):
    raise SystemExit("changed: the runtime no longer draws ones with probability 1 - p")
PYTHON
