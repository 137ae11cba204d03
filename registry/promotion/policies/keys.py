"""The public keys of a policy: which they are, whatever else stands in their text."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from registry.errors import Invalid, Unavailable
from sdk.errors import AdapterctlError
from sdk.errors import Unavailable as Missing
from sdk.signing import PublicKey, read_public_keys


def public_key(pem: str, *, param: str | None = None) -> PublicKey:
    """Return the EC public key in a PEM text. Raises Invalid for anything else, Unavailable without `[signing]`."""
    with tempfile.NamedTemporaryFile(prefix="key-", suffix=".pem") as file:
        file.write(pem.encode())
        file.flush()
        try:
            first, *more = read_public_keys(Path(file.name))
        except Missing as error:
            raise Unavailable(error.message) from error
        except AdapterctlError as error:
            raise Invalid(error.message.replace(file.name, "this text"), param=param) from error
    if more:
        raise Invalid("one text has several keys; give each key as an item of signed_by", param=param)
    return first


def checked_keys(pems: Sequence[str]) -> list[str]:
    """Return the keys, each once and written in one way. Raises Invalid, Unavailable."""
    keys = [public_key(pem, param=f"policy.signed_by.{number}") for number, pem in enumerate(pems)]
    return [key.pem.decode() for key in {key.key_id: key for key in keys}.values()]
