"""What a job's rows are for, as far as whoever registered them says; the worker looks at the rows themselves."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.orm import Session

from registry.catalog.models import Version
from registry.datasets.finding import find_dataset
from registry.db.stored_json import table
from registry.errors import Invalid
from registry.jobs.sources import dataset_use
from registry.principal import Principal
from sdk.formats.objectives import Objective, ObjectiveError, objective_of, resolve_objective


def pin_objective(
    session: Session, asked: Objective | None, digests: dict[str, str], who: Principal, namespace: str
) -> Objective | None:
    """Return what a training on datasets is for; None if neither it nor they say. Raises Invalid if they disagree."""
    for field, digest in digests.items():
        shape = find_dataset(session, digest, who, prefer=namespace, param=field).shape
        if shape is not None:
            try:
                asked = resolve_objective(asked, shape)
            except ObjectiveError as error:
                raise Invalid(f"{error}; leave objective out, or give other rows", param="objective") from error
    return asked


def is_classifier(version: Version) -> bool:
    """Whether a version tells labels apart."""
    return bool(table(version.lora).get("task_type") == "SEQ_CLS")


def require_labels(session: Session, version: Version) -> None:
    """Raise Invalid for a classification of which nobody has recorded what it tells apart."""
    use = dataset_use(session, version)
    if use is None or use.labels is None:
        raise Invalid(
            f"the labels of {_named(version)} are not recorded, since only a training in this registry records "
            "them; use it with PEFT",
            param="ref",
        )


def require_rows_for(
    session: Session, versions: Sequence[Version | None], digest: str, who: Principal, namespace: str
) -> None:
    """Raise Invalid if a dataset can't score one of these versions; None stands for a bare base."""
    shape = find_dataset(session, digest, who, prefer=namespace).shape
    for version in versions:
        classifier = version is not None and is_classifier(version)
        if version is not None and classifier:
            require_labels(session, version)
        if shape is None or (objective_of(shape) == "classify") == classifier:
            continue
        what = "a bare base" if version is None else _named(version)
        does = "is a classifier" if classifier else "is not a classifier"
        raise Invalid(f"{what} {does}, but these are {shape} rows; give matching rows, or leave it out", param="data")


def _named(version: Version) -> str:
    return f"{version.adapter.name}@v{version.number}"
