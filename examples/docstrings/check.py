"""Does plain PEFT load the pulled folder, does it change the base, and does the merged model agree with base + adapter?

    python examples/docstrings/check.py BASE ADAPTER MERGED

Nothing of adapterctl is imported: these are the libraries that a user would serve the adapter with.
"""

from __future__ import annotations

import json
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

#: KL of the merged model from base-as-trained + adapter below which they count as the same, in nats per token. The NF4
#: base that was trained over and the stored weights differ by more than this.
AGREES_NATS = 0.02

TEXT = (
    "Write the first line of the docstring of this Python function.\n\n"
    "def clamp(value, low, high):\n    return max(low, min(value, high))\n\nDocstring:\n"
)


def main() -> None:
    """Print what was found as one JSON object."""
    base, adapter, merged = sys.argv[1:]
    ids = AutoTokenizer.from_pretrained(base)(TEXT, return_tensors="pt").input_ids
    recipe = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    as_trained = AutoModelForCausalLM.from_pretrained(base, quantization_config=recipe, dtype=torch.bfloat16).eval()
    with torch.inference_mode():
        bare = as_trained(ids).logits.float()
        adapted = PeftModel.from_pretrained(as_trained, adapter).eval()(ids).logits.float()
        whole = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.bfloat16).eval()(ids).logits.float()
    # KL(adapted ‖ merged), mean over positions; logits are (1, seq, vocabulary).
    expected, found = adapted.log_softmax(-1), whole.log_softmax(-1)
    kl = (expected.exp() * (expected - found)).sum(-1).mean().item()
    shift = (adapted - bare).abs().max().item()
    print(
        json.dumps(
            {
                "changes_base": shift > 0.1,
                "max_shift": shift,
                "kl": kl,
                "top1": (expected.argmax(-1) == found.argmax(-1)).float().mean().item(),
                "merged_agrees": kl < AGREES_NATS,
            }
        )
    )


if __name__ == "__main__":
    main()
