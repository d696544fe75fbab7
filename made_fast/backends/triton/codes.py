"""Numbers that kernels compare with: codes of conditionals, their bits in CODES, encodings, bits of FEATURES.

In the interpreter the arguments of a kernel are plain numbers, so one of these comes first in ``BIT & CODES``.
"""

import triton.language as tl

from made_fast.outputs.codes import Code, Encoding

# Those that conditionals/ draws. To add one: its code here and below, and its draw in conditionals/.
KNOWN_CODES = (
    *(Code.BERNOULLI, Code.SPIN, Code.CATEGORICAL, Code.NORMAL, Code.MIXTURE_OF_NORMALS, Code.MIXTURE_OF_LOGISTICS),
    Code.OWN,
)

SPIN = tl.constexpr(int(Code.SPIN))
CATEGORICAL = tl.constexpr(int(Code.CATEGORICAL))
NORMAL = tl.constexpr(int(Code.NORMAL))
NORMALS = tl.constexpr(int(Code.MIXTURE_OF_NORMALS))
LOGISTICS = tl.constexpr(int(Code.MIXTURE_OF_LOGISTICS))
OWN_CODE = tl.constexpr(int(Code.OWN))

CATEGORICAL_BIT = tl.constexpr(1 << Code.CATEGORICAL)
NORMAL_BIT = tl.constexpr(1 << Code.NORMAL)
NORMALS_BIT = tl.constexpr(1 << Code.MIXTURE_OF_NORMALS)
LOGISTICS_BIT = tl.constexpr(1 << Code.MIXTURE_OF_LOGISTICS)
BINARY_BITS = tl.constexpr(1 << Code.BERNOULLI | 1 << Code.SPIN)
CHOICE_BITS = tl.constexpr(1 << Code.CATEGORICAL | 1 << Code.MIXTURE_OF_NORMALS | 1 << Code.MIXTURE_OF_LOGISTICS)
REAL_BITS = tl.constexpr(1 << Code.NORMAL | 1 << Code.MIXTURE_OF_NORMALS | 1 << Code.MIXTURE_OF_LOGISTICS)

ONE_HOT, EMBEDDING = tl.constexpr(int(Encoding.ONE_HOT)), tl.constexpr(int(Encoding.EMBEDDING))

GIVEN, ALLOWED, DECODED = tl.constexpr(1), tl.constexpr(2), tl.constexpr(4)
