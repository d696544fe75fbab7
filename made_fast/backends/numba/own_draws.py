"""Draws of own distributions: compiled functions that are known by their address alone."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from made_fast.backends.numba.jit import jit

__all__ = ["draw_own"]


@intrinsic  # type: ignore[misc]
def _call(typing_context, address, params, uniforms, x):
    """``address(params, uniforms, x, rows=1, stride=1)``; arrays, not pointers, so that they live until it returns."""

    def generate(context, builder, signature, arguments):
        byte = ir.IntType(8).as_pointer()
        arrays = zip(signature.args[1:], arguments[1:], strict=True)
        data = [builder.bitcast(context.make_array(kind)(context, builder, it).data, byte) for kind, it in arrays]
        kind = ir.FunctionType(ir.VoidType(), [byte, byte, byte, ir.IntType(64), ir.IntType(64)])
        one = ir.Constant(ir.IntType(64), 1)
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [*data, one, one])
        return context.get_dummy_value()

    return types.void(address, params, uniforms, x), generate


@jit
def draw_own(address, params, uniforms):
    """x of one row, by a function of the signature that ``Conditional`` states."""
    few = uniforms.astype(np.float32)
    x = np.zeros(1, dtype=params.dtype)
    _call(address, params, few, x)  # type: ignore[call-arg]
    return np.float64(x[0])
