"""Our registry's server and client beside MLflow's: look-up by alias, publishing, and what a caller waits for.

    python benchmarks/serving.py

MLflow is measured twice: as `mlflow server` runs, where every answer waits some 40 ms for want of TCP_NODELAY, and
cured of that. All servers have two processes and SQLite; the load comes from this process, on the same cores.
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from adapters import seed, store
from load import Exchange, Load, LoadError, drive, get, one, post
from servers import MlflowServer, RegistryServer, environment_of, mlflow_server, mlflow_version, registry_server
from startup import ROOT, Row, peer_environment

from sdk.client import Client

ROUNDS = 5
#: How long each round of look-ups lasts.
SECONDS = 3.0
#: Versions that each round publishes.
VERSIONS = 200
#: Calls of a client in each round.
CALLS = 200
CONNECTIONS = 16
#: Whether a publication first announces its blobs, or names no upload since all of them are stored.
ANNOUNCE = False

_WARM_UP_S = 1.0
_MODELS = "/api/2.0/mlflow/registered-models"
_MODEL_VERSIONS = "/api/2.0/mlflow/model-versions"

#: The three servers, in the order in which a round takes them.
_OURS, _STALLED, _CURED = "ours", "stalled", "cured"
_PEERS = {_STALLED: "`mlflow server` as it is", _CURED: "`mlflow server` cured of its 40 ms stall"}

_GET_OURS = """
from pathlib import Path
from sdk.client import Client
client = Client(sys.argv[2], sys.argv[3] or None, cache=Path(sys.argv[4]))
call = lambda: client.get("bench@production")
"""
_GET_MLFLOW = """
from mlflow import MlflowClient
client = MlflowClient(sys.argv[2], sys.argv[2])
call = lambda: client.get_model_version_by_alias("bench", "production")
"""
_TIMED = """
call()
times = []
for _ in range(int(sys.argv[1])):
    started = time.perf_counter()
    call()
    times.append(1000 * (time.perf_counter() - started))
print(statistics.median(times))
"""


def run(rounds: int = ROUNDS, *, seconds: float = SECONDS, versions: int = VERSIONS, calls: int = CALLS) -> list[Row]:
    """Measure all servers in turn `rounds` times; return one row for each measure and peer. Medians count.

    Raises LoadError where any server refuses a request.
    """
    with ExitStack() as stack:
        ours = stack.enter_context(registry_server())
        mlflow = {name: stack.enter_context(mlflow_server(cured=name == _CURED)) for name in _PEERS}
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        publications = _fill(ours, f"local:{scratch / 'embedded'}", versions, scratch)
        for server in mlflow.values():
            _mlflow_model(server, "bench")
            _send(server.port, post(f"{_MODEL_VERSIONS}/create", {"name": "bench", "source": "s3://bucket/bench"}))
            _send(server.port, post(f"{_MODELS}/alias", {"name": "bench", "alias": "production", "version": "1"}))
        return [
            *_look_up(ours, mlflow, rounds, seconds),
            *_publish(ours, mlflow, rounds, publications, 1),
            *_publish(ours, mlflow, rounds, publications, CONNECTIONS),
            *_clients(ours, mlflow, rounds, calls, scratch),
        ]


# Look-up by alias.


def _look_up(ours: RegistryServer, mlflow: Mapping[str, MlflowServer], rounds: int, seconds: float) -> list[Row]:
    asked = {_OURS: (ours.port, get("/api/v1/resolve?ref=bench@production", token=ours.tokens["reader"]))}
    asked |= {
        name: (server.port, get(f"{_MODELS}/alias?name=bench&alias=production")) for name, server in mlflow.items()
    }

    def load(name: str, for_s: float) -> Load:
        port, request = asked[name]
        endless = (one(request) for _ in itertools.count())
        return drive(port, endless, connections=CONNECTIONS, seconds=for_s).valid()

    for name in asked:
        load(name, _WARM_UP_S)
    loads: dict[str, list[Load]] = {name: [] for name in asked}
    for _ in range(rounds):
        for name, found in loads.items():
            found.append(load(name, seconds))
    note = f"MLflow {mlflow_version()}, {CONNECTIONS} connections, median of {rounds} × {seconds:g} s interleaved"
    return [
        _rates("look-up by alias, requests/s (target 20 ×)", loads, _STALLED, note),
        _rates("look-up by alias, requests/s, peer cured (target 4 ×)", loads, _CURED, note),
    ]


# Publishing metadata over blobs that are stored.


def _publish(
    ours: RegistryServer,
    mlflow: Mapping[str, MlflowServer],
    rounds: int,
    publications: list[dict[str, Any]],
    connections: int,
) -> list[Row]:
    loads: dict[str, list[Load]] = {name: [] for name in (_OURS, *mlflow)}
    # The first round warms up and does not count.
    for turn in range(rounds + 1):
        fresh = f"fresh-{connections}-{turn}"
        work = (_publication(body, fresh, ours.tokens["writer"]) for body in publications)
        found = {_OURS: drive(ours.port, work, connections=connections).valid()}
        _require_all(ours, fresh, len(publications))
        for name, server in mlflow.items():
            _mlflow_model(server, fresh)
            work = (
                one(post(f"{_MODEL_VERSIONS}/create", {"name": fresh, "source": f"s3://bucket/{fresh}/{n}"}))
                for n in range(len(publications))
            )
            found[name] = drive(server.port, work, connections=connections).valid()
        for name, load in found.items():
            if turn:
                loads[name].append(load)
    note = (
        f"{'announce and publish' if ANNOUNCE else 'one request'}, blobs stored already, {len(publications)} versions of"
        f" a fresh adapter, median of {rounds} interleaved"
    )
    what = f"publishing over {connections} connection{'s' if connections > 1 else ''}, versions/s"
    return [
        _rates(f"{what} (target 10 ×)", loads, _STALLED, note),
        _rates(f"{what}, peer cured (target 10 ×)", loads, _CURED, note),
    ]


def _publication(body: dict[str, Any], adapter: str, token: str) -> Exchange:
    """Publish the bytes of a version as one of another adapter."""
    upload = None
    if ANNOUNCE:
        blobs = [{"sha256": file["sha256"], "size_bytes": file["size_bytes"]} for file in body["manifest"]["files"]]
        announced = json.loads((yield post("/api/v1/uploads", {"blobs": blobs}, token=token)))
        if announced["put"]:
            raise LoadError("the registry wants bytes that it has")
        upload = announced["id"]
    yield post("/api/v1/versions", {**body, "adapter": adapter, "upload": upload}, token=token)


def _require_all(ours: RegistryServer, adapter: str, count: int) -> None:
    """Raise LoadError unless each publication became a version of its own."""
    newest = json.loads(_send(ours.port, get(f"/api/v1/resolve?ref={adapter}", token=ours.tokens["reader"])))
    if newest["number"] != count:
        raise LoadError(f"{count} publications became {newest['number']} versions")


# What a caller waits for.


def _clients(
    ours: RegistryServer, mlflow: Mapping[str, MlflowServer], rounds: int, calls: int, scratch: Path
) -> list[Row]:
    here, peers = Path(sys.executable), peer_environment() / "python"
    cache = str(scratch / "cache")
    timed: dict[str, tuple[Path, str, list[str]]] = {
        "http": (here, _GET_OURS, [ours.url, ours.tokens["reader"], cache]),
        "embedded": (here, _GET_OURS, [f"local:{scratch / 'embedded'}", "", cache]),
        **{name: (peers, _GET_MLFLOW, [server.url]) for name, server in mlflow.items()},
        "store": (peers, _GET_MLFLOW, [mlflow[_CURED].store]),
    }
    environment = environment_of(PYTHONPATH=str(ROOT))
    times: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, (python, client, arguments) in timed.items():
            script = f"import statistics, sys, time\n{client}\n{_TIMED}"
            command = [str(python), "-c", script, str(calls), *arguments]
            done = subprocess.run(command, env=environment, cwd=scratch, capture_output=True, text=True, timeout=300)
            if done.returncode:
                raise RuntimeError(f"the client of {name} failed:\n{done.stderr[-2000:]}")
            times[name].append(float(done.stdout.strip().splitlines()[-1]))
    median = {name: statistics.median(found) for name, found in times.items()}
    note = f"median of {calls} calls after the first, then of {rounds} interleaved"
    peer = "peer: `get_model_version_by_alias`"
    return [
        _row("`Client.get` over HTTP, ms", median["http"], median[name], f"{peer}, {_PEERS[name]}; {note}", lower=True)
        for name in mlflow
    ] + [
        _row(
            "embedded `Client.get`, ms (target 3)",
            median["embedded"],
            median["store"],
            f"{peer} on SQLite without a server; {note}",
            lower=True,
        )
    ]


# Rows.


def _rates(what: str, loads: Mapping[str, list[Load]], peer: str, note: str) -> Row:
    def median(name: str, of: Callable[[Load], float]) -> float:
        return statistics.median(of(load) for load in loads[name])

    def latencies(name: str) -> str:
        return f"{median(name, lambda load: load.p50_ms):.1f}/{median(name, lambda load: load.p99_ms):.1f}"

    ours, theirs = (median(name, lambda load: load.per_s) for name in (_OURS, peer))
    said = f"peer: {_PEERS[peer]}; p50/p99 {latencies(_OURS)} ms, peer {latencies(peer)} ms; {note}"
    return _row(what, ours, theirs, said)


def _row(what: str, ours: float, peer: float, note: str, *, lower: bool = False) -> Row:
    ratio = peer / ours if lower else ours / peer
    return {"what": what, "ours": round(ours, 2), "peer": round(peer, 2), "ratio": round(ratio, 2), "note": note}


# What the servers hold.


def _fill(ours: RegistryServer, embedded: str, versions: int, scratch: Path) -> list[dict[str, Any]]:
    """Publish `bench@production` in both registries of ours, and in the served one the versions to publish again."""
    for url, token, folder in ((ours.url, ours.tokens["admin"], "a"), (embedded, None, "b")):
        client = Client(url, token, cache=scratch / "cache")
        seed(client, scratch / folder)
        client.close()
    # Their publisher is the one who publishes them again: blobs are not given to whoever only knows their digests.
    client = Client(ours.url, ours.tokens["writer"], cache=scratch / "cache")
    publications = store(client, "stored", versions, scratch)
    client.close()
    return publications


def _send(port: int, request: bytes) -> bytes:
    """Send one request and return the body of its answer."""
    found = []

    def exchange() -> Exchange:
        found.append((yield request))

    drive(port, iter([exchange()]), connections=1).valid()
    return found[0]


def _mlflow_model(server: MlflowServer, name: str) -> None:
    _send(server.port, post(f"{_MODELS}/create", {"name": name}))


def main() -> None:
    """Print the table."""
    started = time.perf_counter()
    for row in run():
        print(f"{row['what']:<60} {row['ours']:>10} {row['peer']:>10} {row['ratio']:>8}x  {row['note']}")
    print(f"{time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
