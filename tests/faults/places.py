"""Registries whose storage is reached through the fault proxy, and adapters for them."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import numpy as np
from faults.plans import Plan
from faults.proxy import FaultProxy
from support import registries
from support.adapters import base_registration, save_adapter
from support.registries import World

from registry.principal import Role
from registry.storage import FolderStorage, S3Options, open_storage
from sdk.client import Client
from sdk.pulling.folder import verify_folder
from sdk.stack.seaweed import SeaweedServer

#: Weights of rank 8 over this base have 200 kB, those of rank 120 have 3 MB.
WIDTH = 1600
MODULES = ("q_proj", "v_proj")
TENSORS = {f"model.layers.0.self_attn.{module}.weight": [WIDTH, WIDTH] for module in MODULES}
RANKS = (4, 8, 24, 60, 120)
BASE = "wide"
#: Small enough that most of these weights are sent in parts to a folder.
PART_BYTES = 300_000
#: S3 joins no smaller parts, so there only weights of this rank, which have 11.5 MB, are sent in parts: one in nine.
S3_PART_BYTES = 5 * 1024 * 1024
S3_RANKS = (*RANKS[:4] * 2, 450)


@dataclass(frozen=True)
class Place:
    """A registry whose clients reach its storage through the proxy only."""

    world: World
    proxy: FaultProxy
    token: str
    #: Blobs above this size are sent in parts.
    part_bytes: int
    #: The ranks among which adapters are made.
    ranks: tuple[int, ...]
    #: The store itself, for those who have its keys; None where it is a folder.
    server: SeaweedServer | None = None

    def client(self, cache: Path) -> Client:
        """A client with this cache."""
        return Client(self.world.url, self.token, cache=cache)

    @contextlib.contextmanager
    def spoiled(self, plan: Plan) -> Iterator[None]:
        """Let the plan happen for the time of a block; afterwards all is well."""
        self.proxy.plan = plan
        try:
            yield
        finally:
            self.proxy.plan = None


@contextlib.contextmanager
def over_seaweed(folder: Path, server: SeaweedServer) -> Iterator[Place]:
    """A registry over SeaweedFS."""
    with FaultProxy() as proxy:
        store = urlsplit(server.url)
        proxy.upstream = (store.hostname or "", store.port or 0)
        options = S3Options(
            endpoint_url=server.url,
            public_endpoint_url=proxy.url,
            region=server.region,
            access_key=server.access_key,
            secret_key=server.secret_key,
        )
        url = f"s3://adapterctl/faults-{uuid.uuid4().hex}"
        storage = open_storage(url, s3=options, part_bytes=S3_PART_BYTES)
        with registries.served(folder, storage_url=url, storage=storage) as world:
            yield _furnished(world, proxy, server)


@contextlib.contextmanager
def over_folder(folder: Path) -> Iterator[Place]:
    """A registry that serves a folder."""
    with FaultProxy() as proxy:
        root = folder / "artifacts"
        storage = FolderStorage(root, public_url=proxy.url, signing_key=bytes(range(32)), part_bytes=PART_BYTES)
        with registries.served(folder, storage_url=root.as_uri(), storage=storage) as world:
            served = urlsplit(world.url)
            proxy.upstream = (served.hostname or "", served.port or 0)
            yield _furnished(world, proxy)


def _furnished(world: World, proxy: FaultProxy, server: SeaweedServer | None = None) -> Place:
    world.admin.bases.register(base_registration(BASE, tensors=TENSORS))
    token = world.token(Role.WRITER)
    if server is None:
        return Place(world, proxy, token, PART_BYTES, RANKS)
    return Place(world, proxy, token, S3_PART_BYTES, S3_RANKS, server)


def make_adapter(to: Path, seed: object, ranks: Sequence[int] = RANKS) -> Path:
    """Write an adapter whose rank, and so its size, and whose numbers the seed chooses."""
    random = Random(f"adapter {seed}")
    rank = random.choice(ranks)
    numbers = np.random.default_rng(random.randrange(2**32))
    tensors = {
        f"base_model.model.model.layers.0.self_attn.{module}.{part}.weight": numbers.random(shape, dtype=np.float32)
        for module in MODULES
        for part, shape in (("lora_A", (rank, WIDTH)), ("lora_B", (WIDTH, rank)))
    }
    return save_adapter(to, tensors=tensors, r=rank, lora_alpha=2 * rank, revision=f"{random.randrange(16**40):040x}")


def is_exact(folder: Path, source: Path, digest: str) -> bool:
    """Whether a pulled folder is whole, is this version, and has the weights that were pushed."""
    weights = "adapter_model.safetensors"
    same = (folder / weights).read_bytes() == (source / weights).read_bytes()
    return verify_folder(folder).digest == digest and same


def leavings(folder: Path) -> list[str]:
    """What a pull must not leave where users look: anything half, and anything beside the adapter's own folder."""
    if not folder.exists():
        return []
    half = [path for path in folder.rglob("*") if ".partial" in path.name]
    return [str(path) for path in {*half, *(path for path in folder.iterdir() if path.name != "adapter")}]
