"""Ctrl-C and termination of the command ``made-fast``: one line and a status, at any moment."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import FrameType

__all__ = ["Interrupted", "noticed", "quiet_until_noticed", "say_interrupted"]


class Interrupted(KeyboardInterrupt):
    """What a signal raises. Where a KeyboardInterrupt itself has passed through ``exec`` of a text, as while modules are
    imported, Python kills the process at its end, whoever has caught it since.
    """


def quiet_until_noticed() -> None:
    """If this process is the command, ends it with one line at Ctrl-C while torch is imported, which takes seconds.

    Nothing has been begun then. In all other processes nothing is changed.
    """
    words = sys.orig_argv[1:]
    named = any(os.path.basename(word) in ("made-fast", "made-fast.exe") for word in words[:1])
    module = any(pair == ("-m", "made_fast") for pair in pairwise(words))
    in_main_thread = threading.current_thread() is threading.main_thread()
    if (named or module) and in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


@contextmanager
def noticed() -> Iterator[list[int]]:
    """Within the block SIGINT and SIGTERM raise ``Interrupted``, so that what was begun is cleaned up.

    What is ignored stays ignored, as in a background job. A second signal ends the process at once.

    Yields:
        The numbers of the signals that came: libraries make other errors of the exception.
    """
    came: list[int] = []

    def raise_once(number: int, _: FrameType | None) -> None:
        came.append(number)
        signal.signal(number, signal.SIG_DFL)
        raise Interrupted

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, raise_once)
    try:
        yield came
    finally:
        for number, handler in before.items():
            # Of the command nothing is left to do: Ctrl-C while Python and torch go must not look as if it was cut off.
            signal.signal(number, signal.SIG_IGN if handler is _end else handler)


def say_interrupted() -> None:
    """The line that an interrupted command ends with."""
    print("made-fast: interrupted", file=sys.stderr, flush=True)


def _end(number: int, _: FrameType | None) -> None:
    say_interrupted()
    os._exit(128 + number)
