"""The first step of a publication: what its files are, held against the version's record and the base."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from sqlalchemy.orm import Session

from registry.artifacts.admission.inspection import ConfigFacts, WeightFacts, inspect_config, inspect_weights
from registry.artifacts.admission.rules import judge
from registry.artifacts.blob_check import Facts, Inspection
from registry.artifacts.manifests import blobs_of
from registry.artifacts.service import Bytes
from registry.catalog.bases.finding import KnownBase, KnownBases
from registry.catalog.publishing.new_version import Edge, Ground, NewVersion
from registry.catalog.versions.finding import find_version, parse_ref
from registry.errors import Invalid, Verification
from sdk.formats.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from sdk.schemas.manifest import Manifest

#: Files that can run something when a library reads them.
_CODE_SUFFIXES = (".bin", ".ckpt", ".dll", ".pickle", ".pkl", ".pt", ".pth", ".py", ".pyc", ".sh", ".so")


def require_files(manifest: Manifest) -> None:
    """Raise Invalid or Verification for a manifest that is none of an adapter."""
    if manifest.kind != "adapter":
        raise Invalid("a version of an adapter has a manifest of the kind 'adapter'", param="manifest.kind")
    digests = {file.path: file.sha256 for file in manifest.files}
    for required in (CONFIG_FILE, WEIGHTS_FILE):
        if required not in digests:
            raise Verification(
                f"an adapter needs a file {required}; save it with PEFT's save_pretrained", param="manifest"
            )
    refuse_code(manifest)
    if digests[CONFIG_FILE] == digests[WEIGHTS_FILE]:
        raise Verification(f"{CONFIG_FILE} and {WEIGHTS_FILE} are the same bytes; save the adapter again")


def refuse_code(manifest: Manifest) -> None:
    """Raise Verification for a manifest with a file that can run something when a library reads it."""
    for file in manifest.files:
        if file.path.lower().endswith(_CODE_SUFFIXES):
            raise Verification(
                f"{file.path} is pickled or is code, which runs when it is loaded; convert pickled weights with: "
                "adapterctl convert FOLDER, and push without such files",
                param="manifest",
            )


def find_ground(session: Session, new: NewVersion, bases: KnownBases) -> Ground:
    """Find what a version stands on. Raises NotFound.

    Its parents are found before it is ready: from then on, its adapter's `latest` is the version itself.
    """
    base: KnownBase = bases.find(session, new.publication.manifest.base_fingerprint, new.namespace)
    parents = [
        Edge(find_version(session, parse_ref(parent.ref), new.who).pk, parent.relation, parent.weight)
        for parent in new.publication.parents
    ]
    return Ground(base, parents)


def bytes_of(new: NewVersion) -> Bytes:
    """What `Artifacts` verifies, or knows, and how it looks into the adapter's two files."""
    look = partial(inspect_weights, size_bytes=new.weights.size_bytes)
    return {
        "upload": new.publication.upload,
        "blobs": blobs_of(new.publication.manifest),
        "who": new.who,
        "inspections": {
            new.config.sha256: Inspection(ConfigFacts, inspect_config),
            new.weights.sha256: Inspection(WeightFacts, look),
        },
    }


def judge_files(new: NewVersion, facts: Mapping[str, Facts], ground: Ground) -> list[str]:
    """Hold what is in the files against the record and the base; return warnings. Raises Verification."""
    config, weights = facts[new.config.sha256], facts[new.weights.sha256]
    assert isinstance(config, ConfigFacts)
    assert isinstance(weights, WeightFacts)
    base, use = ground.base, new.publication.dataset
    labels = None if use is None or use.labels is None else len(use.labels)
    return judge(
        weights, config, lora=new.publication.lora, base_tensors=base.tensors, base_config=base.config, labels=labels
    )
