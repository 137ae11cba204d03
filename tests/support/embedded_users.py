"""Many programs that use one registry in a folder at once: each pushes, moves an alias, reads, annotates.

Run as `python embedded_users.py HOME ADAPTER FOLDER`; each folder in FOLDER holds the adapters that one program pushes.
The programs are forked, because sixteen interpreters would spend the test on their imports, and from a process that has
used a registry of its own before: so everything that a first use imports and prepares is there, and all begin at the
same moment. Each prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from sdk.client import Client
from sdk.errors import Conflict
from support.adapters import base_registration
from support.forks import leave
from support.quiet_forks import QuietForks


def use(client: Client, adapter: str, folders: list[Path]) -> dict[str, int]:
    """Push each folder and do what people do then; return how many alias moves were won and lost."""
    done = {"won": 0, "lost": 0}
    client.bases.register(base_registration())
    for n, folder in enumerate(folders):
        pushed = client.push(folder, adapter, base="tiny")
        named = {alias.alias: alias.number for alias in client.aliases(adapter)}.get("live", 0)
        try:
            client.set_alias(adapter, "live", pushed.number or 0, expect=named)
            done["won"] += 1
        except Conflict:
            done["lost"] += 1
        assert client.get(f"{adapter}@sha256:{pushed.digest}").number == pushed.number
        assert client.get(f"{adapter}@live").number is not None
        assert client.versions.annotate(pushed.ref, tags={"round": str(n)}, note=folder.name).ref == pushed.ref
        numbers = [version.number for version in client.versions(adapter)]
        assert numbers == sorted(numbers, reverse=True)
        # Pushing the same bytes again is not a change.
        assert client.push(folder, adapter, base="tiny").number == pushed.number
    return done


def main() -> int:
    """Fork, let all begin, and wait for them; return how many failed."""
    home, adapter, folder = sys.argv[1:]
    places = sorted(Path(folder).iterdir())
    forks = QuietForks()
    with tempfile.TemporaryDirectory() as other, closing(Client(f"local:{other}/home", cache=Path(other))) as client:
        use(client, adapter, sorted(places[0].glob("adapter-*"))[:1])
    waiting, begin = os.pipe()
    children = []
    for place in places:
        pid = forks.fork()
        if pid:
            children.append(pid)
            continue
        os.close(begin)
        os.read(waiting, 1)
        client = Client(f"local:{home}", cache=place / "cache")
        done = use(client, adapter, sorted(place.glob("adapter-*")))
        os.write(1, f"{json.dumps(done)}\n".encode())
        leave(0)
    # A reader sees the end of the pipe once nobody can write to it.
    os.close(begin)
    return sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0 for pid in children)


if __name__ == "__main__":
    sys.exit(main())
