"""Which modules of a base an adapter's config means, and whether the adapter has everything that the config says is
trained.

PEFT makes fresh matrices for such a module if the file has no weights for it, and says so in a warning that few read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from registry.artifacts.admission.expected_shapes import BaseShapes, Place, single_expert, tail
from registry.artifacts.admission.inspection import ConfigFacts, WeightFacts
from registry.errors import Verification
from sdk.formats.adapter_files import CONFIG_FILE, base_module, base_parameter, lora_key, unwrapped
from sdk.formats.base_files import HEADS
from sdk.formats.peft_patterns import Budget, BudgetError, ExpressionError, Targets
from sdk.lora.adapter import SavedModules
from sdk.lora.name_ends import NameEnds
from sdk.schemas.lora_config import LoraConfig

#: A hundred thousand modules with a long pattern need a tenth of it; using it up takes some two seconds.
_PATTERN_STEPS = 10_000_000
#: For each module of the adapter and each tensor of the base. An adapter that PEFT saved needs one, because each list
#: of layers and each matrix of an expert is checked against the base once.
_LOOKS = 4
_ROWS = ".token_adapter.trainable_tokens_delta"
#: What PEFT saves a second time of a saved module with embeddings, and does not load.
_COPIES = (".original_module.", ".modules_to_save.")


class ConfigTargets:
    """The modules that a config means, as PEFT finds them by its targets, exclusions and layers."""

    def __init__(self, config: ConfigFacts) -> None:
        self._tied = "ensure_weight_tying" in config.variants
        said = config.model_dump(
            include={"target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern"}
        )
        try:
            self._targets = Targets(said, Budget(_PATTERN_STEPS))
        except ExpressionError as error:
            raise Verification(
                f"{CONFIG_FILE} has a pattern of modules that can't be used, since {error}; write module names and push again"
            ) from error

    def mean(self, module: str, base: BaseShapes) -> bool:
        """Whether a module is adapted. Raises Verification if the patterns take too long."""
        try:
            if self._targets.means(module):
                return True
            # In this case PEFT adapts the head with the matrices of the embeddings.
            return self._tied and base.is_tied(module) and any(map(self._targets.means, base.embeddings))
        except BudgetError as error:
            raise Verification(
                f"the patterns of {CONFIG_FILE} take too long to try; replace them with module names and push again"
            ) from error


def require_complete(adapted: Collection[str], targets: ConfigTargets, base: BaseShapes) -> None:
    """Raise Verification if modules that the config means have no weights, but others with the same name do.

    `adapted` are modules as the adapter names them. Each name of both is looked at `_LOOKS` times at most.
    """
    if not base.known:
        return
    looks = Budget(_LOOKS * (len(adapted) + len(base.names)))
    try:
        _require_layers(adapted, targets, base, looks)
        _require_every_expert(adapted, targets, base, looks)
    except BudgetError as error:
        raise Verification(
            "the adapter names the same layers or experts of the base in several ways, and a model has only one; save the adapter "
            "again from the trained model"
        ) from error


def _require_layers(adapted: Collection[str], targets: ConfigTargets, base: BaseShapes, looks: Budget) -> None:
    """Raise Verification if the modules of a name have weights in some layers, and none in others that the config means
    too.

    Only the layers of a list that is adapted are looked at: files have more than a model loads, such as the layers that
    predict several tokens, and experts under other names.
    """
    lists = _lists(map(base_module, adapted))
    # By what follows the number and by the list's own name: files may have other names for the rest.
    held: dict[tuple[str, str], dict[str, set[int]]] = {}
    for (before, after), numbers in _lists(_modules(base)).items():
        held.setdefault((_last(before), after), {})[before] = numbers
    for (before, after), numbers in lists.items():
        alike = held.get((_last(before), after), {})
        looks.spend(len(alike))
        if not alike:
            continue
        present = alike[max(alike, key=lambda other: _likeness(before, other))]
        looks.spend(len(present))
        highest = max(numbers)
        for number in sorted(present - numbers):
            loads = base.loads(Place(before, number, after))
            if not (number < highest if loads is None else loads):
                break
            module = f"{before}.{number}.{after}" if after else f"{before}.{number}"
            if targets.mean(module, base):
                raise Verification(
                    f"the adapter has no weights for {module}, which {CONFIG_FILE} targets too; PEFT would initialise new ones there. Save "
                    "the adapter again from the trained model, or name the layers in layers_to_transform"
                )


def _lists(modules: Iterable[str]) -> dict[tuple[str, str], set[int]]:
    """Return the numbers of the layers that have a module, by what precedes the number and what follows it."""
    found: dict[tuple[str, str], set[int]] = {}
    for module in modules:
        if place := Place.of(module):
            found.setdefault((place.before, place.after), set()).add(place.number)
    return found


def _modules(base: BaseShapes) -> Iterator[str]:
    return (name.removesuffix(".weight") for name in base.names if name.endswith(".weight"))


def _likeness(before: str, other: str) -> tuple[bool, bool, int]:
    """Say how well a list of the base's files matches the one that an adapter names: the same name, one the end of the
    other, or parts in common.
    """
    near = f".{before}".endswith(f".{other}") or f".{other}".endswith(f".{before}")
    return before == other, near, len(set(before.split(".")) & set(other.split(".")))


def _require_every_expert(adapted: Collection[str], targets: ConfigTargets, base: BaseShapes, looks: Budget) -> None:
    """Raise Verification if some single experts of a layer have weights, and others have none.

    PEFT stacks them for a model that stores its experts stacked, and has no place for fewer than the model has.
    """
    numbers: dict[tuple[str, str], set[int]] = {}
    for name in adapted:
        if single := single_expert(f"{base_module(name)}.weight"):
            numbers.setdefault((single[1], single[3]), set()).add(int(single[2]))
    for (before, after), found in sorted(numbers.items()):
        experts = base.experts(before)
        looks.spend(len(experts))
        lacking = (f"{before}.{number}.{after}" for number in sorted(experts - found))
        if missing := next((module for module in lacking if targets.mean(module, base)), None):
            raise Verification(
                f"the adapter has no weights for {missing}, and PEFT joins a layer's experts only if all of them have "
                "weights; save the adapter again from the trained model"
            )


def require_whole(weights: WeightFacts, lora: LoraConfig, base: BaseShapes) -> None:
    """Raise Verification if a saved module, a bias or a token's row that the record says is trained is not in the file.

    PEFT fails if a saved module is missing, and keeps the base's values for anything else that is.
    """
    if not (lora.modules_to_save or lora.bias != "none" or lora.trainable_token_indices):
        return
    held = {
        unwrapped(parameter)
        for tensor in weights.tensors()
        if (parameter := base_parameter(tensor.name)) is not None and not any(copy in parameter for copy in _COPIES)
    }
    ends, whole_ends, listed = set(map(tail, held)), NameEnds(held), SavedModules(lora.modules_to_save)
    adapted = {tail(base_module(key.module)) for tensor in weights.tensors() if (key := lora_key(tensor.name))}
    for name in base.names:
        module, _, kind = name.rpartition(".")
        place = Place.of(module)
        # Files hold more layers than some models load, experts under other names, and tables called "bias".
        if tail(name) in ends or "experts" in module.split(".") or (place is not None and base.loads(place) is False):
            continue
        saved = kind in ("weight", "bias") and listed.have(module)
        trained = lora.bias == "all" or (lora.bias == "lora_only" and tail(module) in adapted)
        if saved or (trained and kind == "bias" and len(base.shapes(name)[0]) == 1):
            raise Verification(
                f"{CONFIG_FILE} says that {name} is trained, by {'modules_to_save' if saved else 'bias'}, but the adapter does not "
                "have it; save the adapter again from the trained model"
            )
    for head in lora.modules_to_save:
        if base.is_tied(head) and not whole_ends.has(f"{head}.weight"):
            raise Verification(f"modules_to_save has {head}, but the adapter does not have it; save the adapter again")
    rows = [name.removesuffix(_ROWS) for name in held if name.endswith(_ROWS)]
    said = lora.trainable_token_indices
    if isinstance(said, dict):
        whole = all(map(NameEnds(rows).has, said))
    else:
        # A tied head has a copy of it.
        whole = not said or any(_last(module) not in HEADS for module in rows)
    if not whole:
        raise Verification(
            "trainable_token_indices names tokens, but the adapter does not have their rows; save the adapter again"
        )


def _last(dotted: str) -> str:
    return dotted.rpartition(".")[2]
