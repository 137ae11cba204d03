"""The head of a classification: it isn't the base's, so its shapes follow from the base's width and the number of
labels.

>>> head = [TensorFacts("base_model.model.score.weight", "F32", (3, 64), zero=False)]
>>> judge_head(head, BaseShapes({}), {"hidden_size": 64}, labels=3)
>>> judge_head(head, BaseShapes({}), {"hidden_size": 64}, labels=2)
Traceback (most recent call last):
registry.errors.Verification: no matrix of the head has a row for each of 2 labels (it has base_model.model.score.weight of 3×64); save the adapter again
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from registry.artifacts.admission.expected_shapes import BaseShapes
from registry.artifacts.admission.inspection import TensorFacts
from registry.errors import Verification
from sdk.formats.adapter_files import base_parameter, lora_key
from sdk.lora.adapter import times

#: What transformers calls heads, which PEFT saves unasked. A base may have one for another task, which is replaced.
_HEADS = ("classifier", "score")
#: What configs call the width of a head's input.
_WIDTHS = ("hidden_size", "n_embd", "d_model", "dim")
#: If the head's input is of another width than the layers, as in OPT.
_PROJECTED = "word_embed_proj_dim"


def is_head(parameter: str) -> bool:
    """Whether a parameter of a model for sequence classification belongs to the head, by its name."""
    return parameter.partition(".")[0] in _HEADS


def judge_head(
    tensors: Iterable[TensorFacts], base: BaseShapes, config: Mapping[str, Any], *, labels: int | None
) -> None:
    """Check the head among an adapter's tensors; `labels` is None if their number is not recorded.

    Raises Verification if there is no head, or it fits neither the base's width nor the labels.
    """
    whole = ((base_parameter(tensor.name), tensor) for tensor in tensors if lora_key(tensor.name) is None)
    head = [tensor for name, tensor in whole if name is not None and (is_head(name) or not base.shapes(name))]
    matrices = [tensor for tensor in head if len(tensor.shape) == 2]
    if not matrices:
        raise Verification(
            "the adapter is a classifier without a head, so its head would be random whenever it is loaded; save it again "
            "with modules_to_save naming the head"
        )
    width, projected = _width(config), config.get(_PROJECTED)
    outputs = Counter(tensor.shape[0] for tensor in matrices)
    for tensor in head:
        # The input of each matrix is the base's output, or the output of another matrix.
        into = tensor.shape[-1] if tensor.shape else -1
        own = len(tensor.shape) == 2 and tensor.shape[0] == into
        given = into in (width, projected) or outputs[into] > own
        if len(tensor.shape) not in (1, 2) or (width is not None and not given):
            raise Verification(
                f"tensor {tensor.name!r} is {times(tensor.shape)}, which fits no head over a base that is {width or 'so'} wide; "
                "the adapter belongs to another base"
            )
    if labels is not None and not any(tensor.shape[0] == labels for tensor in matrices):
        shown = ", ".join(f"{tensor.name} of {times(tensor.shape)}" for tensor in matrices[:2])
        raise Verification(
            f"no matrix of the head has a row for each of {labels} labels (it has {shown}); save the adapter again"
        )


def _width(config: Mapping[str, Any]) -> int | None:
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        for name in _WIDTHS:
            if type(part.get(name)) is int:
                return int(part[name])
    return None
