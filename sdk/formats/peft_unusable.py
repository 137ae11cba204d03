"""Settings of an `adapter_config.json` that PEFT knows but no version may have: with them the adapter is not W + s·B·A.

Adapters are used on a shared base: next to others, removed again, merged, served. One that changes the base itself when
it is added, or acts only on some tokens, is silently wrong in all of these uses except PEFT over a fresh base.

>>> unusable({"init_lora_weights": "pissa_niter_4"})
"init_lora_weights is 'pissa_niter_4', which changes the base before training, so A and B are not an update of the \
unchanged base; save the adapter again with \
model.save_pretrained(FOLDER, path_initial_model_for_weight_conversion=INITIAL), where INITIAL is the adapter as it was saved before training"
>>> unusable({"init_lora_weights": "gaussian", "layer_replication": []})
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_CONVERTED = (
    "changes the base before training, so A and B are not an update of the unchanged base; save the adapter again with "
    "model.save_pretrained(FOLDER, path_initial_model_for_weight_conversion=INITIAL), where INITIAL is the adapter as it was "
    "saved before training"
)
_QUANTIZED = (
    "changes the base before training, so A and B are not an update of the unchanged base; save the changed base too, "
    "register it, and push the adapter over it with init_lora_weights true"
)
#: Initialisations that change the base, and what to do. PEFT writes them into the config of an adapter that was not
#: converted, and then changes the base at each load; for LoRA-GA and CorDA not even to the base that was trained over.
_CHANGING = ((re.compile(r"(?:pissa|corda).*|lora_ga|(?i:olora)"), _CONVERTED), (re.compile("loftq"), _QUANTIZED))
#: Other settings, and what is wrong with them.
_SETTINGS = {
    "kasa_config": (
        "takes the smallest singular values out of the base, so A and B are not an update of the unchanged base; train "
        "without it"
    ),
    "layer_replication": (
        "repeats the base's layers, and layers that share their weights can't be merged or served; save the stacked model, "
        "register it as a base, and train over it"
    ),
    "alora_invocation_tokens": ("makes the adapter act on some tokens only, so it can't be merged; train without it"),
    "arrow_config": "chooses among other adapters, which are not included; push those instead",
}


def changes_base(init: Any) -> bool:
    """Whether an initialisation of A and B subtracts their first product from the base, or quantises the base."""
    return any(pattern.fullmatch(str(init)) for pattern, _ in _CHANGING)


def unusable(config: Mapping[str, Any]) -> str | None:
    """Say, in a clause that names the setting and what to do, why no version may have a config; None if it is allowed."""
    init = config.get("init_lora_weights")
    for pattern, said in _CHANGING:
        if pattern.fullmatch(str(init)):
            return f"init_lora_weights is {init!r}, which {said}"
    return next((f"{key} {said}" for key, said in _SETTINGS.items() if config.get(key) not in (None, False, [])), None)
