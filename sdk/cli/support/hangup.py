"""A terminal that goes away ends a program by SIGHUP; a write that fails before the signal comes must end it likewise."""

from __future__ import annotations

import errno
import os
import threading
from typing import NoReturn


def lost_terminal(error: BaseException) -> bool:
    """Tell whether `error` comes of a terminal that is gone, to which stdout or stderr leads."""
    return isinstance(error, OSError) and error.errno == errno.EIO and any(_is_gone(stream) for stream in (1, 2))


def hang_up() -> NoReturn:
    """End this process as by SIGHUP, also where that is blocked or was to be ignored: nothing can be shown any more."""
    import signal

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
