"""Answers as plain values."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import httpx
from pydantic import TypeAdapter

from sdk.schemas.artifacts import Transfer


def plain(said: Any) -> Any:
    """What was answered, as JSON has it."""
    return TypeAdapter(Any).dump_python(said, mode="json")


def keyed(key: str | None) -> dict[str, str] | None:
    """The headers of a request that is to be done once."""
    return None if key is None else {"Idempotency-Key": key}


def fetched(found: Sequence[Transfer]) -> dict[str, str]:
    """What is really under these locations: claimed digest to that of the bytes."""
    bytes_of = {}
    # Reading the certificates of all authorities, which nobody shows here, would take longer than all else.
    with httpx.Client(timeout=30, trust_env=False, verify=False) as client:
        for transfer in found:
            answer = client.get(transfer.url, headers=transfer.headers)
            bytes_of[transfer.sha256] = (
                hashlib.sha256(answer.content).hexdigest() if answer.is_success else f"{answer.status_code}, no bytes"
            )
    return bytes_of
