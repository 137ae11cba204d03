"""What tests of people share: registries over both databases, clients by role, furnished namespaces."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from sdk.client import Client
from sdk.schemas.catalog import Publication
from sdk.schemas.job_requests import BaseChoice, TrainingRequest
from sdk.schemas.jobs import JobSubmission, JobView
from support import calls
from support.adapters import SPEC, digest, save_adapter

#: Each adapter of the run has bytes of its own.
SEEDS = itertools.count(700_000)


def new_adapter(tmp_path: Path) -> Path:
    seed = next(SEEDS)
    return save_adapter(tmp_path / f"adapter-{seed}", seed)


def package(folder: Path, tmp_path: Path, name: str) -> Publication:
    """What a push says about a folder, before anything is sent."""
    packed = calls.packed(folder)
    return Publication(adapter=name, upload="x" * 32, manifest=packed.manifest, lora=packed.lora)


def training(name: str, data: str) -> JobSubmission:
    base = BaseChoice(id="tiny", fingerprint=digest("tiny: base"))
    return JobSubmission(request=TrainingRequest(adapter=name, base=base, data=data, spec=SPEC))


def submit(client: Client, body: JobSubmission) -> JobView:
    return client.call("POST", "/jobs", JobView, body=body)


@contextmanager
def bare_http(url: str, secret: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {secret}"}, timeout=30) as client:
        yield client


@dataclass
class Place:
    """A namespace with an adapter of two versions, a staging alias, a protected production alias, and a dataset."""

    space: str
    tmp_path: Path
    data: str
    #: A job that waits, if somebody has submitted one.
    job: str = ""

    @property
    def name(self) -> str:
        """The adapter."""
        return f"{self.space}/a"

    def push(self, client: Client) -> None:
        """Publish a new adapter in the namespace."""
        client.push(new_adapter(self.tmp_path), f"{self.space}/n{next(SEEDS)}", base="tiny")


def furnish(admin: Client, space: str, tmp_path: Path, rows: Path) -> Place:
    """Fill a namespace."""
    place = Place(space, tmp_path, admin.datasets.add(rows, namespace=space).digest)
    for _ in range(2):
        admin.push(new_adapter(tmp_path), place.name, base="tiny")
    admin.set_alias(place.name, "staging", 1)
    admin.set_alias(place.name, "production", 1)
    admin.aliases.protect(f"{space}/*", "production")
    return place
