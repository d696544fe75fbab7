#!/usr/bin/env bash
# In onnxruntime 1.32.0 the RandomUniform nodes of one model are not independent: their seeds follow one another and
# the generator is linear, so the n-th numbers of nodes 0, 1, 2, ... are an arithmetic progression modulo 1, and at
# first they are almost the same number. Two sessions made in one process also begin with the same draws, though no
# seed is set. An autoregressive sampler exported with one torch.rand per variable has a node per variable: its
# variables are then drawn with dependent noise, and a row's later variables can be told from its first two.
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

variables, rows = 8, 1000
names = [f"u{d}" for d in range(variables)]
graph = helper.make_graph(
    [helper.make_node("RandomUniform", [], [name], shape=[rows]) for name in names],
    "noise",
    [],
    [helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows]) for name in names],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
onnx.checker.check_model(model, full_check=True)


def session():
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


first, second = session(), session()
u = np.stack(first.run(None, {}), axis=1).astype(np.float64)
again = np.stack(second.run(None, {}), axis=1)
bend = u[:, 2:] - 2 * u[:, 1:-1] + u[:, :-2]  # whole numbers if the row is an arithmetic progression modulo 1
largest = np.abs(bend - bend.round()).max()
print(f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}")
print("first numbers of the 8 nodes: ", u[0].round(6))
print("second numbers:               ", u[1].round(6))
print(f"farthest from an arithmetic progression modulo 1, {rows} rows: {largest:.1e}")
print("a second session begins alike:", np.array_equal(u.astype(np.float32), again))
if not (largest < 1e-5 and np.array_equal(u.astype(np.float32), again)):
    raise SystemExit("changed: the nodes no longer draw in an arithmetic progression")
PYTHON
