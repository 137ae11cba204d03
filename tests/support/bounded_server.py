"""Serves a registry as `adapter-registry serve` does, with other limits of time: fields of `ServerLimits` as JSON, host, port."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace

from registry.door.limits import ServerLimits
from registry.door.serving import serve_within
from registry.settings import Settings

if __name__ == "__main__":
    bounds, host, port = sys.argv[1:]
    os.environ["REGISTRY_PUBLIC_URL"] = f"http://{host}:{port}"
    limits = replace(ServerLimits.of(Settings.from_env()), **json.loads(bounds))
    serve_within(limits, "registry.ops.server_process:app_from_env", host=host, port=int(port), workers=1)
