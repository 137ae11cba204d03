"""A terminal that goes away ends a program by SIGHUP; a write that fails before the signal arrives must end it in the
same way.
"""

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
    """A signal that ends the process, raised as an exception so that blocks can clean up."""

    def __init__(self, number: int, _frame: FrameType | None) -> None:
        super().__init__(number)
        self.number = number


def _unwind(number: int, frame: FrameType | None) -> NoReturn:
    raise _Signalled(number, frame)


@contextmanager
def unwinding() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block like Ctrl-C, so that it removes what is half done; then end by that signal."""
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
    """Whether `error` is due to a lost terminal on stdout or stderr."""
    return isinstance(error, OSError) and error.errno == errno.EIO and any(_is_gone(stream) for stream in (1, 2))


def hang_up() -> NoReturn:
    """End this process as if by SIGHUP, even if that is blocked or ignored: nothing can be shown any more."""
    if threading.current_thread() is threading.main_thread():
        # Only the main thread may change what a signal does.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    os.kill(os.getpid(), signal.SIGHUP)
    # The first process of a container can't end itself by a signal; this is the exit code that a shell would show.
    os._exit(128 + signal.SIGHUP)


def hang_up_in_threads() -> None:
    """Let a drawing thread, too, end the process if it finds the terminal gone."""
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
        # A file or a pipe gives ENOTTY, a terminal that hung up EIO.
        return bool(error.args[0] == errno.EIO)
    return False
