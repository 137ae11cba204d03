"""What a combination hands in, checked against its parents and what was asked for; what follows from these is recorded
again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from registry.artifacts.admission.inspection import WeightFacts
from registry.db.database import Database
from registry.jobs.kinds.combine_shapes import MOST_LETTERS, weight_facts
from registry.jobs.kinds.combine_weights import KnownWeights, known_weights, require_sum
from registry.jobs.kinds.rules import Mismatch, require_none
from sdk.formats.adapter_files import CONFIG_FILE, SERVING_FILES, WEIGHTS_FILE
from sdk.lora.combining import Ingredient, greatest_rank, taken_whole
from sdk.schemas.catalog import Method, Parent, Publication
from sdk.schemas.combination import CombineRequest
from sdk.schemas.lora_config import LoraConfig, QuantizationRecipe
from sdk.schemas.training_report import DatasetUse
from sdk.schemas.version_records import CombineRecord
from sdk.schemas.wire import JsonScalar
from sdk.schemas.work import CombineResult

#: What no combination can ask for, so that no worker may record it in a combination's name.
_NEVER_ASKED = ("dataset", "tags", "description", "unknown")
#: Parts of a LoRA record that keep their defaults in a combination.
_NOT_LEFT = ("modules_to_save", "bias", "init", "use_rslora", "use_dora", "trainable_token_indices", "dropout")
#: How many tensors of all parents together the weights are checked against: two adapters of 128 experts in 48 layers
#: have 73,728.
_MOST_TENSORS = 100_000
_PLAIN = LoraConfig(rank=1, alpha=1.0, dropout=0.0, target_modules=["-"])


@dataclass(frozen=True)
class Ancestor:
    """A parent, as the registry knows it."""

    ref: str
    weight: float
    lora: LoraConfig
    base_fingerprint: str
    method: str
    quantization: QuantizationRecipe | None
    #: How its training used its dataset, if anybody said so.
    dataset: DatasetUse | None
    #: SHA-256 by path.
    files: Mapping[str, str]


class SettledCombination(NamedTuple):
    """What to record about a combination."""

    publication: Publication
    #: Which of it only the worker stated.
    reported: list[str]
    #: What people should know about it.
    notes: list[str]


def settle(request: CombineRequest, ancestors: Sequence[Ancestor], done: CombineResult) -> SettledCombination:
    """Return what to record. Raises Verification for a version with other parents, weights, method or base than the
    job's.
    """
    publication = done.version
    shared, differing = _serving(ancestors)
    asked = _asked(request)
    require_none(_differences(request, ancestors, publication, asked, shared))
    recipe = _recipe(ancestors)
    # If it is its parent in another place, it was trained like that one, which says how rows are rendered, and which
    # labels there are.
    dataset = ancestors[0].dataset if taken_whole(_ingredients(ancestors), request.spec) else None
    settled = publication.model_copy(
        update={
            "dataset": dataset,
            "method": _method(ancestors, recipe),
            "quantization": recipe,
            "training": asked,
            "parents": _parents(ancestors),
            "metrics": done.report.metrics,
            "libraries": done.report.libraries,
        }
    )
    reported = [name for name in ("dataset", "libraries", "metrics") if getattr(settled, name)]
    return SettledCombination(settled, reported, list(_notes(ancestors, differing, recipe)))


def require_made_of(
    db: Database, request: CombineRequest, ancestors: Sequence[Ancestor], lora: LoraConfig, facts: WeightFacts
) -> None:
    """Raise Verification for weights that can't be a weighted sum of the parents', as far as the registry can tell.

    It reads what is known of the parents, so no transaction should be open. Raises Unavailable.
    """
    if taken_whole(_ingredients(ancestors), request.spec):
        # By their digest they are its parent's.
        return
    parents = list(zip((one.weight for one in ancestors), _known(db, ancestors), strict=True))
    require_sum(known_weights(facts, lora), parents, exact=request.spec.method != "svd")


def _known(db: Database, ancestors: Sequence[Ancestor]) -> Iterator[KnownWeights | None]:
    """What is known of each parent's weights; None for one that another release inspected, or that is too long."""
    tensors_left = _MOST_TENSORS
    for one in ancestors:
        tensors, known = _known_of(db, one, tensors_left, MOST_LETTERS // len(ancestors))
        tensors_left -= tensors
        yield known


def _known_of(db: Database, one: Ancestor, most: int, most_letters: int) -> tuple[int, KnownWeights | None]:
    """The number of its tensors, and what is known of them; none if they are more than `most`."""
    facts = weight_facts(db, one.files[WEIGHTS_FILE])
    if facts is None or len(facts.kind_of) > most:
        return 0, None
    return len(facts.kind_of), known_weights(facts, one.lora, most_letters=most_letters)


def _ingredients(ancestors: Sequence[Ancestor]) -> list[Ingredient]:
    return [Ingredient(one.ref, one.weight, one.lora) for one in ancestors]


def _parents(ancestors: Sequence[Ancestor]) -> list[Parent]:
    return [Parent(ref=one.ref, relation="combined-from", weight=one.weight) for one in ancestors]


def _asked(request: CombineRequest) -> dict[str, JsonScalar]:
    """What a request says about how to do it, under the names that records use."""
    spec = request.spec
    return CombineRecord(combine_method=spec.method, combine_rank=spec.rank, combine_dtype=spec.dtype).flat()


def _differences(
    request: CombineRequest,
    ancestors: Sequence[Ancestor],
    publication: Publication,
    asked: Mapping[str, JsonScalar],
    shared: Mapping[str, str],
) -> Iterator[Mismatch]:
    if publication.adapter != request.adapter:
        yield Mismatch("adapter", request.adapter, publication.adapter)
    fingerprint = ancestors[0].base_fingerprint
    if publication.manifest.base_fingerprint != fingerprint:
        yield Mismatch("base", fingerprint, publication.manifest.base_fingerprint)
    if publication.parents != _parents(ancestors):
        yield Mismatch("parents", _shown(_parents(ancestors)), _shown(publication.parents))
    said = publication.training or {}
    for name in asked.keys() | said.keys():
        if name in said and (name not in asked or said[name] != asked[name]):
            yield Mismatch(f"training.{name}", asked.get(name), said[name])
    for name in _NEVER_ASKED:
        if given := getattr(publication, name):
            yield Mismatch(name, None, given)
    files = {file.path: file.sha256 for file in publication.manifest.files}
    for name in files.keys() - {CONFIG_FILE, WEIGHTS_FILE, *SERVING_FILES}:
        yield Mismatch(name, None, files[name])
    for name in SERVING_FILES:
        if files.get(name) != shared.get(name):
            yield Mismatch(name, shared.get(name), files.get(name))
    yield from _of_lora(request, ancestors, publication, files)


def _of_lora(
    request: CombineRequest, ancestors: Sequence[Ancestor], publication: Publication, files: Mapping[str, str]
) -> Iterator[Mismatch]:
    """Compare the LoRA record with the parents'; admission compares it with the bytes."""
    lora = publication.lora
    if taken_whole(_ingredients(ancestors), request.spec):
        parent = ancestors[0]
        if files.get(WEIGHTS_FILE) != parent.files.get(WEIGHTS_FILE):
            yield Mismatch(WEIGHTS_FILE, parent.files.get(WEIGHTS_FILE), files.get(WEIGHTS_FILE))
        if lora != parent.lora:
            yield Mismatch("lora", parent.lora.model_dump_json(), lora.model_dump_json())
        return
    for name in _NOT_LEFT:
        if (given := getattr(lora, name)) != (plain := getattr(_PLAIN, name)):
            yield Mismatch(f"lora.{name}", plain, given)
    # A pattern by which all parents exclude modules has no field of its own.
    for name in lora.other.keys() - {"exclude_modules"}:
        yield Mismatch(f"lora.other.{name}", None, lora.other[name])
    if lora.lora_bias != ancestors[0].lora.lora_bias:
        yield Mismatch("lora.lora_bias", ancestors[0].lora.lora_bias, lora.lora_bias)
    parameters = sorted({name for one in ancestors for name in one.lora.target_parameters})
    if lora.target_parameters != parameters:
        yield Mismatch("lora.target_parameters", parameters, lora.target_parameters)
    most = request.spec.rank or sum(greatest_rank(one.lora) for one in ancestors)
    if greatest_rank(lora) > most:
        yield Mismatch("lora.rank", most, greatest_rank(lora))


def _shown(parents: Sequence[Parent]) -> str:
    return ", ".join(f"{one.ref}={one.weight} ({one.relation})" for one in parents)


def _serving(ancestors: Sequence[Ancestor]) -> tuple[dict[str, str], list[str]]:
    """Return the files for serving that are the same for all parents, by SHA-256, and those in which they differ."""
    digests = {name: {one.files.get(name) for one in ancestors} for name in SERVING_FILES}
    shared = {
        name: sha256 for name, found in digests.items() if len(found) == 1 and (sha256 := next(iter(found))) is not None
    }
    return shared, [name for name, found in digests.items() if len(found) > 1]


def _recipe(ancestors: Sequence[Ancestor]) -> QuantizationRecipe | None:
    """Return how the base was quantised for all parents; None if it was not, or not in the same way."""
    recipes = [one.quantization for one in ancestors]
    first = recipes[0]
    if first is None or any(_essence(recipe) != _essence(first) for recipe in recipes):
        return None
    return first


def _essence(recipe: QuantizationRecipe | None) -> QuantizationRecipe | None:
    return None if recipe is None else recipe.model_copy(update={"library_version": None})


def _method(ancestors: Sequence[Ancestor], recipe: QuantizationRecipe | None) -> Method:
    methods = {one.method for one in ancestors}
    if methods == {"lora"}:
        return "lora"
    return "qlora" if methods == {"qlora"} and recipe is not None else "unknown"


def _notes(ancestors: Sequence[Ancestor], differing: Sequence[str], recipe: QuantizationRecipe | None) -> Iterator[str]:
    for name in differing:
        having = [one.ref for one in ancestors if name in one.files]
        yield (
            f"the parents differ in {name}, which {', '.join(having[:3])}{' and others have' if len(having) > 3 else ' has' if len(having) == 1 else ' have'}: "
            "none was taken over; serve it with one that fits"
        )
    if recipe is None and any(one.quantization is not None for one in ancestors):
        yield "the parents were trained over differently quantised bases: it is evaluated over the base as stored, and merged onto that"
