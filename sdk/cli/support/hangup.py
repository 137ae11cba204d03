"""A terminal that goes away ends a program by SIGHUP; a write that fails before the signal comes must end it likewise."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class _Signalled(BaseException):
    """A signal that ends the process, on its way out of what has to be put in order."""

    def __init__(self, number: int, _frame: FrameType | None) -> None:
        super().__init__(number)
        self.number = number


def _unwind(number: int, frame: FrameType | None) -> NoReturn:
    raise _Signalled(number, frame)


@contextmanager
def unwinding() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does, so that it removes what is half done; then end by that signal."""
    before = {
        number: signal.signal(number, _unwind)
        for number in (signal.SIGTERM, signal.SIGHUP)
        if threading.current_thread() is threading.main_thread() and signal.getsignal(number) is signal.SIG_DFL
    }
    try:
        yield
    except _Signalled as ended:
        signal.signal(ended.number, signal.SIG_DFL)
        os.kill(os.getpid(), ended.number)
        os._exit(128 + ended.number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def lost_terminal(error: BaseException) -> bool:
    """Tell whether `error` comes of a terminal that is gone, to which stdout or stderr leads."""
    return isinstance(error, OSError) and error.errno == errno.EIO and any(_is_gone(stream) for stream in (1, 2))


def hang_up() -> NoReturn:
    """End this process as by SIGHUP, also where that is blocked or was to be ignored: nothing can be shown any more."""
    if threading.current_thread() is threading.main_thread():
        # Nobody else may change what a signal does.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    os.kill(os.getpid(), signal.SIGHUP)
    # The first process of a container is ended by no signal of its own; this is how a shell names that end.
    os._exit(128 + signal.SIGHUP)


def hang_up_in_threads() -> None:
    """Let a thread that draws end the process, too, where it finds the terminal gone."""
    before = threading.excepthook

    def ended(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and lost_terminal(args.exc_value):
            hang_up()
        before(args)

    threading.excepthook = ended


def _is_gone(stream: int) -> bool:
    import termios

    try:
        termios.tcgetattr(stream)
    except termios.error as error:
        # A file or a pipe says ENOTTY, a terminal that hung up EIO.
        return bool(error.args[0] == errno.EIO)
    return False
