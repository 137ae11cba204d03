"""What a job's rows are for, by what was said when they were registered; the worker checks the rows themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy.orm import Session

from registry.catalog.models import Version
from registry.datasets.finding import find_dataset
from registry.db.stored_json import table
from registry.errors import Invalid
from registry.jobs.subjects import Subject, dataset_use
from registry.principal import Principal
from sdk.formats.objectives import (
    WITHOUT_COMPLETIONS,
    LossOn,
    Objective,
    ObjectiveError,
    objective_of,
    resolve_loss_on,
    resolve_objective,
)
from sdk.schemas.evaluation import EvaluationSpec, no_completions
from sdk.schemas.held_out import no_held_out
from sdk.schemas.job_requests import TrainingRequest
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import DatasetUse
from sdk.schemas.watch_fields import no_prompts


def pin_objective(
    session: Session, spec: TrainingSpec, digests: Iterable[tuple[str, str]], who: Principal, namespace: str
) -> Objective | None:
    """Return the objective of a training on datasets, given with the fields that name them; None if neither it nor they
    say one. Raises Invalid if they disagree.
    """
    asked = spec.objective
    for field, digest in digests:
        shape = _shape(session, digest, spec.columns, who, namespace, param=field)
        if shape is not None:
            try:
                asked = resolve_objective(asked, shape)
            except ObjectiveError as error:
                raise Invalid(f"{error}; leave objective out, or give other rows", param="objective") from error
            require_loss_on(spec.loss_on, shape)
    return asked


def require_loss_on(loss_on: LossOn | None, shape: str) -> None:
    """Raise Invalid for a loss on something that rows of this shape don't have."""
    try:
        resolve_loss_on(loss_on, shape)
    except ObjectiveError as error:
        raise Invalid(str(error), param="loss_on") from error


#: Shapes of rows of which each is one sample; a text or a conversation may be several.
_ONE_SAMPLE = frozenset({"prompt", "prompt-completion", "preference", "unpaired-preference", "text-label"})


def require_watchable(
    session: Session, request: TrainingRequest, data: Sequence[str], who: Principal, namespace: str
) -> None:
    """Raise Invalid for looks without held-out rows, answers to prompts that these don't have, and looks that would come
    only after the last step of a training on the datasets `data`.
    """
    spec = request.spec
    if spec.of_looks and request.eval_data is None and spec.hold_out is None:
        raise Invalid(no_held_out(spec.of_looks), param=f"spec.{spec.of_looks[0]}")
    shape = _shape(session, request.eval_data or request.data, spec.columns, who, namespace)
    if spec.samples and shape in WITHOUT_COMPLETIONS:
        raise Invalid(no_prompts(shape), param="spec.samples")
    if spec.look_steps is None:
        return
    rows = [find_dataset(session, digest, who, prefer=namespace).row for digest in dict.fromkeys(data)]
    counted = all(row.shape in _ONE_SAMPLE and row.columns == spec.columns and row.rows for row in rows)
    steps = spec.steps_over(sum(row.rows or 0 for row in rows))
    if counted and not request.is_weighted and (said := spec.clash_of_watching(steps)):
        raise Invalid(said, param="spec.eval_every")


def _shape(
    session: Session, digest: str, columns: str | None, who: Principal, namespace: str, *, param: str = "data"
) -> str | None:
    """Return the shape of rows if they are read by these columns; None if nobody has said it."""
    row = find_dataset(session, digest, who, prefer=namespace, param=param).row
    # If it is read by other columns than it was registered with, it has another shape.
    return row.shape if row.columns == columns else None


def is_classifier(adapter: Version | Subject) -> bool:
    """Whether an adapter tells labels apart."""
    return bool(table(adapter.lora).get("task_type") == "SEQ_CLS")


def require_labels(session: Session, version: Version) -> None:
    """Raise Invalid for a classification whose labels nobody has recorded."""
    _require_labels(_named(version), dataset_use(session, version))


def _require_labels(named: str, use: DatasetUse | None) -> None:
    if use is None or use.labels is None:
        raise Invalid(
            f"the labels of {named} are not recorded, since only a training in this registry records "
            "them; use it with PEFT",
            param="ref",
        )


def require_rows_for(
    session: Session,
    subjects: Sequence[Subject | None],
    digest: str,
    spec: EvaluationSpec,
    who: Principal,
    namespace: str,
) -> None:
    """Raise Invalid if a dataset can't score one of these adapters; None stands for a bare base."""
    shape = _shape(session, digest, spec.columns, who, namespace)
    if shape is not None:
        require_loss_on(spec.loss_on, shape)
    if (shape in WITHOUT_COMPLETIONS or spec.generate_rows == 0) and (said := no_completions(spec)):
        raise Invalid(said, param="metrics" if spec.asked_of_texts else "max_thought_tokens")
    for subject in subjects:
        classifier = subject is not None and is_classifier(subject)
        if subject is not None and classifier:
            _require_labels(subject.ref, subject.use)
        if shape is None or (objective_of(shape) == "classify") == classifier:
            continue
        what = "a bare base" if subject is None else subject.ref
        does = "is a classifier" if classifier else "is not a classifier"
        raise Invalid(f"{what} {does}, but these are {shape} rows; give matching rows, or leave it out", param="data")


def _named(version: Version) -> str:
    return f"{version.adapter.name}@v{version.number}"
