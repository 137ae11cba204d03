"""What comes from the broker: hints from the registry, and nothing else. Other messages are dropped before Celery sees them.

Celery would treat any message as a task: some raise in its event loop and end the worker, the rest stay unacknowledged
and, with one message at a time, block the next.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable
from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis

from workers.settings import QUEUES

#: The registry's name for its only task.
TASK = "adapterctl.work"
#: A hint contains an id.
_MOST_BYTES = 16_384

_log = logging.getLogger(__name__)


def is_hint(message: Any) -> bool:
    """Whether a message is one that the registry sends: the task, with a job's id for now."""
    try:
        headers, properties, body = message["headers"], message["properties"], message["body"]
        args, kwargs, embed = _decoded(body, properties["body_encoding"])
        (hint,) = args
        return (
            message["content-type"] == "application/json"
            and headers["task"] == TASK
            and all(isinstance(text, str) for text in (hint, headers["id"], properties["delivery_tag"]))
            and isinstance(properties["delivery_info"], dict)
            and kwargs == {}
            and not any((embed or {}).values())
            and not any(headers.get(name) for name in ("eta", "expires", "group", "compression", "stamps"))
            and not any(headers.get("timelimit") or ())
        )
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError):
        return False


def _decoded(body: Any, encoding: Any) -> Any:
    if not isinstance(body, str) or len(body) > _MOST_BYTES or encoding != "base64":
        raise ValueError("not the body of a message")
    return json.loads(base64.b64decode(body, validate=True))


class HintChannel(redis.Channel):  # type: ignore[misc]
    """A channel that survives a malformed message."""

    def _brpop_read(self, **options: Any) -> Any:
        return self._but_for_garbage(super()._brpop_read, **options)

    def _receive_one(self, c: Any) -> Any:
        return self._but_for_garbage(super()._receive_one, c)

    def _but_for_garbage(self, take: Callable[..., Any], *given: Any, **options: Any) -> Any:
        """Take a message. It is removed from the broker before it is parsed, so a bad one doesn't come back."""
        try:
            return take(*given, **options)
        except (Empty, *self.connection_errors):
            raise
        except (LookupError, TypeError, ValueError, RecursionError, AttributeError) as error:
            _log.warning("dropped what the broker sent, since it is not a valid message: %s", type(error).__name__)
            return True


class HintTransport(redis.Transport):  # type: ignore[misc]
    """Redis, which delivers only hints from the queues of jobs."""

    Channel = HintChannel

    def _deliver(self, message: Any, queue: str) -> None:
        if queue in QUEUES and not is_hint(message):
            _log.warning("dropped a message in the queue %s that the registry did not send", queue)
            return
        super()._deliver(message, queue)


def install() -> None:
    """Make all connections of this process to Redis deliver only hints."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:{HintTransport.__name__}"
