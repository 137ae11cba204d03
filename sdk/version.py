"""The version of this distribution, and the path of its API.

Reading the version from the installed metadata takes longer than many commands do.
"""

from __future__ import annotations

VERSION = "0.1.0"


#: The API's routes are below it.
API = "/api/v1"
