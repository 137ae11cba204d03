"""What an architecture can be trained to do, as far as its config tells.

>>> is_encoder({"model_type": "bert"}), is_encoder({"model_type": "bert", "is_decoder": True}), is_encoder({"model_type": "llama"})
(True, False, False)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NAMES = """
albert bert big_bird camembert convbert data2vec-text deberta deberta-v2 distilbert electra ernie esm esmc
eurobert flaubert fnet funnel gte ibert jina_embeddings_v3 layoutlm longformer luke megatron-bert mobilebert
modernbert modernvbert mpnet mra neomme nezha nomic_bert nystromformer perceiver qdqbert rembert roberta
roberta-prelayernorm roc_bert roformer squeezebert tapas ultrabert ultravbert xlm-roberta xlm-roberta-xl xmod
yoso
"""
#: `model_type` of models that transformers loads for masked language modelling and whose tokens see the whole text
#: unless the config says `is_decoder`. Encoder-decoders are left out: their decoders are causal anyway.
ENCODERS = frozenset(_NAMES.split())


def is_encoder(config: Mapping[str, Any]) -> bool:
    """Whether each token sees those after it in the model that a `config.json` describes."""
    # Whoever registers a base may claim any value.
    return str(config.get("model_type")) in ENCODERS and config.get("is_decoder") is not True


def no_next_token(model_type: Any) -> str:
    """Return, as a sentence without a full stop, why an encoder is not trained to predict the next token."""
    return (
        f"it is an encoder ({str(model_type)[:80]}), whose tokens see the ones after them, so a loss on the next token"
        " would see its own answer; train a classification, with rows of {text, label} and: adapterctl train NAME --objective"
        " classify, or choose a decoder"
    )
