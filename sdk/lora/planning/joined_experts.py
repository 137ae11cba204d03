"""Experts that files store one by one, joined as transformers 5 joins them when loading: one parameter for all in a layer.

>>> one = {"mlp.experts.0.gate_proj.weight": [4, 8], "mlp.experts.0.up_proj.weight": [4, 8], "mlp.experts.0.down_proj.weight": [8, 4]}
>>> joined(one | {name.replace("0", "1"): shape for name, shape in one.items()})
{'mlp.experts.gate_up_proj': [2, 8, 8], 'mlp.experts.down_proj': [2, 8, 4]}
>>> joined({"block_sparse_moe.gate.weight": [2, 8]})
{'mlp.gate.weight': [2, 8]}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_SINGLE = re.compile(r"(.*experts)\.([0-9]{1,5})\.(?:(gate_proj|up_proj|w1|w3)|(down_proj|w2))\.weight")
#: Mixtral's name in files for a part of a layer that transformers 5 names as in other models.
_MIXTRAL, _MLP = "block_sparse_moe.", "mlp."


def joined(tensors: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """Return names and shapes with the experts of each layer joined: gate and up, (experts, 2·inner, hidden), and down."""
    found: dict[str, list[int]] = {}
    for name, shape in tensors.items():
        name = name.replace(_MIXTRAL, _MLP)
        single = _SINGLE.fullmatch(name)
        if single is None or len(shape) != 2:
            found[name] = list(shape)
            continue
        owner, number, up, _ = single.groups()
        whole = found.setdefault(f"{owner}.{'gate_up_proj' if up else 'down_proj'}", [0, 0, shape[1]])
        whole[0] = max(whole[0], int(number) + 1)
        whole[1] = max(whole[1], shape[0] * (2 if up else 1))
    return found
