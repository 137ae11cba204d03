"""Calls to an S3 store: how long to wait for them, how many at once, and what their errors become.

The store's library tries a call up to four times and waits for each try. Here a call has one deadline for all of them:
a quarter of it to connect, half of it for the answer, and no try begins after the first quarter.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, HTTPClientError, ReadTimeoutError

from registry.deadlines import CircuitBreaker, Places
from registry.observed import OBSERVED
from registry.pools import Pool
from registry.storage.errors import StorageSilent, StorageUnavailable
from registry.storage.protocol import S3Options

#: How many connections to the store stay open while nobody uses them, at least.
_KEPT = 32
_POOL = Pool(
    "calls to the S3 store",
    waits="threads of lanes and views; 0.5 s, then they are refused",
    at_once="`REGISTRY_STORAGE_CALLS` (32)",
    item="one call, not its bytes; `REGISTRY_STORAGE_DEADLINE_S` (9 s)",
    share="none is needed: who calls has had its turn, and lanes have fewer places together",
)


class Calls:
    """The way to one bucket."""

    def __init__(self, bucket: str, options: S3Options) -> None:
        self._bucket = bucket
        self._deadline_s = options.deadline_s
        self._breaker = CircuitBreaker(f"The bucket {bucket!r}", StorageUnavailable)
        self._places = Places(_POOL, options.at_once, f"The bucket {bucket!r}", StorageUnavailable)
        self._present = threading.local()

    def config(self, options: S3Options, *, read_s: float | None = None) -> Config:
        """The library's settings for a client; `read_s` is how long it waits if nothing comes."""
        return Config(
            # The default in us-east-1 signs URLs the old way, which binds neither size nor digest nor no-overwrite.
            signature_version="s3v4",
            s3={"addressing_style": options.addressing_style},
            retries={"mode": "standard", "total_max_attempts": 4},
            request_checksum_calculation=options.checksum_mode,
            response_checksum_validation=options.checksum_mode,
            connect_timeout=self._deadline_s / 4,
            read_timeout=self._deadline_s / 2 if read_s is None else read_s,
            max_pool_connections=max(_KEPT, options.at_once),
        )

    def limit(self, client: Any) -> None:
        """Make sure that a client doesn't begin another try of a call whose time is nearly over."""
        # The first handler with an answer decides. One that returns None leaves it to the others.
        client.meta.events.register_first("needs-retry.s3", self._is_late)

    def _is_late(self, **_given: Any) -> bool | None:
        late = time.monotonic() - self._present.began > self._deadline_s / 4
        return False if late else None

    @contextmanager
    def answered(self) -> Iterator[None]:
        """Make one call in the block.

        Raises StorageUnavailable for errors of the store, except for the answers whose meaning the caller knows, and if
        the store doesn't answer.
        """
        with self._breaker.asking(), self._places.taken(), _timed(), self.explained():
            self._present.began = time.monotonic()
            yield

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn the library's errors into StorageUnavailable, except for the answers whose meaning the caller knows."""
        try:
            yield
        except ClientError as error:
            status = status_of(error)
            code = error.response.get("Error", {}).get("Code", "no code")
            if status in {404, 409, 412} and code != "NoSuchBucket":
                raise
            if status in {401, 403}:
                advice = "Check the registry's keys, and that their policy allows reading, writing and listing."
            else:
                advice = "Check the store's health and free space, then try again."
            raise StorageUnavailable(
                f"The bucket {self._bucket!r} answered {status} ({code}) to {error.operation_name}. {advice}"
            ) from error
        except (ConnectTimeoutError, ReadTimeoutError) as error:
            raise StorageSilent(f"The bucket {self._bucket!r} has not answered in time.") from error
        except (BotoCoreError, HTTPClientError, OSError) as error:
            # The library's messages name the endpoint but never a signed URL or a key.
            raise StorageUnavailable(
                f"The bucket {self._bucket!r} cannot be used: {error}. "
                "Check REGISTRY_S3_ENDPOINT_URL, the network and the registry's keys."
            ) from error


@contextmanager
def _timed() -> Iterator[None]:
    """Let monitoring know how long the block took, and whether the store could be used."""
    began, outcome = time.monotonic(), "failed"
    try:
        yield
        outcome = "answered"
    except ClientError:
        # Such as that there is no such blob: an answer.
        outcome = "answered"
        raise
    finally:
        OBSERVED.time("storage_call_duration_seconds", time.monotonic() - began, outcome=outcome)


def status_of(error: ClientError) -> int:
    """The HTTP status of an answer."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
