"""Datasets."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Response

from registry.datasets.service import Datasets
from registry.http.routes import PageOf, Reader, Writer, apart, room, service
from sdk.schemas.artifacts import DatasetRegistration, DatasetView, Transfer
from sdk.schemas.wire import Page

router = room("/datasets", "datasets")

DatasetsDep = Annotated[Datasets, service(Datasets)]

Digest = Annotated[str, Path(max_length=220, description="The digest, at least 12 digits of it, a name, or NAME@v2.")]
#: The namespace in which names are looked up first.
First = Annotated[
    str | None,
    Query(max_length=64, description="The namespace in which a name is looked up first, before all others."),
]
#: The only namespace that counts.
Only = Annotated[
    str | None,
    Query(max_length=64, description="The namespace whose dataset is meant; left out: any that the token may use."),
]
OnlyName = Annotated[bool, Query(description="Remove only the name; refused if the rows have no other.")]


@router.post("", status_code=201)
async def register_dataset(body: DatasetRegistration, datasets: DatasetsDep, who: Writer) -> DatasetView:
    """Record an uploaded dataset."""
    return await apart(datasets.register, dataset=body, who=who)


@router.get("")
def list_datasets(datasets: DatasetsDep, who: Reader, page: PageOf) -> Page[DatasetView]:
    """The datasets that the caller may use, newest first."""
    return datasets.list(who=who, **page)


@router.get("/{digest}")
def get_dataset(digest: Digest, datasets: DatasetsDep, who: Reader, namespace: First = None) -> DatasetView:
    """Return a dataset."""
    return datasets.get(digest, namespace=namespace, who=who)


@router.get("/{digest}/file")
def locate_dataset(digest: Digest, datasets: DatasetsDep, who: Reader, namespace: Only = None) -> Transfer:
    """Return where to fetch the rows from."""
    return datasets.locate(digest, namespace=namespace, who=who)


@router.post("/{digest}/remove", status_code=204, response_class=Response)
def remove_dataset(
    digest: Digest, datasets: DatasetsDep, who: Writer, namespace: Only = None, only_name: OnlyName = False
) -> None:
    """Remove a dataset from a namespace, or from all where the caller may write; versions trained on it still name it. With
    `only_name`, only the name that was given, in each namespace in which the rows have another one.
    """
    datasets.remove(digest, namespace=namespace, only_name=only_name, who=who)
