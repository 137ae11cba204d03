"""The first step of a publication: what its files are, checked against the version's record and the base."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from sqlalchemy.orm import Session

from registry.artifacts.admission.inspection import ConfigFacts, WeightFacts, inspect_config, inspect_weights
from registry.artifacts.admission.rules import judge
from registry.artifacts.blob_check import Inspection
from registry.artifacts.facts import Facts
from registry.artifacts.manifests import blobs_of
from registry.artifacts.service import Bytes, Sent
from registry.catalog.bases.finding import KnownBase, KnownBases
from registry.catalog.publishing.new_version import Ancestry, NewVersion, ParentEdge
from registry.catalog.versions.finding import find_version, parse_ref
from registry.catalog.versions.kinds import require_adapter
from registry.errors import Invalid, Verification
from registry.principal import Principal
from sdk.formats.adapter_files import (
    CONFIG_FILE,
    RENDERING_FILE,
    SERVING_FILES,
    TEMPLATE_FILE,
    VOCABULARY_FILES,
    WEIGHTS_FILE,
    most_bytes,
)
from sdk.schemas.catalog import Parent, Publication
from sdk.schemas.manifest import Manifest

#: Files that can run something when a library reads them.
_CODE_SUFFIXES = (".bin", ".ckpt", ".dll", ".pickle", ".pkl", ".pt", ".pth", ".py", ".pyc", ".sh", ".so")

#: The part of a recipe that is the base's own, if it is stored in 4 bits; the rest depends on who computed with it.
_OF_THE_BASE = ("method", "type", "double_quant", "block_size", "storage_dtype")


def require_files(manifest: Manifest) -> None:
    """Raise Invalid or Verification for a manifest that can't be an adapter's."""
    if manifest.kind != "adapter":
        raise Invalid(
            "a version of an adapter needs a manifest of the kind 'adapter'; a merged model becomes one with: adapterctl merge "
            "REF --register NAME",
            param="manifest.kind",
        )
    digests = {file.path: file.sha256 for file in manifest.files}
    for required in (CONFIG_FILE, WEIGHTS_FILE):
        if required not in digests:
            raise Verification(
                f"an adapter needs a file {required}; save it with PEFT's save_pretrained", param="manifest"
            )
    refuse_code(manifest)
    if digests[CONFIG_FILE] == digests[WEIGHTS_FILE]:
        raise Verification(f"{CONFIG_FILE} and {WEIGHTS_FILE} are the same bytes; save the adapter again")


def require_rendering(publication: Publication) -> None:
    """Raise Verification if the files for serving are not those of the record."""
    digests = {file.path: file.sha256 for file in publication.manifest.files}
    large = [
        file
        for file in publication.manifest.files
        if file.path in SERVING_FILES and file.size_bytes > most_bytes(file.path)
    ]
    if large:
        raise Verification(
            f"{large[0].path} is longer than {most_bytes(large[0].path) // 1024} KiB; push without it", param="manifest"
        )
    rendering = None if publication.dataset is None else publication.dataset.rendering
    if rendering is None:
        return
    said = hashlib.sha256(rendering.canonical()).hexdigest()
    if digests.get(RENDERING_FILE, said) != said:
        raise Verification(
            f"{RENDERING_FILE} is not the record's dataset.rendering; upgrade the worker", param="manifest"
        )
    # A tokenizer comes with its template, whether rows were rendered by one or not.
    of_tokenizer = not rendering.templates and not digests.keys().isdisjoint(VOCABULARY_FILES)
    if digests.get(TEMPLATE_FILE) not in (None, *rendering.templates) and not of_tokenizer:
        raise Verification(
            f"{TEMPLATE_FILE} is not among the templates in dataset.rendering; upgrade the worker", param="manifest"
        )


def refuse_code(manifest: Manifest) -> None:
    """Raise Verification for a manifest with a file that can run something when a library reads it."""
    for file in manifest.files:
        if file.path.lower().endswith(_CODE_SUFFIXES):
            raise Verification(
                f"{file.path} is pickled or is code, and would run when it is loaded; convert pickled weights with: "
                "adapterctl convert FOLDER, and push without such files",
                param="manifest",
            )


def find_ancestry(session: Session, new: NewVersion, bases: KnownBases) -> Ancestry:
    """Find what a version is based on. Raises NotFound, and Invalid for a parent that is a merged model.

    Its parents are found before it is ready: from then on, its adapter's `latest` is the version itself.
    """
    base: KnownBase = bases.find(session, new.publication.manifest.base_fingerprint, new.namespace)
    parents = [_edge(session, parent, new.who) for parent in new.publication.parents]
    return Ancestry(base, [*([] if new.past is None else new.past.edges), *parents])


def _edge(session: Session, parent: Parent, who: Principal) -> ParentEdge:
    version = find_version(session, parse_ref(parent.ref), who)
    require_adapter(session, version, "named as a parent", param="parents")
    return ParentEdge(version.pk, parent.relation, parent.weight)


def over_its_base(new: NewVersion, ancestry: Ancestry) -> NewVersion:
    """Return a version whose record says how its base is packed, if the base is stored in 4 bits: so nobody else has to
    say it.

    Raises Verification if the record says another type, or none at all.
    """
    packing, publication = ancestry.base.packing, new.publication
    if packing is None:
        return new
    said = publication.quantization
    claimed = "not quantised" if publication.method == "lora" else f"quantised as {said.type}" if said else None
    if claimed not in (None, f"quantised as {packing.type}"):
        raise Verification(
            f"the record says that the base was {claimed}, but base {ancestry.base.brief.id} is stored in {packing.type}; push with "
            "the base that the adapter was trained over, or leave out how it was quantised",
            param="quantization",
        )
    own = {name: getattr(packing, name) for name in _OF_THE_BASE}
    recipe = packing if said is None else said.model_copy(update=own)
    known = {"quantization": recipe, "unknown": [name for name in publication.unknown if name != "quantization"]}
    return replace(new, publication=publication.model_copy(update=known))


def sent_for(new: NewVersion) -> Sent:
    """Which blobs a version is made of, who has sent them, and in which session."""
    return {"upload": new.publication.upload, "blobs": blobs_of(new.publication.manifest), "who": new.who}


def bytes_of(new: NewVersion) -> Bytes:
    """What `Artifacts` verifies, or knows already, and how it looks into the adapter's two files."""
    lora = new.publication.lora
    look = partial(inspect_weights, size_bytes=new.weights.size_bytes, lora=lora)
    return {
        **sent_for(new),
        "inspections": {
            new.config.sha256: Inspection(ConfigFacts, inspect_config),
            new.weights.sha256: Inspection(
                WeightFacts, look, lambda facts: facts.under(lora) if isinstance(facts, WeightFacts) else None
            ),
        },
    }


def weights_of(new: NewVersion, facts: Mapping[str, Facts]) -> WeightFacts:
    """Return what was found in the weights."""
    weights = facts[new.weights.sha256]
    assert isinstance(weights, WeightFacts)
    return weights


def judge_files(new: NewVersion, facts: Mapping[str, Facts], ancestry: Ancestry) -> list[str]:
    """Check what is in the files against the record and the base; return warnings. Raises Verification."""
    config, weights = facts[new.config.sha256], weights_of(new, facts)
    assert isinstance(config, ConfigFacts)
    base, use = ancestry.base, new.publication.dataset
    warnings = judge(
        weights,
        config,
        lora=new.publication.lora,
        base_tensors=base.tensors,
        base_config=base.config,
        labels=None if use is None or use.labels is None else len(use.labels),
        tokenizer=any(file.path in VOCABULARY_FILES for file in new.publication.manifest.files),
    )
    if base.hidden is not None:
        warnings.append(f"the adapter's shapes could not be checked: base {base.brief.id} {base.hidden}")
    return warnings
