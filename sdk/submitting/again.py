"""Making a training again, from the record of its version, or continuing a version: base, method and LoRA configuration are
then the version's, the rest is chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from sdk.api import jobs
from sdk.api.transport import Transport
from sdk.errors import Incompatible, InvalidInput, NotFound
from sdk.formats.adapter_files import VOCABULARY_FILES
from sdk.given_values import build
from sdk.pushing.given_base import registered_base
from sdk.schemas.catalog import VersionView
from sdk.schemas.job_requests import BaseChoice, CheckpointPolicy, TrainingRequest
from sdk.schemas.option_types import options_of
from sdk.schemas.recorded import RecordedTraining
from sdk.schemas.template_fields import TemplateFields
from sdk.schemas.training import OF_RECIPE, TrainingSpec
from sdk.submitting.data_preview import locate_rows
from sdk.validation import require_adapter


def refuse_options(ref: str, given: Mapping[str, Any]) -> None:
    """Raise InvalidInput for options that are given in addition to a version whose training is made again."""
    said = [name for name, value in given.items() if value is not None]
    if said:
        verb, them = ("is", "it") if len(said) == 1 else ("are", "them")
        raise InvalidInput(
            f"{' and '.join(said)} of the training of {ref} {verb} in its record; leave {them} out, or start a new training without like",
            param=said[0],
        )


def recorded_request(
    transport: Transport, version: VersionView, adapter: str, checkpoint: CheckpointPolicy
) -> TrainingRequest:
    """Return the request of the training that made a version, for a new version of `adapter`.

    Raises InvalidInput if no training made it, NotFound with the name of what is no longer there, Incompatible if this
    release doesn't know the request.
    """
    require_adapter(
        version.ref, version.kind, "no training made it; name the adapter that was merged into it", param="like"
    )
    request = _request(transport, version)
    for digest in (*request.digests, request.eval_data, request.test_data):
        if digest is not None:
            with _of_like():
                locate_rows(transport, version, digest)
    return request.model_copy(
        update={
            "adapter": adapter,
            "base": _base(transport, version, request.base),
            "checkpoint": checkpoint,
            # A training that went on from a checkpoint ends with the same bytes as one that never stopped.
            "from_checkpoint": None,
            "like": RecordedTraining(ref=version.ref, digest=version.digest),
        }
    )


def _request(transport: Transport, version: VersionView) -> TrainingRequest:
    if version.job is None:
        raise InvalidInput(
            f"{version.ref} was pushed, so its record doesn't say how it was trained; train it again with the options that you know",
            param="like",
        )
    try:
        job = jobs.get(transport, version.job.id)
    except NotFound:
        raise NotFound(
            f"there is no job {version.job.id} (which made {version.ref}) that this token may see; ask an admin for one that may "
            "read its namespace",
            param="like",
        ) from None
    if job.kind != "training":
        raise InvalidInput(
            f"{version.ref} was made by a job of the kind {job.kind}, and only trainings are made again; name a version that was "
            "trained",
            param="like",
        )
    try:
        return TrainingRequest.model_validate(job.request)
    except ValidationError as error:
        first = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise Incompatible(
            f"the training of {version.ref} was requested with a field that this release doesn't know ({first}); upgrade adapterctl"
        ) from None


def _base(transport: Transport, version: VersionView, asked: BaseChoice) -> BaseChoice:
    view = registered_base(transport, version)
    if view is not None:
        return BaseChoice.of(view)
    if asked.fingerprint is None:
        # A base from a hub, at an exact revision.
        return asked
    raise NotFound(
        f"the base {version.base.id} ({version.base.fingerprint[:12]}) of {version.ref} is no longer registered; add it again with: "
        "adapterctl base add FOLDER",
        param="like",
    )


@contextmanager
def _of_like() -> Iterator[None]:
    try:
        yield
    except NotFound as error:
        raise NotFound(error.message, param="like") from None


def continued_spec(
    parent: VersionView, given: Mapping[str, Any], *, rendering: Mapping[str, Any] | None = None
) -> TrainingSpec:
    """Return the spec of a training that continues a version, with the options `given`; `rendering` are those by which its
    conversations were rendered. Raises InvalidInput if one of them contradicts the version.
    """
    require_adapter(
        parent.ref,
        parent.kind,
        "it can't be continued; register it as a base and train an adapter over that",
        param="parent",
    )
    method = given.get("method") if parent.method == "unknown" else parent.method
    if method is None:
        raise InvalidInput(
            f"the record of {parent.ref} doesn't say how it was trained; give method: lora, or qlora for a base in 4 bits",
            param="method",
        )
    lora, recipe = parent.lora, parent.quantization
    kept = [name for name, option in options_of(TrainingSpec).items() if option.kept and name not in OF_RECIPE]
    theirs = {name: TrainingSpec.model_fields[name].default for name in kept}
    theirs |= {name: value for name, value in lora if name in theirs and value not in ({}, [])}
    theirs |= {"method": method, "targets": [*lora.target_modules, *lora.target_parameters]}
    record = parent.record
    if record.add_tokens is not None:
        # The adapter's own list has their ids too.
        theirs |= {"add_tokens": record.add_tokens, "trainable_token_indices": record.trainable_token_indices}
    elif any(file.path in VOCABULARY_FILES for file in parent.files):
        raise InvalidInput(
            f"{parent.ref} came with a tokenizer of its own, and its record doesn't say which tokens that adds; register the base with "
            "these tokens, and continue over that",
            param="parent",
        )
    if recipe is not None and recipe.storage_dtype is None and given.get("method", method) == "qlora":
        theirs |= {"quant_type": recipe.type, "double_quant": recipe.double_quant or recipe.type == "int8"}
    if parent.training:
        # With another template, the matrices would go on from what they never saw.
        theirs |= dict.fromkeys(TemplateFields.model_fields) | dict(rendering or {})
    own, asked = (
        build(TrainingSpec, **values) for values in ({**theirs}, {"dropout": lora.dropout, **theirs, **given})
    )
    for name in theirs:
        if name in given and getattr(asked, name) != getattr(own, name):
            raise InvalidInput(
                f"{parent.ref} keeps its {name}, {str(getattr(own, name))[:80]}, when it is continued; leave {name} out",
                param=name,
            )
    return asked
