"""The path at which the API begins: for its typed calls, for a pull that loads none of them, and for servers."""

from __future__ import annotations

#: The API's routes are below it.
API = "/api/v1"
