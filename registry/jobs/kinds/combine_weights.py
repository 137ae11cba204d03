"""The weights that a combination hands in, held against its parents' by what admission found in the bytes of each.

The registry adds nothing up. What it knows of ΔW = Σ wᵢ·ΔWᵢ without: it has the modules of all parents, those that cancel
with zeros, and by the triangle inequality ‖ΔW‖ ≤ Σ |wᵢ|·‖ΔWᵢ‖ for each. Of an exact sum it is no smaller than the largest
term less the others; a cut only makes it smaller.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from registry.artifacts.admission.inspection import WeightFacts
from registry.catalog.versions.norms import scaled_norms
from registry.jobs.kinds.combine_shapes import MOST_LETTERS, letters_tried
from registry.jobs.kinds.outcomes import Difference, require_none
from sdk.formats.adapter_files import WEIGHTS_FILE, lora_key
from sdk.schemas.lora_config import LoraConfig
from sdk.schemas.probe import Norms

#: How far norms may be beyond what they can be, relatively: a few roundings of both factors to bfloat16.
_TOLERANCE = 0.02


@dataclass(frozen=True)
class KnownWeights:
    """What the registry knows of the weights of one version."""

    modules: frozenset[str]
    #: Tensors that are no part of a module, which an adapter holds whole.
    whole: frozenset[str]
    #: ‖ΔW‖ by module, None where it can't be told; empty where the whole version's can't.
    norms: Norms


def known_weights(facts: WeightFacts, lora: LoraConfig, *, most_letters: int = MOST_LETTERS) -> KnownWeights:
    """Return it for a version; without norms where its patterns have more than so many letters to be tried."""
    names = [tensor.name for tensor in facts.tensors()]
    keys = {name: lora_key(name) for name in names}
    own = facts.under(lora) if letters_tried(lora, names) <= most_letters else None
    return KnownWeights(
        modules=frozenset(key.module for key in keys.values() if key is not None),
        whole=frozenset(name for name, key in keys.items() if key is None),
        norms={} if own is None else scaled_norms(own, lora) or {},
    )


def require_sum(made: KnownWeights, parents: Sequence[tuple[float, KnownWeights | None]], *, exact: bool) -> None:
    """Raise Verification for weights that are no weighted sum of the parents'; None stands for one that nothing is known of.

    `exact` says that no rank was cut.
    """
    require_none(_differences(made, parents, exact))


def _differences(
    made: KnownWeights, parents: Sequence[tuple[float, KnownWeights | None]], exact: bool
) -> Iterator[Difference]:
    known = [(weight, parent) for weight, parent in parents if parent is not None]
    all_known = len(known) == len(parents)
    for field in ("modules", "whole"):
        asked = frozenset[str]().union(*(getattr(parent, field) for _, parent in known))
        found = getattr(made, field)
        for name in sorted(asked - found):
            yield Difference(f"{WEIGHTS_FILE}: {name}", "a part of it", "missing")
        for name in sorted(found - asked) if all_known else ():
            yield Difference(f"{WEIGHTS_FILE}: {name}", "missing", "a part of it")
    for module in sorted(made.modules) if all_known else ():
        having = [(weight, parent.norms.get(module)) for weight, parent in known if module in parent.modules]
        terms = [abs(weight) * norm for weight, norm in having if norm is not None]
        norm = made.norms.get(module)
        if norm is None or len(terms) < len(having):
            continue
        most = sum(terms)
        least = max(0.0, 2 * max(terms) - most) if exact else 0.0
        room = _TOLERANCE * most
        if not least - room <= norm <= most + room:
            yield Difference(
                f"{WEIGHTS_FILE}: the norm of {module}", f"from {least:.4g} to {most:.4g}, as of a sum", f"{norm:.4g}"
            )
