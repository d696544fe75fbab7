"""What masked_linear must refuse, by name or with torch's own error: never a crash, never a silent wrong result."""

import subprocess
import sys
from typing import Any

import pytest
import torch

from made_fast import backends, masked_linear

SERVING = [
    backend.name
    for backend in backends.BACKENDS
    if backends.why_not(backend, backends.Needs(torch.device("cpu"), torch.float32)) is None
]
BACKENDS = ["auto", *SERVING]
COMPILED = [name for name in BACKENDS if name not in ("auto", "reference")]

anywhere = pytest.mark.parametrize("backend", BACKENDS)


def _arguments(**changed: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"x": torch.ones(4, 5), "weight": torch.ones(6, 5), "mask": torch.ones(6, 5).bool()}
    return {**found, "bias": torch.ones(6), **changed}


BAD: dict[str, dict[str, Any]] = {
    "x of no dimension": {"x": torch.tensor(1.0)},
    "x too wide": {"x": torch.ones(4, 6)},
    "x of another dtype": {"x": torch.ones(4, 5).double()},
    "whole x": {"x": torch.ones(4, 5).int()},
    "weight of no dimension": {"weight": torch.tensor(1.0)},
    "weight of three": {"weight": torch.ones(1, 6, 5)},
    "weight transposed": {"weight": torch.ones(5, 6)},
    "weight of another dtype": {"weight": torch.ones(6, 5).double()},
    "bias too short": {"bias": torch.ones(5)},
    "bias of two dimensions": {"bias": torch.ones(1, 6)},
    "bias that would broadcast": {"bias": torch.ones(1)},
    "bias of another dtype": {"bias": torch.ones(6).double()},
    "whole bias": {"bias": torch.ones(6).long()},
    "half bias": {"bias": torch.ones(6).half()},
    "mask transposed": {"mask": torch.ones(5, 6).bool()},
    "mask of three": {"mask": torch.ones(1, 6, 5).bool()},
    "mask that would broadcast": {"mask": torch.ones(1, 5).bool()},
    "mask of no dimension": {"mask": torch.tensor(True)},
    "mask of numbers": {"mask": torch.ones(6, 5)},
    "mask of bytes": {"mask": torch.ones(6, 5, dtype=torch.uint8)},
    "mask of whole numbers": {"mask": torch.ones(6, 5, dtype=torch.int64)},
    "degrees too few": {"mask": torch.ones(10, dtype=torch.int64)},
    "degrees too short": {"mask": torch.ones(11, dtype=torch.int32)},
    "degrees of bool": {"mask": torch.ones(11, dtype=torch.bool)},
    "unknown activation": {"activation": "step"},
    "empty activation": {"activation": ""},
    "unknown backend": {"backend": "cuda"},
    "empty backend": {"backend": ""},
}


@anywhere
@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused(backend: str, case: str) -> None:
    with pytest.raises((ValueError, RuntimeError)) as error:
        masked_linear(**{"backend": backend, **_arguments(**BAD[case])})
    message = str(error.value)
    assert "internal" not in message.lower()
    assert any(name in message for name in BAD[case]) or "dtype" in message


@anywhere
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64])
def test_bias_of_another_dtype_is_refused_where_skipping_pays(backend: str, dtype: torch.dtype) -> None:
    x, weight, mask = torch.ones(64, 256), torch.ones(256, 256), torch.ones(256, 256).tril().bool()
    with pytest.raises((ValueError, RuntimeError), match=r"bias|dtype"):
        masked_linear(x, weight, mask, torch.ones(256, dtype=dtype), backend=backend)


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.complex64, torch.int64])
def test_a_named_backend_says_which_dtypes_it_takes(backend: str, dtype: torch.dtype) -> None:
    if dtype in next(row.dtypes for row in backends.BACKENDS if row.name == backend):
        pytest.skip("takes it")
    x, weight = torch.ones(4, 5, dtype=dtype), torch.ones(6, 5, dtype=dtype)
    with pytest.raises(ValueError, match=rf"{backend}.*{dtype}"):
        masked_linear(x, weight, torch.ones(6, 5).bool(), backend=backend)
    found = masked_linear(x, weight, torch.ones(6, 5).bool())
    assert found.dtype == dtype
    assert (found == 5).all()


MIXED_DEVICES = """
import sys, torch
from made_fast import masked_linear
for backend in sys.argv[1:]:
    for changed in ("x", "weight", "bias", "mask", "degrees"):
        given = dict(x=torch.ones(4, 5), weight=torch.ones(6, 5), bias=torch.ones(6), mask=torch.ones(6, 5).bool())
        if changed == "degrees":
            given["mask"] = torch.ones(11, dtype=torch.int64)
        name = "mask" if changed == "degrees" else changed
        given[name] = given[name].to("meta")
        print(backend, changed, end=": ", flush=True)
        try:
            masked_linear(**given, backend=backend)
        except (ValueError, RuntimeError, TypeError) as error:
            print("refused" if "device" in str(error) or "meta" in str(error) else error, flush=True)
        else:
            print("no error", flush=True)
"""


@pytest.mark.slow
def test_mixed_devices_are_refused() -> None:
    """In a process of its own: memory that is not there can end it."""
    names = sorted(BACKENDS, key="cpp".__eq__)
    command = [sys.executable, "-P", "-c", MIXED_DEVICES, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    changed = ("x", "weight", "bias", "mask", "degrees")
    expected = "".join(f"{backend} {name}: refused\n" for backend in names for name in changed)
    assert (done.stdout, done.returncode) == (expected, 0), done.stderr[-500:]
