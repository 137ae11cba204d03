"""Whether the tensors of parents fit each other, by what admission found in them; the worker checks again, by the
bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sqlalchemy.orm import Session

from registry.artifacts.admission.inspection import TensorFacts, WeightFacts
from registry.artifacts.long_facts import facts_of
from registry.artifacts.manifests import read_manifest
from registry.catalog.models import Version
from registry.db.database import Database
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


def weight_facts(db: Database, weights: str) -> WeightFacts | None:
    """Return what admission found in the weights with this digest; None if another release did, which kept other
    facts.

    They are held in a block of `holding_facts`. Raises Unavailable.
    """
    return WeightFacts.from_json(facts_of(db, [weights]).get(weights))


def weights_in(session: Session, version: Version) -> str:
    """Return the digest of a version's weights."""
    return next(file.sha256 for file in read_manifest(session, version.digest).files if file.path == WEIGHTS_FILE)


def require_shapes_fit(parents: Iterable[tuple[Ingredient, Callable[[], WeightFacts | None]]]) -> None:
    """Raise CombiningError for parents whose tensors don't fit, as far as that can be found out quickly.

    It takes seconds at most, so no lock in the database should be held meanwhile. A parent beyond these limits is left
    to the worker.
    """
    tensors_left, letters_left, adapters = _MOST_TENSORS, MOST_LETTERS, []
    for ingredient, known in parents:
        if (tensors := _tensors(known(), tensors_left)) is None:
            continue
        tensors_left -= len(tensors)
        if (letters_left := letters_left - letters_tried(ingredient.lora, (tensor.name for tensor in tensors))) < 0:
            continue
        try:
            adapters.append((ingredient.label, LoraAdapter(tensors, ingredient.lora)))
        except AdapterError as error:
            raise CombiningError(f"{ingredient.label} can't be combined, for {error}; combine others") from error
    require_fitting(adapters)


def _tensors(facts: WeightFacts | None, most: int) -> list[TensorFacts] | None:
    """Return the tensors of a file; None if they are not known, or more than this."""
    return None if facts is None or len(facts.kind_of) > most else list(facts.tensors())


def letters_tried(lora: LoraConfig, names: Iterable[str]) -> int:
    """Return how many letters of an adapter's patterns are tried for its modules at most.

    >>> record = LoraConfig(rank=2, alpha=2.0, dropout=0.0, target_modules=["q"], rank_pattern={"h.q": 4, ".*q": 4})
    >>> letters_tried(record, ["base_model.model.h.q.lora_A.weight", "base_model.model.h.q.lora_B.weight"])
    12
    """
    if not (lora.rank_pattern or lora.alpha_pattern):
        return 0
    modules = {key.module for name in names if (key := lora_key(name)) is not None}
    letters = sum(map(len, modules))
    return sum(
        len(key) * (len(modules) if is_name(key) else letters)
        for patterns in (lora.rank_pattern, lora.alpha_pattern)
        for key in patterns
    )
