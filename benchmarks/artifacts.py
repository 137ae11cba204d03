"""Adapters to and from a SeaweedFS: `adapterctl pull` and `push` beside `aws s3 cp`, MLflow and curl.

    python benchmarks/artifacts.py [ROUNDS]

Whole processes over one store. The registry, MLflow's server and the store run on the same cores as what is timed.
"""

from __future__ import annotations

import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from loras import LARGE, USUAL, WEIGHTS_FILE, Shape
from servers import environment_of, mlflow_server, mlflow_version, peer_version, registry_server
from startup import ROOT, Row, peer_environment

from sdk.client import Client
from sdk.stack.seaweed import SeaweedServer

# What counts the bytes there is the tests' own.
sys.path.append(str(ROOT / "tests"))

from faults.proxy import FaultProxy

ROUNDS = 7
#: Processes that pull one version at once.
PULLERS = 16

_BUCKET = "bench"
_HERE = Path(sys.executable).parent
_LIMIT_S = 300
#: Starts a command as a small process does, since a large one would pass for the command's own memory; prints its peak.
_WATCH = """
import os, sys
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
_, status, used = os.wait4(pid, 0)
print(used.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
sys.exit(os.waitstatus_to_exitcode(status))
"""
_LOG_TO_MLFLOW = """
import sys
from mlflow import MlflowClient
client = MlflowClient(sys.argv[1])
run = client.create_run("0").info.run_id
client.log_artifact(run, sys.argv[2])
print(run)
"""


@dataclass(frozen=True)
class _Batch:
    """Commands that are started at once and timed until the last has ended."""

    commands: list[list[str]]
    environment: dict[str, str] = field(default_factory=dict)
    #: What they leave, and its size.
    left: Mapping[Path, int] = field(default_factory=dict)


#: Prepares a round's batch in a new folder, which is not timed.
_Make = Callable[[Path], _Batch]


@dataclass
class _Site:
    """One store, a registry and MLflow over it, and the commands that use them."""

    seaweed: SeaweedServer
    scratch: Path
    environment: dict[str, str]
    database_url: str
    client: Client
    mlflow_run: str = ""
    _seeds: Iterator[int] = field(default_factory=itertools.count)

    def ours(self, *arguments: str | Path) -> list[str]:
        """Return a command of ours."""
        return [str(_HERE / "adapterctl"), *map(str, arguments)]

    def aws(self, source: str | Path, target: str | Path, *, endpoint: str | None = None) -> list[str]:
        """Return `aws s3 cp` as it is, but that it draws no progress."""
        command = [str(peer_environment() / "aws"), "--endpoint-url", endpoint or self.seaweed.url]
        return [*command, "s3", "cp", "--no-progress", str(source), str(target)]

    def mlflow(self, target: Path, *artifact: str) -> list[str]:
        """Return MLflow's download."""
        return [str(peer_environment() / "mlflow"), "artifacts", "download", *artifact, "--dst-path", str(target)]

    def new_adapter(self, shape: Shape, folder: Path) -> Path:
        """Write an adapter that nobody has seen."""
        return shape.write(folder, next(self._seeds))

    def url(self, ref: str) -> str:
        """A presigned URL of a version's weights."""
        digest = self.client.get(ref).digest
        assert digest is not None
        return max(self.client.versions.locate(digest), key=lambda found: found.size_bytes).url

    def object(self, ref: str) -> str:
        """The object that a version's weights are, as `aws` names it."""
        return f"s3:/{urlsplit(self.url(ref)).path}"


def run(rounds: int = ROUNDS) -> list[Row]:
    """Measure ours and the peers in turn `rounds` times; medians count. Raises RuntimeError where a command fails."""
    with ExitStack() as stack:
        site = _site(stack)
        versions = f"aws-cli {peer_version('awscli')}, MLflow {mlflow_version()}"
        note = f"whole process, SeaweedFS on loopback, {versions}, median of {rounds} interleaved"
        return [
            *_pull(site, rounds, note),
            *_push(site, rounds, note),
            *_at_once(site, rounds, note),
            *_memory(site, f"peak resident memory of the whole process, once each; {versions}"),
        ]


# Pulls and pushes.


def _pull(site: _Site, rounds: int, note: str) -> list[Row]:
    ref, key = "usual@v1", site.object("usual@v1")
    size = (site.scratch / "usual" / WEIGHTS_FILE).stat().st_size
    warm = str(site.scratch / "warm")
    subprocess.run(
        site.ours("pull", ref), env={**site.environment, "ADAPTERCTL_CACHE": warm}, capture_output=True, check=True
    )

    def ours(folder: Path, cache: str | None = None) -> _Batch:
        command = site.ours("pull", ref, "-o", folder / "out")
        return _Batch(
            [command], {"ADAPTERCTL_CACHE": cache or str(folder / "cache")}, {folder / "out" / WEIGHTS_FILE: size}
        )

    def peer(command: Callable[[Path], list[str]]) -> _Make:
        return lambda folder: _Batch([command(folder)], left={folder / WEIGHTS_FILE: size})

    run = ("--run-id", site.mlflow_run, "--artifact-path", WEIGHTS_FILE)
    took = _interleaved(
        site,
        rounds,
        {
            "cold": ours,
            "warm": lambda folder: ours(folder, warm),
            "aws": peer(lambda folder: site.aws(key, folder / WEIGHTS_FILE)),
            "mlflow": peer(lambda folder: site.mlflow(folder, *run)),
            "curl": peer(lambda folder: ["curl", "-sSf", "-o", str(folder / WEIGHTS_FILE), site.url(ref)]),
        },
    )
    more = took["cold"] - took["curl"]
    cold, warm = "pull of 50 MB, cold cache, s", "pull of 50 MB, cache filled, s"
    return [
        _row(f"{cold} (target 2 ×)", took["cold"], took["aws"], f"peer: `aws s3 cp` of the same object; {note}"),
        _row(
            f"{cold} (target 6.7 ×)",
            took["cold"],
            took["mlflow"],
            f"peer: `mlflow artifacts download`, through its server from the same store as by default; {note}",
        ),
        _row(
            f"{cold} (target: 0.35 s more at most)",
            took["cold"],
            took["curl"],
            f"{more:.2f} s more; peer: `curl -o` of a presigned URL, which checks nothing; {note}",
        ),
        _row(f"{warm} (target 0.25)", took["warm"], took["aws"], f"peer: `aws s3 cp`, which keeps no cache; {note}"),
    ]


def _push(site: _Site, rounds: int, note: str) -> list[Row]:
    def ours(folder: Path) -> _Batch:
        adapter = site.new_adapter(USUAL, folder / "adapter")
        command = site.ours("push", adapter, "pushed", "--base", USUAL.base)
        return _Batch([command], {"ADAPTERCTL_CACHE": str(folder / "cache")})

    def aws(folder: Path) -> _Batch:
        adapter = site.new_adapter(USUAL, folder / "adapter")
        return _Batch([site.aws(adapter / WEIGHTS_FILE, f"s3://{_BUCKET}/pushed/{folder.name}")])

    took = _interleaved(site, rounds, {"ours": ours, "aws": aws})
    said = "new bytes each time; ours until the registry has hashed and judged them; peer: `aws s3 cp`"
    return [_row("push of 50 MB, s (target 1 ×)", took["ours"], took["aws"], f"{said}; {note}")]


def _at_once(site: _Site, rounds: int, note: str) -> list[Row]:
    ref, key = "usual@v1", site.object("usual@v1")
    size = (site.scratch / "usual" / WEIGHTS_FILE).stat().st_size

    def ours(folder: Path) -> _Batch:
        outs = [folder / f"out-{number}" for number in range(PULLERS)]
        commands = [site.ours("pull", ref, "-o", out) for out in outs]
        cache = {"ADAPTERCTL_CACHE": str(folder / "cache")}
        return _Batch(commands, cache, {out / WEIGHTS_FILE: size for out in outs})

    def aws(folder: Path, endpoint: str | None = None) -> _Batch:
        outs = [folder / f"out-{number}" for number in range(PULLERS)]
        return _Batch([site.aws(key, out, endpoint=endpoint) for out in outs], left=dict.fromkeys(outs, size))

    took = _interleaved(site, rounds, {"ours": ours, "aws": aws})
    with _counted(site) as (proxy, environment):
        bytes_of = {}
        for name, make in {"ours": ours, "aws": lambda folder: aws(folder, proxy.url)}.items():
            passed = [0]
            proxy.forget()
            proxy.on_bytes = passed.append
            with _folder(site) as folder:
                _time(site, make(folder), environment)
            bytes_of[name] = max(passed)
    what = f"{PULLERS} pulls at once of one version of 50 MB, one empty cache"
    peer = f"peer: {PULLERS} × `aws s3 cp`"
    total = sum(path.stat().st_size for path in (site.scratch / "usual").iterdir())
    counted = "counted by a proxy before the store, once each"
    return [
        _row(f"{what}, s until the last", took["ours"], took["aws"], f"{peer}; {note}"),
        _row(
            f"{what}, copies that leave the store (target 1)",
            bytes_of["ours"] / total,
            bytes_of["aws"] / total,
            f"{bytes_of['ours']:,} bytes; {peer}; {counted}",
        ),
    ]


@contextmanager
def _counted(site: _Site) -> Iterator[tuple[FaultProxy, dict[str, str]]]:
    """A second server of the same registry whose URLs lead through a proxy, which does no harm and counts."""
    host = urlsplit(site.seaweed.url)
    with FaultProxy() as proxy:
        proxy.upstream = (str(host.hostname), int(host.port or 80))
        settings = {**_storage(site.seaweed), "REGISTRY_S3_PUBLIC_ENDPOINT_URL": proxy.url}
        with registry_server(site.database_url, **settings) as server:
            yield proxy, {"ADAPTERCTL_URL": server.url, "ADAPTERCTL_TOKEN": server.tokens["writer"]}


# Memory.


def _memory(site: _Site, note: str) -> list[Row]:
    adapter = site.new_adapter(LARGE, site.scratch / "large")
    weights = adapter / WEIGHTS_FILE
    gb = f"{weights.stat().st_size / 1e9:.1f} GB"
    cache = {"ADAPTERCTL_CACHE": str(site.scratch / "large-cache")}
    out = site.scratch / "large-out"
    peak = {
        "push": _peak(site, site.ours("push", adapter, "large", "--base", LARGE.base), cache),
        "upload": _peak(site, site.aws(weights, f"s3://{_BUCKET}/large")),
        "pull": _peak(site, site.ours("pull", "large@v1", "-o", out), cache),
    }
    shutil.rmtree(site.scratch / "large-cache")
    shutil.rmtree(out)
    peak["download"] = _peak(site, site.aws(f"s3://{_BUCKET}/large", out))
    shutil.rmtree(adapter)
    return [
        _row(f"{what} of {gb}, MB (target 80)", peak[what] / 1e6, peak[peer] / 1e6, f"peer: `aws s3 cp`; {note}")
        for what, peer in (("pull", "download"), ("push", "upload"))
    ]


def _peak(site: _Site, command: list[str], more: Mapping[str, str] | None = None) -> int:
    """Run a command and return the most bytes that were resident."""
    watched = [sys.executable, "-I", "-S", "-c", _WATCH, *command]
    done = subprocess.run(
        watched, env={**site.environment, **(more or {})}, capture_output=True, text=True, timeout=_LIMIT_S
    )
    if done.returncode:
        raise RuntimeError(f"{command} failed:\n{done.stderr[-2000:]}")
    return int(done.stdout.split()[-1])


# Timing.


def _interleaved(site: _Site, rounds: int, batches: Mapping[str, _Make]) -> dict[str, float]:
    """Return the median seconds of each."""
    times: dict[str, list[float]] = {name: [] for name in batches}
    # The first round warms up and does not count.
    for turn in range(rounds + 1):
        for name, make in batches.items():
            with _folder(site) as folder:
                took = _time(site, make(folder))
            if turn:
                times[name].append(took)
    return {name: statistics.median(found) for name, found in times.items()}


def _time(site: _Site, batch: _Batch, more: Mapping[str, str] | None = None) -> float:
    # Nobody shall wait for what others left in the disk's queue.
    os.sync()
    environment = {**site.environment, **batch.environment, **(more or {})}
    started = time.perf_counter()
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for command in batch.commands
    ]
    # None of them says as much as a pipe holds, unless it fails.
    codes = [process.wait(_LIMIT_S) for process in running]
    took = time.perf_counter() - started
    said = [process.communicate()[1].decode(errors="replace") for process in running]
    for code, text, command in zip(codes, said, batch.commands, strict=True):
        if code:
            raise RuntimeError(f"{command[:4]} failed:\n{text[-2000:]}")
    for path, size in batch.left.items():
        if path.stat().st_size != size:
            raise RuntimeError(f"{batch.commands[0][:4]} left {path.stat().st_size} bytes and not {size}")
    return took


@contextmanager
def _folder(site: _Site) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=site.scratch) as name:
        yield Path(name)


def _row(what: str, ours: float, peer: float, note: str) -> Row:
    return {"what": what, "ours": round(ours, 3), "peer": round(peer, 3), "ratio": round(peer / ours, 2), "note": note}


# What there is to be measured.


def _site(stack: ExitStack) -> _Site:
    """Start everything, and publish an adapter in the registry and in MLflow."""
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    seaweed = SeaweedServer(scratch / "seaweed")
    seaweed.start()
    stack.callback(seaweed.stop)
    seaweed.create_bucket(_BUCKET)
    database_url = f"sqlite:///{scratch / 'registry.sqlite3'}"
    ours = stack.enter_context(registry_server(database_url, **_storage(seaweed)))
    keys = _keys(seaweed)
    mlflow = stack.enter_context(mlflow_server(cured=True, artifacts=f"s3://{_BUCKET}/mlflow", **keys))
    client = Client(ours.url, ours.tokens["admin"], cache=scratch / "seeding")
    stack.callback(client.close)
    environment = environment_of(
        **keys,
        ADAPTERCTL_URL=ours.url,
        ADAPTERCTL_TOKEN=ours.tokens["writer"],
        MLFLOW_TRACKING_URI=mlflow.url,
    )
    site = _Site(seaweed, scratch, environment, database_url, client)
    for shape in (USUAL, LARGE):
        client.bases.register(shape.registration())
    adapter = site.new_adapter(USUAL, scratch / "usual")
    client.push(adapter, "usual", base=USUAL.base)
    log = [str(peer_environment() / "python"), "-c", _LOG_TO_MLFLOW, mlflow.url, str(adapter / WEIGHTS_FILE)]
    done = subprocess.run(log, env=environment, capture_output=True, text=True, check=True)
    site.mlflow_run = done.stdout.split()[-1]
    return site


def _storage(seaweed: SeaweedServer) -> dict[str, str]:
    """The registry's settings."""
    return {
        **_keys(seaweed),
        "REGISTRY_STORAGE_URL": f"s3://{_BUCKET}/registry",
        "REGISTRY_S3_ENDPOINT_URL": seaweed.url,
    }


def _keys(seaweed: SeaweedServer) -> dict[str, str]:
    """What boto3 and its like read, in everybody's environment."""
    return {
        "AWS_ACCESS_KEY_ID": seaweed.access_key,
        "AWS_SECRET_ACCESS_KEY": seaweed.secret_key,
        "AWS_DEFAULT_REGION": seaweed.region,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "MLFLOW_S3_ENDPOINT_URL": seaweed.url,
    }


def main() -> None:
    """Print the table."""
    started = time.perf_counter()
    for row in run(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS):
        print(f"{row['what']:<84} {row['ours']:>9} {row['peer']:>9} {row['ratio']:>7}x  {row['note']}")
    print(f"{time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
