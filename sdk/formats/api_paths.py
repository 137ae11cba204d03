"""Where the API begins: for its typed calls, for a pull that loads none of them, and for servers."""

from __future__ import annotations

#: Below it are the routes of the API.
API = "/api/v1"
