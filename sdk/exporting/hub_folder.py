"""The folder of an adapter as a model hub shows it: the version's files, the base by its name there, and a card."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.api.datasets import DatasetRoutes
from sdk.api.evaluations import EvaluationRoutes
from sdk.errors import InvalidInput, NotAllowed, NotFound, VerificationFailed, disk_explained
from sdk.exporting.cards import MADE_BY, folder_with_card
from sdk.exporting.model_card import ModelCard, Result, can_be_license, is_hub_name, license_of, render
from sdk.exporting.placing import beside, free, put_in_place
from sdk.formats.adapter_files import CONFIG_FILE
from sdk.formats.base_files import CARD_FILE
from sdk.names import parse_ref
from sdk.objects import Registry, Version
from sdk.pulling.base_name import rewritten
from sdk.pushing.given_base import registered_base
from sdk.schemas.catalog import VersionView
from sdk.schemas.claimed_facts import claimed_facts
from sdk.schemas.claims import ClaimsView
from sdk.schemas.evaluation import is_score
from sdk.schemas.scores import EvaluationView
from sdk.schemas.scores import warning as contaminated
from sdk.schemas.version_facts import facts_of
from sdk.validation import require_adapter

#: What `show` says and nobody at a hub can use: names of this registry's people, jobs and states.
_INTERNAL = frozenset(
    {"ref", "state", "refused", "warning", "aliases", "created", "job", "tags", "description", "notes"}
    # Of what is claimed: who sent it, and the job of the other registry.
    | {"sent by", "claimed job"}
)
#: At most this many scores of each evaluation, and this many evaluations, the newest first.
_MOST_SCORES, _MOST_EVALUATIONS = 16, 10


@dataclass(frozen=True)
class ExportedFolder:
    """A folder that was written and read back."""

    path: Path
    #: What the card calls the base; whether that is a name at a hub.
    base: str
    #: What is to be known before it is sent anywhere, in sentences.
    notes: Sequence[str]


def export_hub_folder(
    registry: Registry,
    ref: str,
    output: str | Path,
    *,
    base_name: str | None,
    license: str | None,  # noqa: A002
) -> ExportedFolder:
    """Write a version into a new folder as it may be sent to a model hub, and read it back; see `VersionsAPI.export_folder`."""
    version = registry.get(str(parse_ref(ref)))
    require_adapter(
        version.ref,
        version.info.kind,
        "its folder has a model card already; write it with: adapterctl jobs result ID -o DIR",
        param="target",
    )
    if license is not None and not can_be_license(license):
        raise InvalidInput(
            f"{license[:80]!a} is not a licence as a hub names it; give a name such as apache-2.0, or other",
            param="license",
        )
    target = free(output, like="DIR")
    base = base_name or _name_at_hub(registry, version.info)
    notes = [*_notes_on_base(version.info, base)]
    licensed = folder_with_card(registry, version.info)
    terms = {"license": license} if license is not None else {} if licensed is None else license_of(licensed)
    if not terms:
        notes.append("the model card names no licence, since the base's isn't known here; give one with --license")
    pulled = registry.puller.pull(f"{version.info.adapter}@sha256:{version.digest}").path
    evaluations = _evaluations(registry, version)
    warned = dict.fromkeys(contaminated(each.contamination, is_base=False) for each in evaluations)
    warnings = [text for text in warned if text is not None]
    with disk_explained(f"writing {target}"), beside(target) as partial:
        written = partial / "adapter"
        _write_files(pulled, written, version.info, base)
        card = _card(version.info, version.claimed, base, evaluations, _names(registry), terms, warnings)
        (written / CARD_FILE).write_text(card, encoding="utf-8")
        put_in_place(written, target)
    return ExportedFolder(target, base, [*notes, *warnings])


def _name_at_hub(registry: Registry, version: VersionView) -> str:
    """What the base is called at a hub, as far as the registry knows."""
    view = registered_base(registry.transport, version)
    location = (view.location if view is not None else None) or ""
    return location.removeprefix("hf://").partition("@")[0] if location.startswith("hf://") else version.base.id


def _notes_on_base(version: VersionView, base: str) -> Iterator[str]:
    if not is_hub_name(base):
        yield (
            f"the base {base} is at no hub, as far as is known here, so nobody can load the adapter over it; give its name with "
            "--base-name ORG/NAME"
        )
    elif version.base.revision is None:
        yield f"which commit of {base} the adapter belongs to is not recorded; its fingerprint is in the model card"


def _write_files(pulled: Path, written: Path, version: VersionView, base: str) -> None:
    """Copy a version's files, with another name for the base in its config, and compare what was written with the version."""
    for file in version.files:
        place = written / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(pulled / file.path, place)
        expected = file.sha256
        if file.path == CONFIG_FILE:
            config = rewritten((pulled / file.path).read_bytes(), base)
            place.write_bytes(config)
            expected = hashlib.sha256(config).hexdigest()
        with place.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != expected:
                raise VerificationFailed(f"{file.path} is not what was written; look at the disk, then export again")


def _evaluations(registry: Registry, version: Version) -> list[EvaluationView]:
    """Return its newest evaluations, one for each set of conditions; none if this client may not read them."""
    try:
        every = EvaluationRoutes(registry.transport)(digest=version.digest)
    except (NotFound, NotAllowed, InvalidInput):
        return []
    newest: dict[str, EvaluationView] = {}
    for each in sorted(every, key=lambda one: one.created_at, reverse=True):
        newest.setdefault(each.key, each)
    return list(newest.values())[:_MOST_EVALUATIONS]


def _names(registry: Registry) -> dict[str, str]:
    """Return what datasets are called, by digest."""
    return {view.digest: view.exact_name or view.digest[:12] for view in DatasetRoutes(registry.transport)()}


def _card(
    version: VersionView,
    claims: ClaimsView | None,
    base: str,
    evaluations: Sequence[EvaluationView],
    names: Mapping[str, str],
    terms: Mapping[str, str],
    warnings: Sequence[str],
) -> str:
    made: list[tuple[str, str]] = []
    for name, value in facts_of(version, None, size=lambda count: f"{count / 1e6:.1f} MB"):
        if name not in _INTERNAL:
            made.append((name or "also", ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    if version.dataset is not None:
        made.append(("datasets", ", ".join(names.get(digest, digest[:12]) for digest in version.dataset.digests)))
    if claims is not None:
        made += [(name, str(value)) for name, value in claimed_facts(claims, published=True) if name not in _INTERNAL]
    task = "text-classification" if version.lora.task_type == "SEQ_CLS" else "text-generation"
    return render(
        ModelCard(
            title=f"{version.adapter} v{version.number}",
            base=base,
            relation="adapter",
            library="peft",
            tags=["lora"],
            task=task,
            made=[("version", version.ref), *made, MADE_BY],
            read_back=[
                (
                    "files",
                    f"{len(version.files)}, each by its SHA-256; the config's name of the base is the model card's",
                )
            ],
            loading=[
                "from peft import AutoPeftModelForCausalLM"
                if task == "text-generation"
                else "from peft import AutoPeftModelForSequenceClassification",
                "",
                'folder = "."  # where this file is, or the name at the hub',
                f"model = AutoPeftModelFor{'CausalLM' if task == 'text-generation' else 'SequenceClassification'}.from_pretrained(folder)",
            ],
            license=terms,
            warnings=[*dict.fromkeys((*version.warnings, *warnings))],
            results=[result for each in evaluations for result in _results(each, names)],
        )
    )


def _results(evaluation: EvaluationView, names: Mapping[str, str]) -> Iterator[Result]:
    scores: list[tuple[str, Any]] = [
        (name, value) for name, value in sorted(evaluation.metrics.items()) if is_score(name)
    ]
    for name, value in scores[:_MOST_SCORES]:
        yield Result(names.get(evaluation.dataset, evaluation.dataset[:12]), name, value, evaluation.precision)
