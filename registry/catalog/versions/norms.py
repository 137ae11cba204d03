"""The norms of ΔW of a version's modules: what admission computed from the bytes, times the scale of the version's
record.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.artifacts.admission.inspection import WeightFacts
from registry.artifacts.manifests import read_manifest
from registry.artifacts.models import Blob
from registry.catalog.models import Version
from registry.catalog.versions.finding import exact_ref
from registry.catalog.versions.kinds import adapter_in
from registry.db.stored_json import read_stored
from sdk.formats.adapter_files import WEIGHTS_FILE, lora_key
from sdk.lora.delta_norms import other_product, replaced_by
from sdk.lora.module_scales import ModuleScales, ScalesError
from sdk.schemas.lora_config import LoraConfig
from sdk.schemas.probe import Norms, VersionNorms

#: The results for the versions that were asked for last: the same bytes and record always have the same norms.
_found: OrderedDict[tuple[str, str], tuple[Norms | None, list[str]]] = OrderedDict()
_finding = Lock()
_MOST_FOUND = 32


def norms_of(session: Session, version: Version) -> VersionNorms:
    """Return what is known about a version's weights; its norms are None if another release inspected them.

    It may take a second or two if patterns are slow to match: no transaction that writes should wait for it. Raises
    Unreadable.
    """
    ref, lora = exact_ref(version), record_of(version)
    if version.kind == "merged" and (adapter := adapter_in(session, version)) is not None:
        # It adds to its base what its adapter adds.
        return norms_of(session, adapter).model_copy(update={"ref": ref, "digest": version.digest})
    manifest = read_manifest(session, version.digest)
    weights = next((file.sha256 for file in manifest.files if file.path == WEIGHTS_FILE), "")
    key = (weights, lora.model_dump_json())
    with _finding:
        found = _found.get(key)
    if found is None:
        facts = WeightFacts.from_json(session.scalar(select(Blob.facts).where(Blob.sha256 == weights)))
        facts = None if facts is None else facts.under(lora)
        if facts is None:
            return VersionNorms(ref=ref, digest=version.digest, norms=None, replaced=[])
        found = scaled_norms(facts, lora), replaced_by(tensor.name for tensor in facts.tensors())
        with _finding:
            _found[key] = found
            if len(_found) > _MOST_FOUND:
                _found.popitem(last=False)
    return VersionNorms(ref=ref, digest=version.digest, norms=found[0], replaced=found[1])


def record_of(version: Version) -> LoraConfig:
    """Return a version's LoRA record. Raises Unreadable."""
    return read_stored(LoraConfig, version.lora, of=f"the LoRA record of {exact_ref(version)}")


def scaled_norms(facts: WeightFacts, lora: LoraConfig) -> Norms | None:
    """Return ‖ΔW‖ of each module from facts that fit a record, None for a module if it isn't known; None for patterns
    that take too long.
    """
    told = other_product(lora) is None
    found: Norms = {}
    try:
        scales = ModuleScales(lora)
        for tensor in facts.tensors():
            key = lora_key(tensor.name)
            if key is None or key.part not in ("B", "embedding_B"):
                continue
            scale = None if tensor.norm is None or not told else scales.of(key.module, width=tensor.shape[1])
            found[key.module] = None if tensor.norm is None or scale is None else abs(scale.scale) * tensor.norm
    except ScalesError:
        return None
    return dict(sorted(found.items()))
