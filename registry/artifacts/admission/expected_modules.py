"""Which modules of a base an adapter's config means, and whether the adapter has weights for all of them.

PEFT makes fresh matrices for a module that is meant and has no weights in the file, and says so in a warning that few read.
"""

from __future__ import annotations

from collections.abc import Collection

from registry.artifacts.admission.expected_shapes import BaseShapes, single_expert
from registry.artifacts.admission.inspection import ConfigFacts
from registry.errors import Verification
from sdk.formats.adapter_files import CONFIG_FILE, base_module
from sdk.formats.peft_patterns import Budget, BudgetError, ExpressionError, Targets

#: A hundred thousand modules with a long pattern need a tenth of it; all are some two seconds.
_PATTERN_STEPS = 10_000_000


class ConfigTargets:
    """The modules that a config means, as PEFT tells them by its targets, exclusions and layers."""

    def __init__(self, config: ConfigFacts) -> None:
        self._tied = "ensure_weight_tying" in config.variants
        said = config.model_dump(
            include={"target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern"}
        )
        try:
            self._targets = Targets(said, Budget(_PATTERN_STEPS))
        except ExpressionError as error:
            raise Verification(
                f"{CONFIG_FILE} has a pattern of modules that can't be tried, for {error}; write module names and push again"
            ) from error

    def mean(self, module: str, base: BaseShapes) -> bool:
        """Whether a module is adapted. Raises Verification where the patterns take too long."""
        try:
            if self._targets.means(module):
                return True
            # PEFT then adapts the head with the embeddings' own matrices.
            return self._tied and base.is_tied(module) and any(map(self._targets.means, base.embeddings))
        except BudgetError as error:
            raise Verification(
                f"the patterns of {CONFIG_FILE} take too long to try; write module names in place of them and push again"
            ) from error


def require_all(adapted: Collection[str], targets: ConfigTargets, base: BaseShapes) -> None:
    """Raise Verification where some layers' modules of a name have weights, and others, which are meant too, have none.

    `adapted` are modules as the adapter names them. Only the layers of a list that is adapted are looked at: files hold
    more than a model loads of them, such as the layers that predict several tokens, and experts under other names.
    """
    plain = {base_module(name) for name in adapted}
    lists: dict[tuple[str, str], set[int]] = {}
    for name in plain:
        if (place := _place(name)) is not None:
            lists.setdefault((place[0], place[2]), set()).add(place[1])
    # By what follows the number and by the list's own name, the rest being what files may leave out.
    by_end = {(_last(before), after): (before, after) for before, after in lists}
    for tensor in base.names:
        place = _place(tensor.removesuffix(".weight")) if tensor.endswith(".weight") else None
        found = None if place is None else by_end.get((_last(place[0]), place[2]))
        if (
            place is None
            or found is None
            or not (f".{found[0]}".endswith(f".{place[0]}") or place[0].endswith(found[0]))
        ):
            continue
        number = place[1]
        if number in lists[found] or (number >= base.layers if base.layers is not None else number > max(lists[found])):
            continue
        module = f"{found[0]}.{number}{found[1]}"
        if targets.mean(module, base):
            raise Verification(
                f"the adapter has no weights for {module}, which {CONFIG_FILE} means too; PEFT would put fresh ones there. Save "
                "the adapter again from the trained model, or name the layers in layers_to_transform"
            )


def require_every_expert(adapted: Collection[str], targets: ConfigTargets, base: BaseShapes) -> None:
    """Raise Verification where some single experts of a layer have weights, and others have none.

    PEFT stacks them for a model that holds its experts so, and finds no place for fewer than the model has.
    """
    numbers: dict[tuple[str, str], set[int]] = {}
    for name in adapted:
        if single := single_expert(f"{base_module(name)}.weight"):
            numbers.setdefault((single[1], single[3]), set()).add(int(single[2]))
    for (before, after), found in sorted(numbers.items()):
        lacking = (f"{before}.{number}.{after}" for number in sorted(base.experts(before) - found))
        if missing := next((module for module in lacking if targets.mean(module, base)), None):
            raise Verification(
                f"the adapter has no weights for {missing}, and PEFT joins the experts of a layer only where each "
                "has them; save the adapter again from the trained model"
            )


def _place(module: str) -> tuple[str, int, str] | None:
    """Return what stands before the first number of a name, the number, and what follows it; None without a number."""
    parts = module.split(".")
    at = next((position for position, part in enumerate(parts) if part.isdigit()), None)
    if at is None or at == 0:
        return None
    return ".".join(parts[:at]), int(parts[at]), "".join(f".{part}" for part in parts[at + 1 :])


def _last(dotted: str) -> str:
    return dotted.rpartition(".")[2]
