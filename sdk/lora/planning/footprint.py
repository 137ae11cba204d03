"""How much memory a training takes, part by part, in bytes. Nothing is measured here: each formula says where it is from.

>>> f"{nf4_bits(double_quant=False)} {nf4_bits(double_quant=True):.3f} bits a weight"
'4.5 4.127 bits a weight'
>>> whole = logits_bytes(tokens=4096, vocabulary=32000)
>>> f"{whole / 1e9:.2f} GB of logits, {logits_bytes(tokens=4096, vocabulary=32000, chunk_tokens=256) / 1e9:.2f} GB in chunks"
'1.57 GB of logits, 0.10 GB in chunks'
"""

from __future__ import annotations

import math
from typing import Literal

from sdk.lora.planning.adapter import ADAPTER_BYTES, AdapterPlan
from sdk.lora.planning.blueprint import Blueprint
from sdk.schemas.probe import MOST_TOKENS

Method = Literal["qlora", "lora", "full"]
Attention = Literal["sdpa", "flash", "eager"]
Place = Literal["cuda", "cpu"]
Optim = Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"]

#: A 16-bit number.
HALF = 2
#: Weights that share a scale, and scales that share one in turn (QLoRA, arXiv:2305.14314, section 3).
BLOCK, NESTED_BLOCK = 64, 256
#: Bytes a number of a dropout's mask; a worker without a card has one of its own (`workers.pipelines.model.dropout`).
_DROPOUT_MASK = 1
#: Of bytes in pieces that glibc takes from its heap, so much lies between them in pieces that are too small for what comes
#: next.
_GAPS = 0.12
#: Beside weights of 16 bits experts leave more, which compute in pieces of ever other sizes.
_GAPS_OF_EXPERTS = 0.2
#: Larger pieces are mapped by themselves, and leave none.
_LARGEST_IN_HEAP_BYTES = 32 * 2**20
#: glibc gives free memory at the end of its heap back beyond twice the threshold above which a piece is mapped by itself, and
#: raises that to 32 MiB (mallopt(3), M_MMAP_THRESHOLD).
KEPT_BY_MALLOC_BYTES = 2 * 32 * 2**20
#: oneDNN, which multiplies numbers of 16 bits on a CPU, keeps what it made for each shape of a product (its primitive cache), of the last
#: 1,024 shapes, or of as many as workers tell it: 0.6 MB each with torch 2.13 where experts get a few hundred tokens, and up to 4 MB where
#: they get thousands.
_KERNEL_BYTES = 2 * 2**20
MOST_KERNELS = 64
#: Three numbers of 64 bits for each token of an expert.
_PLACES = 24
#: bitsandbytes keeps moments of fewer numbers in 32 bits, and a scale for each 256 of the others.
_SMALL_TENSOR, _MOMENT_BLOCK = 4096, 256
#: It pages the moments of tensors of at least so many numbers.
_PAGED_TENSOR = 100_000


def nf4_bits(*, double_quant: bool) -> float:
    """Return the bits of a weight: 4 and a float32 scale for 64, or an 8-bit one with a float32 for 256 of those."""
    return 4 + (8 / BLOCK + 32 / (BLOCK * NESTED_BLOCK) if double_quant else 32 / BLOCK)


def packed_bytes(numbers: int, *, double_quant: bool) -> int:
    """Return the bytes of one matrix in 4 bits, with its scales, as bitsandbytes rounds them up."""
    blocks = math.ceil(numbers / BLOCK)
    scales = blocks + 4 * math.ceil(blocks / NESTED_BLOCK) if double_quant else 4 * blocks
    return math.ceil(numbers / 2) + scales


def int8_bytes(out: int, into: int) -> int:
    """Return the bytes of one matrix in 8 bits, with a float32 scale for each row."""
    return out * into + 4 * out


def weights_parts(
    base: Blueprint, method: Method, *, double_quant: bool = True, eight_bits: bool = False, width: int = HALF
) -> dict[str, int]:
    """Return the bytes of the base as a training holds it, by what they are.

    For "qlora" bitsandbytes packs the linear modules of the layers; embedding, head, norms, biases and stacked experts stay.
    """
    if method != "qlora":
        return {"weights": width * base.parameters}
    packed = {name: math.prod(shape) for name, shape in base.linear.items()}
    rest = base.parameters - sum(packed.values())
    return {
        "packed": sum(
            int8_bytes(*base.linear[name]) if eight_bits else packed_bytes(numbers, double_quant=double_quant)
            for name, numbers in packed.items()
        ),
        "kept": width * rest,
    }


def moment_bytes(adapter: AdapterPlan, optim: Optim) -> tuple[int, int]:
    """Return the two moments of AdamW for each trained parameter that stay on the card, and those that are paged out of it.

    They take 4 bytes each, or 1 with a scale for 256. bitsandbytes pages no small tensor, and no scales.
    """
    shapes = [shape for module in adapter.modules.values() for _, shape in module.tensors]
    card = paged = 0
    for count in (math.prod(shape) for shape in (*shapes, *adapter.whole.values())):
        scaled = "8bit" in optim and count >= _SMALL_TENSOR
        moments = 2 * count if scaled else 8 * count
        card += 8 * math.ceil(count / _MOMENT_BLOCK) if scaled else 0
        if optim.startswith("paged") and count >= _PAGED_TENSOR:
            paged += moments
        else:
            card += moments
    return card, paged


def optimizer_bytes(adapter: AdapterPlan, optim: Optim) -> int:
    """Return the moments wherever they are."""
    return sum(moment_bytes(adapter, optim))


def layer_bytes(
    base: Blueprint,
    adapter: AdapterPlan | None,
    *,
    tokens: int,
    length: int,
    width: int = HALF,
    attention: Attention = "sdpa",
    mask: int = 0,
    masked: bool = False,
    place: Place = "cuda",
    narrowed: bool = False,
) -> int:
    """Return what one layer keeps of a forward pass of `tokens` for its backward pass, rows of `length`; the largest layer.

    Counted tensor by tensor as autograd saves them in transformers' models (the way of arXiv:2205.05198, section 4). A frozen
    linear module keeps nothing of its input; A keeps a float32 copy of it, and `mask` bytes a number for the dropout. `adapter` None: everything
    is trained, and each linear module keeps its input too. `narrowed`: what is really of 16 bits is kept in 16, and once
    (`workers.pipelines.model.saved_tensors`). Rows that are padded on the right need no mask in a causal model, so that
    trainings give none, and then attention takes keys and values as they are; `masked` ones are repeated for each head of queries.
    """
    # RMSNorm works on a float32 copy of its input.
    copied = width if narrowed else 4
    kept = copied * base.norms * base.hidden
    if base.normed_queries:
        kept += copied * (base.queries + base.keys)
    # Queries, keys and values as attention takes them, and what it gives; the sum of exponents is a float32 per head.
    repeated = base.queries if attention == "eager" or (attention == "sdpa" and masked) else base.keys
    kept += width * (2 * base.queries + 2 * repeated) + 4 * base.heads
    if base.joined_qkv:
        # The values are a part of what one matrix makes, which stays whole.
        kept += width * (base.queries + base.keys)
    if attention == "eager":
        # The softmax in float32, and again in the type of the values.
        kept += base.heads * length * (4 + (width if width < 4 else 0))
        if not base.sdpa:
            # The softly cut scores, tanh(S/c)·c.
            kept += base.heads * length * width
    elif attention == "sdpa" and masked:
        # A row of the mask, made anew in each layer.
        kept += width * length
    if base.drops_attention and place == "cpu" and attention == "sdpa":
        # torch has no such kernel for CPUs that drops: the softmax, its mask and what is left, and masks of what goes into the residuals.
        kept += 12 * base.heads * length + 4 * base.norms * base.hidden
    # Of SwiGLU gate, its activation and up; of a GELU that is composed of operations their factors.
    mlp = width * base.inner * base.mlp_kept
    if base.experts:
        # Each expert keeps its output until it is weighted, and where its tokens are: their order, and back.
        mlp = base.experts * (mlp + width * base.hidden + _PLACES)
    kept += mlp
    if adapter is None:
        kept += width * (base.norms * base.hidden + 2 * base.hidden + base.inner * max(1, base.experts))
    else:
        # What a dropout has scaled has more bits than it had.
        kept += _adapter_bytes(adapter, copied=4 if mask else copied, mask=mask, shared=width >= 4 or narrowed)
    return tokens * kept + (0 if adapter is None else _dora_bytes(adapter, width=width, mask=mask))


def _dora_bytes(adapter: AdapterPlan, *, width: int, mask: int) -> int:
    """Return what DoRA keeps of a layer's matrices: after dropout PEFT multiplies them again, as a float32 copy of each."""
    found: dict[str, int] = {}
    for name, module in adapter.modules.items():
        if module.dora and mask and width < 4:
            found[_layer(name)] = found.get(_layer(name), 0) + 4 * module.out * module.into
    return max(found.values(), default=0)


def _layer(name: str) -> str:
    return next((part for part in name.split(".") if part.isdecimal()), "")


def _adapter_bytes(adapter: AdapterPlan, *, copied: int, mask: int, shared: bool) -> int:
    """Return what A and B keep for a token in the layer where they keep most; `shared`: inputs that are the same are kept once."""
    found: dict[str, dict[tuple[str, int], int]] = {}
    for name, module in adapter.modules.items():
        # A float32 copy for each A; of float32 numbers there is none without dropout.
        own = name.rpartition(".")[0] if shared and not mask else name
        inputs = found.setdefault(_layer(name), {})
        inputs[own, module.into] = (copied + mask) * module.into
        # DoRA multiplies the base's product, and the adapter's, by the magnitudes.
        inputs[name, 0] = 4 * module.rank + (8 * module.out if module.dora else 0)
    return max((sum(inputs.values()) for inputs in found.values()), default=0)


def logits_bytes(*, tokens: int, vocabulary: int, chunk_tokens: int | None = None, capped_width: int = 0) -> int:
    """Return the logits of supervised tokens, (tokens, vocabulary), as cross-entropy has them in the backward pass.

    That is three times in float32: their log-softmax, the gradient of the loss by that, and by the logits. In the forward pass there
    is less: the logits as computed beside those of supervised positions, or these in float32 beside their log-softmax
    (`workers.pipelines.data.batches`). Logits that are cut softly keep what tanh made of them too, in numbers of `capped_width`. In chunks
    only those of one chunk are there at a time.
    """
    return min(tokens, chunk_tokens or tokens) * vocabulary * (12 + capped_width)


def looked_at_bytes(base: Blueprint, *, width: int) -> int:
    """Return the most that is there before the first step and after the last one, without a backward pass.

    Before it, the head is tested for causality in float32 (`workers.pipelines.model.causality`); after it, a fixed text is predicted with
    the adapter and without (`workers.pipelines.data.probe`), where softly cut logits are there three times.
    """
    widened = 4 * base.vocabulary * base.hidden if width < 4 else 0
    return max(widened, (2 if base.sdpa else 4) * MOST_TOKENS * base.vocabulary * width)


def pass_parts(
    base: Blueprint,
    adapter: AdapterPlan | None,
    *,
    tokens: int,
    length: int,
    checkpointing: bool,
    width: int = HALF,
    attention: Attention = "sdpa",
    dropout: float = 0.0,
    place: Place = "cuda",
    chunk_tokens: int | None = None,
    supervised_tokens: int | None = None,
    predicts_tokens: bool = True,
) -> dict[str, int]:
    """Return what a forward pass of `tokens` keeps: activations, and logits, of which a classification has next to none.

    With checkpointing each layer keeps its input alone, (tokens, hidden), and one layer at a time is computed again
    (arXiv:1604.06174), when the logits are gone: what it takes beyond them is added. After the last layer one more normalisation is
    kept. In main memory what a layer has freed stays in malloc's heap beside the logits, which are mapped by themselves, so there nothing
    is gone, and the gradients of an MLP count too; with checkpointing all that is large is mapped (`workers.pipelines.model.freed`).
    """
    mask = _DROPOUT_MASK if dropout else 0
    layer = layer_bytes(
        base,
        adapter,
        tokens=tokens,
        length=length,
        width=width,
        attention=attention,
        mask=mask,
        # What is told apart are whole rows, whose end a classifier finds by the mask.
        masked=not predicts_tokens,
        place=place,
        # What is computed again is kept as it comes.
        narrowed=place == "cpu" and not checkpointing,
    )
    logits = 0
    if predicts_tokens:
        counted = tokens if supervised_tokens is None else supervised_tokens
        capped = 0 if base.sdpa else width
        logits = logits_bytes(
            tokens=counted, vocabulary=base.vocabulary, chunk_tokens=chunk_tokens, capped_width=capped
        )
        if place == "cpu" and width < 4:
            # oneDNN copies the head into an order of its own for each product.
            logits += width * base.vocabulary * base.hidden
    inputs = width * tokens * base.hidden
    last = inputs + 4 * tokens * base.hidden
    if place == "cpu" and checkpointing:
        again = layer + tokens * _gradients_again(base, adapter, width=width, mask=mask)
        return {"activations": base.layers * inputs + max(last, again - logits), "logits": logits}
    if place == "cpu":
        piece = tokens * width * base.inner
        mapped = 0 if base.experts or piece <= _LARGEST_IN_HEAP_BYTES else base.mlp_kept * piece
        gradients = _gradients(base, width) + _adapter_gradients(adapter)
        if mapped:
            gradients = _gradients_again(base, adapter, width=width, mask=mask)
        gaps = (_GAPS_OF_EXPERTS if base.experts and width < 4 else _GAPS) * (base.layers * (layer - mapped) + last)
        return {"activations": int(base.layers * layer + last + gaps) + tokens * gradients, "logits": logits}
    held = base.layers * inputs + max(0, layer - logits) if checkpointing else base.layers * layer
    return {"activations": held + last, "logits": logits}


def _gradients(base: Blueprint, width: int) -> int:
    """Return those of a token while an MLP is differentiated: of its product, of both factors, and of what goes in and out.

    Of each expert there are two more of what goes out and two of what comes in: weighted or not, and in the order of the tokens or of the
    experts.
    """
    # Without a gate it is two: of the activation, and of what it is of.
    inner = min(3, base.mlp_kept + 1) * base.inner
    mlp = base.experts * (inner + 4 * base.hidden) if base.experts else inner
    return width * (mlp + 2 * base.hidden)


def _gradients_again(base: Blueprint, adapter: AdapterPlan | None, *, width: int, mask: int) -> int:
    """Return the gradients of a token beside all that its layer keeps, where what is freed is gone at once: those of the widest A and B, or
    of the MLP, whose last module has given back the input of its A by then.
    """
    modules = adapter.modules.values() if adapter else ()
    of_adapter = max((8 * (module.into + module.out) + 20 * module.out * module.dora for module in modules), default=0)
    given_back = max(((4 + mask) * module.into for module in modules if module.into >= base.inner), default=0)
    return max(of_adapter, _gradients(base, width) - given_back)


def _adapter_gradients(adapter: AdapterPlan | None) -> int:
    """Return those of a token while the widest A and B are differentiated, in float32.

    Of what goes in and comes out: as they come, scaled, and with the mask of the dropout. DoRA has five more of what comes out, of both
    products, of both factors, and of their sum, and its forward pass leaves the room of as many behind.
    """
    modules = adapter.modules.values() if adapter else ()
    return max((12 * (module.into + module.out) + 40 * module.out * module.dora for module in modules), default=0)


def widened_matrix_bytes(base: Blueprint, adapter: AdapterPlan | None, method: Method, *, width: int = HALF) -> int:
    """Return the largest matrix that is made wide for a while: of 4 bits for its product, and of DoRA in float32 for its norms."""
    most = 0
    if method == "qlora":
        most = width * max((math.prod(shape) for shape in base.linear.values()), default=0)
    dora = (
        max((8 * module.out * module.into for module in adapter.modules.values() if module.dora), default=0)
        if adapter
        else 0
    )
    return max(most, dora)


def adapter_parts(adapter: AdapterPlan, optim: Optim) -> dict[str, int]:
    """Return the bytes of A and B and what else is trained, of its gradients, and of the optimiser's moments."""
    own = ADAPTER_BYTES * adapter.trainable
    card, paged = moment_bytes(adapter, optim)
    return {"adapter": own, "gradients": own, "optimizer": card, "paged optimizer": paged}


def kernel_bytes(base: Blueprint, *, width: int, passes: int | None) -> int:
    """Return what oneDNN keeps of products of experts, each of which has tokens of a number of its own, forward and backward.

    `passes`: forward passes in all; None: many. Products of all tokens have few shapes, as long as rows are of few lengths.
    """
    if width >= 4:
        return 0
    shapes = 2 * sum(count for count, _, _ in base.stacked.values())
    return _KERNEL_BYTES * (min(MOST_KERNELS, shapes * passes) if passes is not None else MOST_KERNELS * bool(shapes))


def full_parts(base: Blueprint, *, width: int = HALF) -> dict[str, int]:
    """Return gradients and the two moments of Adam of all parameters, in 16 bit as the weights are."""
    return {"gradients": width * base.parameters, "optimizer": 2 * width * base.parameters}
