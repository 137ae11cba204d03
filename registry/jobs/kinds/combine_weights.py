"""The weights that a combination hands in, checked against its parents' by what admission found in the bytes of each.

The registry doesn't compute the sum. What it knows about ΔW = Σ wᵢ·ΔWᵢ without that: it has the modules of all parents,
with zeros where they cancel, and by the triangle inequality ‖ΔW‖ ≤ Σ |wᵢ|·‖ΔWᵢ‖ for each module. In an exact sum it is
no smaller than the largest term minus the others; cutting the rank only makes it smaller.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from registry.artifacts.admission.inspection import WeightFacts
from registry.catalog.versions.norms import scaled_norms
from registry.jobs.kinds.combine_shapes import MOST_LETTERS, letters_tried
from registry.jobs.kinds.rules import Mismatch, require_none
from sdk.formats.adapter_files import WEIGHTS_FILE, lora_key
from sdk.schemas.lora_config import LoraConfig
from sdk.schemas.probe import Norms

#: By how much norms may exceed these bounds, relatively: a few roundings of both factors to bfloat16.
_TOLERANCE = 0.02


@dataclass(frozen=True)
class KnownWeights:
    """What the registry knows about the weights of one version."""

    modules: Set[str]
    #: Tensors that don't belong to a module, which an adapter has whole.
    whole: Set[str]
    #: ‖ΔW‖ by module, None if it isn't known; empty if none of the version's norms are known.
    norms: Norms


def known_weights(facts: WeightFacts, lora: LoraConfig, *, most_letters: int = MOST_LETTERS) -> KnownWeights:
    """Return it for a version; without norms if its patterns have more than this many letters to be tried."""
    own = (
        facts.under(lora) if letters_tried(lora, (tensor.name for tensor in facts.tensors())) <= most_letters else None
    )
    norms = {} if own is None else scaled_norms(own, lora) or {}
    # A module in both is the same string.
    modules, whole = set(norms), set()
    for tensor in facts.tensors():
        if (key := lora_key(tensor.name)) is None:
            whole.add(tensor.name)
        else:
            modules.add(key.module)
    return KnownWeights(modules, whole, norms)


def require_sum(made: KnownWeights, parents: Sequence[tuple[float, KnownWeights | None]], *, exact: bool) -> None:
    """Raise Verification for weights that can't be a weighted sum of the parents'; None stands for a parent of which
    nothing is known.

    `exact` says that no rank was cut.
    """
    require_none(_differences(made, parents, exact))


def _differences(
    made: KnownWeights, parents: Sequence[tuple[float, KnownWeights | None]], exact: bool
) -> Iterator[Mismatch]:
    known = [(weight, parent) for weight, parent in parents if parent is not None]
    all_known = len(known) == len(parents)
    for field in ("modules", "whole"):
        asked = frozenset[str]().union(*(getattr(parent, field) for _, parent in known))
        found = getattr(made, field)
        for name in sorted(asked - found):
            yield Mismatch(f"{WEIGHTS_FILE}: {name}", "a part of it", "missing")
        for name in sorted(found - asked) if all_known else ():
            yield Mismatch(f"{WEIGHTS_FILE}: {name}", "missing", "a part of it")
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
            yield Mismatch(
                f"{WEIGHTS_FILE}: the norm of {module}", f"from {least:.4g} to {most:.4g}, as of a sum", f"{norm:.4g}"
            )
