"""Lets every logger of a process speak from debug level on, whatever it was told. Python reads this at its start.

`TALKATIVE_FOLDER`: where each process writes a file. Filters of loggers still filter: they are part of what is tested.
"""

import logging
import os

_handler = logging.FileHandler(os.path.join(os.environ["TALKATIVE_FOLDER"], f"{os.getpid()}.log"))
_handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
_call_handlers = logging.Logger.callHandlers


def _is_enabled_for(self: logging.Logger, level: int) -> bool:
    return level >= logging.DEBUG and not self.disabled


def _call_ours_too(self: logging.Logger, record: logging.LogRecord) -> None:
    _handler.handle(record)
    _call_handlers(self, record)


logging.Logger.isEnabledFor = _is_enabled_for  # type: ignore[method-assign]
logging.Logger.callHandlers = _call_ours_too  # type: ignore[method-assign]
