"""Classes with the names, arguments and state dicts of other libraries, whose samples are those of ``accelerate``.

``made_fast.compat.nflows.MADE`` and ``made_fast.compat.pytorch_made.MADE`` load checkpoints that the originals saved and
compute the same function; ``made_fast.compat.netket`` and ``made_fast.compat.flowjax`` read networks and flows from their
parameters; ``made_fast.compat.sbi`` makes estimators that sbi trains. Nothing is imported from the originals, but where a
sampler of NetKet or an estimator of sbi is asked for.
"""
