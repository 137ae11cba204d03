"""A merged model as a version: whether it may become one, and its record, which follows from the job and from its
adapter.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.artifacts.manifests import read_manifest
from registry.catalog.bases.finding import files_of, find_base
from registry.catalog.models import Version
from registry.catalog.publishing.merged_models import MergedFrom
from registry.catalog.versions.finding import exact_ref, find_version, parse_ref, space_of
from registry.catalog.versions.kinds import require_name_of_kind
from registry.catalog.versions.lifecycle import VersionState
from registry.catalog.versions.norms import record_of
from registry.errors import Conflict, Invalid, Verification
from registry.jobs.lifecycle import UNFINISHED
from registry.jobs.models import Job
from registry.jobs.objectives import is_classifier
from registry.principal import SYSTEM
from sdk.formats.adapter_files import HOLDS_EMBEDDINGS
from sdk.formats.base_files import TOKENIZER_FILES
from sdk.lora.trained_tokens import highest_token
from sdk.schemas.catalog import Parent, Publication
from sdk.schemas.job_requests import MergeRequest
from sdk.schemas.manifest import Manifest
from sdk.schemas.version_records import MergeRecord
from sdk.schemas.work import MergeResult

#: Kinds of job whose subject is the name that gets a version, with their names in sentences.
_MAKING_ADAPTERS = {"training": "training", "combine": "combination"}
_TOKENS = re.compile(re.escape(HOLDS_EMBEDDINGS) + r"([0-9]{1,9}) tokens")


class SettledMerge(NamedTuple):
    """What to record about a merged model, and what admission checks its files against."""

    publication: Publication
    made: MergedFrom
    #: Which parts of the record only the worker stated.
    reported: list[str]


def require_registrable(session: Session, version: Version, name: str) -> None:
    """Raise Invalid or Conflict if the model that a version is merged into can't become a version of `name`."""
    ref, namespace = exact_ref(version), version.adapter.namespace
    if space_of(name) != namespace:
        # Everybody who may see the model would see its adapter's name in it.
        whose = "without a namespace" if namespace == "-" else f"of the namespace {namespace}, as {namespace}/NAME"
        raise Invalid(
            f"{ref} is merged into a version of its own namespace; register it under a name {whose}",
            param="register_as",
        )
    if version.state == VersionState.QUARANTINED:
        raise Invalid(
            f"{ref} is quarantined, and what is merged from it can't be registered; an admin may let it be a version with: "
            f"adapterctl release {ref}",
            param="register_as",
        )
    _require_free(session, name)


def _require_free(session: Session, name: str) -> None:
    """Raise Conflict for a name that has adapters, or that an unfinished job will give to one, which must not find it
    taken.
    """
    require_name_of_kind(session, name, "merged", param="register_as")
    making = (Job.subject == name, Job.kind.in_(_MAKING_ADAPTERS), Job.state.in_(UNFINISHED))
    job = session.execute(select(Job.id, Job.kind).where(*making).limit(1)).first()
    if job is not None:
        raise Conflict(
            f"job {job.id}, a {_MAKING_ADAPTERS[job.kind]}, is to make a version of {name}, so no merged model becomes one; choose "
            f"another name, such as {name}-merged",
            param="register_as",
        )


def settle(session: Session, request: MergeRequest, merge: MergeResult, name: str) -> SettledMerge:
    """Return what to record. Raises Verification for a model that was not read back, NotFound, Conflict."""
    version = find_version(session, parse_ref(request.ref), SYSTEM)
    _require_free(session, name)
    report = merge.report
    if (found := report.read_back) is None:
        raise Verification(
            "the worker has read nothing of the merged model back, so that it can't be registered; upgrade the worker",
            param="merge.report",
        )
    of_files = {f"read_back_{name}": value for name, value in found}
    record = MergeRecord.model_validate({"merge_onto": report.onto, "merge_dtype": report.dtype, **of_files})
    publication = Publication.model_validate(
        {
            "adapter": name,
            "upload": merge.upload,
            "manifest": merge.manifest,
            # The configuration and the method are those of the merged adapter.
            "lora": record_of(version),
            "method": version.method,
            "training": record.flat(),
            "metrics": report.metrics,
            "libraries": report.libraries,
            "parents": [Parent(ref=exact_ref(version), relation="merged-from")],
            "signature": merge.signature,
        }
    )
    reported = [*(key for key in ("libraries", "metrics") if getattr(report, key))]
    left_open = [key for key in ("dtype", "onto") if getattr(request.spec, key) == "auto"]
    read_back = sorted(key for key in record.flat() if key.startswith("read_back_"))
    reported += [f"training.{key}" for key in (*(f"merge_{key}" for key in left_open), *read_back)]
    tokens = next((said[1] for warning in version.warnings or [] if (said := _TOKENS.match(warning))), None)
    made = MergedFrom(
        classifies=is_classifier(version),
        tensors=found.tensors,
        vocabulary=None if tokens is None else int(tokens),
        rows=highest_token(publication.lora.trainable_token_indices) + 1,
        tokenizer=_tokenizer(session, version),
    )
    return SettledMerge(publication, made, reported)


def _tokenizer(session: Session, version: Version) -> dict[str, frozenset[str]] | None:
    """The SHA-256 that each tokenizer file may have: the base's, or the adapter's; None if the base's are not
    stored.
    """
    base = files_of(session, find_base(session, version.base.fingerprint, version.adapter.namespace))
    if base is None:
        return None
    manifests: list[Manifest] = [read_manifest(session, base), read_manifest(session, version.digest)]
    found: dict[str, set[str]] = {}
    for manifest in manifests:
        for file in manifest.files:
            if file.path in TOKENIZER_FILES:
                found.setdefault(file.path, set()).add(file.sha256)
    return {name: frozenset(digests) for name, digests in found.items()}
