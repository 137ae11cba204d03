"""Which variables of the environment hold secrets: the child gets none of them, and no message shows one.

>>> is_secret("WANDB_API_KEY", "x"), is_secret("URL", "https://me:word@host"), is_secret("HOME", "/home/me")
(True, True, False)
>>> without_secrets("no route to https://me:word@host/api, key=s3cretvalue", {"API_KEY": "s3cretvalue"})
'no route to https://…@host/api, key=…'
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_NAME = re.compile(r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|PASS|KEY|CREDENTIALS?|AUTH|DSN)(_|$)|_PROXY$", re.I)
_VALUE = re.compile(r"://[^/\s]*@")
#: Shorter values are words such as "1" and "true".
_LEAST = 6


def is_secret(name: str, value: str) -> bool:
    """Whether a variable may hold a secret."""
    return _NAME.search(name) is not None or _VALUE.search(value) is not None


def without_secrets(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return a text without the secrets of an environment, and without users and passwords of URLs."""
    values = [value for name, value in environment.items() if len(value) >= _LEAST and is_secret(name, value)]
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, "…")
    return _VALUE.sub("://…@", text)
