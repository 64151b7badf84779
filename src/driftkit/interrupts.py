"""Ctrl-C while a command is still importing: it ends at once, with status 130, since nothing is lost yet.

As an exception it would be a traceback before there is anybody to catch it, and in the middle of an extension
module's import some crash (orjson does, now and then). Nothing slow may be imported here.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130  # 128 + SIGINT


def end_at_once() -> None:
    """From here on, until `raise_them`; where whoever has called us ignores Ctrl-C it stays ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_them() -> None:
    """There is input or output in hand: from here on an interrupt is a KeyboardInterrupt."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    try:
        os.write(2, b"driftkit: interrupted\n")
    finally:
        os._exit(INTERRUPTED)
