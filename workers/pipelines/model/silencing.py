"""Keeping the libraries' output off the terminal."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

from transformers.utils import logging as transformers_logging


def silence() -> None:
    """Keep progress bars of the libraries off the terminal; progress goes by the callback."""
    import datasets

    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()


@contextlib.contextmanager
def deprecations_silenced() -> Iterator[None]:
    """Silence two deprecations that the libraries raise about each other, and no others.

    transformers renames gradient checkpointing to activation checkpointing; PEFT, TRL and older transformers know
    only the first name.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing(_kwargs)?` is deprecated", FutureWarning)
        yield


@contextlib.contextmanager
def missing_weights_silenced() -> Iterator[None]:
    """Silence the table of weights missing in a base's files, which is checked here."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
