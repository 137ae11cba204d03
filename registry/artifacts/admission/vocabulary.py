"""An adapter for more or fewer tokens than its base has: it contains the embeddings of all of them, or can't be
loaded.
"""

from __future__ import annotations

from registry.artifacts.admission.expected_shapes import EMBEDDINGS, BaseShapes
from registry.artifacts.admission.inspection import WeightFacts
from registry.errors import Verification
from sdk.formats.adapter_files import base_parameter, unwrapped
from sdk.formats.base_files import HEADS, INPUT_EMBEDDINGS

#: What to do with an adapter whose vocabulary was resized and that lacks the embeddings of some tokens.
SAVE = (
    "save it again with save_pretrained(FOLDER, save_embedding_layers=True), or save the resized model, register it as a "
    "base and push over that"
)


def changed_vocabulary(weights: WeightFacts, base: BaseShapes) -> int | None:
    """Return the number of tokens for which an adapter has embeddings if it differs from the base's; None if it
    doesn't.

    Raises Verification if their numbers differ, if there are only the head's, or if a head that is not tied is missing.
    """
    if not base.known:
        return None
    changed: dict[str, int] = {}
    for tensor in weights.tensors():
        module, _, kind = unwrapped(base_parameter(tensor.name) or "").rpartition(".")
        if kind != "weight" or len(tensor.shape) != 2 or (last := module.rpartition(".")[2]) not in EMBEDDINGS:
            continue
        rows, dimension = tensor.shape
        shapes = [shape for shape in base.shapes(f"{module}.weight") if shape[1:] == [dimension]]
        if shapes and [rows, dimension] not in shapes and changed.setdefault(last, rows) != rows:
            raise Verification(f"the adapter has {module} for {rows} and for {changed[last]} tokens; {SAVE}")
    if not changed:
        return None
    heads = {name for name in HEADS for tensor in base.names if f".{tensor}".endswith(f".{name}.weight")}
    missing = sorted(heads - changed.keys()) or ([] if changed.keys() & set(INPUT_EMBEDDINGS) else ["the embeddings"])
    if missing or len(set(changed.values())) != 1:
        has = ", ".join(f"{name} for {rows} tokens" for name, rows in sorted(changed.items()))
        lacks = f", but not {' and '.join(missing)}" if missing else ""
        raise Verification(f"the vocabulary was resized: the adapter has {has}{lacks}; {SAVE}")
    return next(iter(changed.values()))
