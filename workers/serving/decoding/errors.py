"""What the decode loop refuses, each as one sentence that ends with what to do.

ServingError
├── QueueFull          too many questions wait
├── TooLong            a prompt and its answer don't fit
├── BadQuestion        a question that can't be asked of this base
├── NotLoaded          no version of this name is loaded
├── NameTaken          the name means another folder
├── AdapterRefused     the version can't be served
├── BaseRefused        the base can't be served
└── LoopEnded          the loop was closed, or broke
"""

from __future__ import annotations


class ServingError(Exception):
    """Something that the decode loop refuses."""


class QueueFull(ServingError):  # noqa: N818 - the name says what is the case, as those below
    """As many questions wait as may."""


class TooLong(ServingError):  # noqa: N818
    """A prompt with its answer is longer than the base's context, or than its memory allows."""


class BadQuestion(ServingError):  # noqa: N818
    """A question that can't be asked of this base, such as a token that its vocabulary lacks."""


class NotLoaded(ServingError):  # noqa: N818
    """No version of this name is loaded."""


class NameTaken(ServingError):  # noqa: N818
    """A name is loaded from another folder: versions never change."""


class AdapterRefused(ServingError):  # noqa: N818
    """A version can't be served over this base."""


class BaseRefused(ServingError):  # noqa: N818
    """A base can't be served."""


class BaseChanged(ServingError):  # noqa: N818
    """Loading a version changed the base, which must not happen: whatever is answered after it would be wrong."""


class LoopEnded(ServingError):  # noqa: N818
    """The loop was closed, or ended by an error."""
