"""The norms of ΔW of a version's modules: what admission computed from the bytes, times the scale of the version's
record.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import NamedTuple

from sqlalchemy.orm import Session

from registry.artifacts.admission.inspection import WeightFacts
from registry.artifacts.long_facts import facts_of, take_turn
from registry.artifacts.manifests import read_manifest
from registry.catalog.models import Version
from registry.catalog.versions.finding import exact_ref
from registry.catalog.versions.kinds import adapter_in
from registry.db.database import Database
from registry.db.stored_json import read_stored
from sdk.formats.adapter_files import WEIGHTS_FILE, lora_key
from sdk.lora.delta_norms import other_product, replaced_by
from sdk.lora.module_scales import ModuleScales, ScalesError
from sdk.schemas.lora_config import LoraConfig, QuantizationRecipe
from sdk.schemas.probe import Norms, VersionNorms

#: The results for the versions that were asked for last: the same bytes and record always have the same norms. They have
#: no more than this many modules together.
MOST_MODULES = 50_000
#: What is known of the two tensors of a module, in bytes.
_MODULE_BYTES = 200


class FoundNorms(NamedTuple):
    """The norms of one version, and what replaces parts of the base."""

    norms: Norms | None
    replaced: list[str]

    @property
    def modules(self) -> int:
        """How many names it has, and one for itself."""
        return 1 + len(self.norms or ()) + len(self.replaced)


class Latest:
    """The latest results, by the digest of the weights and the record."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[str, str], FoundNorms] = OrderedDict()
        #: How many they have together.
        self.modules = 0
        self._changing = Lock()

    def get(self, key: tuple[str, str]) -> FoundNorms | None:
        """Return a result that is still held."""
        with self._changing:
            return self._held.get(key)

    def put(self, key: tuple[str, str], found: FoundNorms) -> None:
        """Hold a result instead of the oldest ones, unless it is too long for that."""
        if found.modules > MOST_MODULES:
            return
        with self._changing:
            # Another request may have found the same.
            if self._held.setdefault(key, found) is found:
                self.modules += found.modules
            while self.modules > MOST_MODULES:
                self.modules -= self._held.popitem(last=False)[1].modules


_latest = Latest()


class _Asked(NamedTuple):
    """A version's weights and record, and under what name they are shown."""

    ref: str
    digest: str
    weights: str
    lora: LoraConfig


def norms_of(db: Database, find: Callable[[Session], Version]) -> VersionNorms:
    """Return what is known about the weights of the version that is found; its norms are None if another release
    inspected them.

    It is held in a block of `holding_facts`, and may take a second or two if patterns are slow to match, or half a
    minute if there are a hundred thousand modules: no transaction should be open. Raises what `find` does, Unreadable,
    Unavailable, TurnNeededError.
    """
    with db.read() as session:
        asked = _asked(session, find(session))
    key = (asked.weights, asked.lora.model_dump_json())
    if (found := _latest.get(key)) is not None:
        take_turn(_MODULE_BYTES * found.modules)
    else:
        kept = WeightFacts.from_json(facts_of(db, [asked.weights]).get(asked.weights))
        facts = None if kept is None else kept.under(asked.lora)
        if facts is None:
            return VersionNorms(ref=asked.ref, digest=asked.digest, norms=None, replaced=[])
        found = FoundNorms(scaled_norms(facts, asked.lora), replaced_by(tensor.name for tensor in facts.tensors()))
        _latest.put(key, found)
    return VersionNorms(ref=asked.ref, digest=asked.digest, norms=found.norms, replaced=found.replaced)


def _asked(session: Session, version: Version) -> _Asked:
    ref, lora = exact_ref(version), record_of(version)
    if version.kind == "merged" and (adapter := adapter_in(session, version)) is not None:
        # It adds to its base what its adapter adds.
        return _asked(session, adapter)._replace(ref=ref, digest=version.digest)
    manifest = read_manifest(session, version.digest)
    weights = next((file.sha256 for file in manifest.files if file.path == WEIGHTS_FILE), "")
    return _Asked(ref, version.digest, weights, lora)


def record_of(version: Version) -> LoraConfig:
    """Return a version's LoRA record. Raises Unreadable."""
    return read_stored(LoraConfig, version.lora, of=f"the LoRA record of {exact_ref(version)}")


def recipe_of(version: Version) -> QuantizationRecipe | None:
    """Return how the base was quantised, as far as anybody said. Raises Unreadable."""
    recipe = version.quantization
    return (
        None
        if recipe is None
        else read_stored(QuantizationRecipe, recipe, of=f"the quantisation of {exact_ref(version)}")
    )


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
