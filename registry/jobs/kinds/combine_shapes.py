"""Whether the tensors of parents fit each other, by what admission found in them; the worker checks again, by the
bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy.orm import Session

from registry.artifacts.admission.inspection import WeightFacts
from registry.artifacts.manifests import read_manifest
from registry.artifacts.models import Blob
from registry.catalog.models import Version
from sdk.formats.adapter_files import WEIGHTS_FILE, lora_key
from sdk.formats.peft_patterns import is_name
from sdk.lora.adapter import AdapterError, LoraAdapter
from sdk.lora.combining import CombiningError, Ingredient, require_fitting
from sdk.schemas.lora_config import LoraConfig

#: How many tensors of all parents together are checked when a job is accepted: hundreds of thousands of names take
#: seconds.
_MOST_TENSORS = 50_000
#: Letters of patterns, each times the modules for which it is tried (for an expression times their letters), of all
#: parents together: some seconds at most.
MOST_LETTERS = 20_000_000


def weight_facts(session: Session, version: Version) -> WeightFacts | None:
    """Return what admission found in a version's weights; None if an earlier release did, which kept other facts."""
    file = next(file for file in read_manifest(session, version.digest).files if file.path == WEIGHTS_FILE)
    blob = session.get(Blob, file.sha256)
    return None if blob is None else WeightFacts.from_json(blob.facts)


def require_shapes_fit(parents: Sequence[tuple[Ingredient, WeightFacts | None]]) -> None:
    """Raise CombiningError for parents whose tensors don't fit, as far as that can be found out quickly.

    It takes seconds at most, so no lock in the database should be held meanwhile. A parent beyond these limits is left
    to the worker.
    """
    tensors_left, letters_left, adapters = _MOST_TENSORS, MOST_LETTERS, []
    for ingredient, facts in parents:
        if facts is None or (tensors_left := tensors_left - len(facts.kind_of)) < 0:
            continue
        tensors = list(facts.tensors())
        if (letters_left := letters_left - letters_tried(ingredient.lora, (tensor.name for tensor in tensors))) < 0:
            continue
        try:
            adapters.append((ingredient.label, LoraAdapter(tensors, ingredient.lora)))
        except AdapterError as error:
            raise CombiningError(f"{ingredient.label} can't be combined, for {error}; combine others") from error
    require_fitting(adapters)


def letters_tried(lora: LoraConfig, names: Iterable[str]) -> int:
    """Return how many letters of an adapter's patterns are tried for its modules at most.

    >>> record = LoraConfig(rank=2, alpha=2.0, dropout=0.0, target_modules=["q"], rank_pattern={"h.q": 4, ".*q": 4})
    >>> letters_tried(record, ["base_model.model.h.q.lora_A.weight", "base_model.model.h.q.lora_B.weight"])
    12
    """
    modules = {key.module for name in names if (key := lora_key(name)) is not None}
    letters = sum(map(len, modules))
    return sum(
        len(key) * (len(modules) if is_name(key) else letters)
        for patterns in (lora.rank_pattern, lora.alpha_pattern)
        for key in patterns
    )
