"""How much memory a training takes, part by part, in bytes. Nothing is measured here: each formula names its source.

>>> f"{nf4_bits(double_quant=False)} {nf4_bits(double_quant=True):.3f} bits a weight"
'4.5 4.127 bits a weight'
>>> whole = logits_bytes(tokens=4096, vocabulary=32000)
>>> f"{whole / 1e9:.2f} GB of logits, {logits_bytes(tokens=4096, vocabulary=32000, chunk_tokens=256) / 1e9:.2f} GB in chunks"
'1.57 GB of logits, 0.10 GB in chunks'
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Literal

from sdk.lora.planning.adapter import ADAPTER_BYTES, AdapterPlan
from sdk.lora.planning.blueprint import ModelShapes
from sdk.lora.planning.kernels import MOST_KERNELS
from sdk.schemas.optimizers import Optimizer
from sdk.schemas.planning import Attention
from sdk.schemas.probe import MOST_TOKENS

Method = Literal["qlora", "lora", "full"]
Place = Literal["cuda", "cpu"]

#: A 16-bit number.
HALF = 2
#: How many weights share a scale, and how many scales share one in turn (QLoRA, arXiv:2305.14314, section 3).
BLOCK, NESTED_BLOCK = 64, 256
#: Bytes per number in a dropout's mask; workers without a card use a dropout of their own (`workers.pipelines.model.dropout`).
_DROPOUT_MASK = 1
#: Fragmentation of glibc's heap: gaps that are too small for later allocations, as a share of the bytes allocated from
#: it.
_GAPS = 0.12
#: With 16-bit weights experts leave larger gaps, since they allocate pieces of ever-changing sizes.
_GAPS_OF_EXPERTS = 0.2
#: Larger pieces are mapped separately, and leave no gaps.
_LARGEST_IN_HEAP_BYTES = 32 * 2**20
#: glibc returns free memory at the end of its heap once it exceeds twice the threshold above which a piece is mapped
#: separately, and raises that threshold to 32 MiB (mallopt(3), M_MMAP_THRESHOLD).
KEPT_BY_MALLOC_BYTES = 2 * 32 * 2**20
#: oneDNN, which multiplies 16-bit numbers on a CPU, caches a kernel for each shape of a product (its primitive cache),
#: for the last 1,024 shapes, or as many as workers set: 0.6 MB each with torch 2.13 if experts get a few hundred
#: tokens, and up to 4 MB if they get thousands.
_KERNEL_BYTES = 2 * 2**20
#: Three 64-bit numbers for each token of an expert.
_PLACES = 24
#: bitsandbytes pages the moments of tensors with at least this many numbers.
_PAGED_TENSOR = 100_000


def nf4_bits(*, double_quant: bool) -> float:
    """Return the bits per weight: 4, and a float32 scale for every 64, or an 8-bit scale with a float32 for every 256
    scales.
    """
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
    base: ModelShapes, method: Method, *, double_quant: bool = True, eight_bits: bool = False, width: int = HALF
) -> dict[str, int]:
    """Return the bytes of the base as a training holds it, by kind.

    For "qlora" bitsandbytes packs the linear modules of the layers; embedding, head, norms, biases and stacked experts
    stay as they are.
    """
    if method != "qlora":
        return {"weights": width * base.parameters}
    packed_size = numbers = 0
    for (out, into), count in base.linear_sizes.items():
        one = int8_bytes(out, into) if eight_bits else packed_bytes(out * into, double_quant=double_quant)
        packed_size += count * one
        numbers += count * out * into
    return {"packed": packed_size, "kept": width * (base.parameters - numbers)}


def moment_bytes(adapter: AdapterPlan, optimizer: Optimizer) -> tuple[int, int]:
    """Return the bytes of what an optimiser keeps of trained tensors that stay on the card, and of those that are paged out.

    bitsandbytes pages neither small tensors nor scales.
    """
    shapes: Counter[tuple[int, ...]] = Counter(map(tuple, adapter.whole.values()))
    for module, count in adapter.kinds.items():
        for _, own in module.tensors:
            shapes[tuple(own)] += count
    card = paged = 0
    for shape, count in shapes.items():
        card += count * optimizer.scale_bytes(shape)
        if optimizer.paged and math.prod(shape) >= _PAGED_TENSOR:
            paged += count * optimizer.moment_bytes(shape)
        else:
            card += count * optimizer.moment_bytes(shape)
    return card, paged


def layer_bytes(
    base: ModelShapes,
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
    """Return what the largest layer keeps of a forward pass of `tokens`, in rows of `length`, for its backward pass.

    Counted tensor by tensor as autograd saves them in transformers' models (the way of arXiv:2205.05198, section 4). A frozen
    linear module keeps nothing of its input; A keeps a float32 copy of it, and `mask` bytes per number for the dropout.
    `adapter` None: everything is trained, and each linear module keeps its input too. `narrowed`: values that have 16
    bits of information are kept in 16 bits, and only once (`workers.pipelines.model.saved_tensors`). Rows padded on the
    right need no mask in a causal model, so trainings pass none, and attention uses keys and values as they are; with
    `masked` they are repeated for each head of queries.
    """
    # RMSNorm computes on a float32 copy of its input.
    copied = width if narrowed else 4
    kept = copied * base.norms * base.hidden
    if base.normed_queries:
        kept += copied * (base.queries + base.keys)
    # Attention's queries, keys, values and output; the sum of exponents is a float32 per head.
    repeated = base.queries if attention == "eager" or (attention == "sdpa" and masked) else base.keys
    kept += width * (2 * base.queries + 2 * repeated) + 4 * base.heads
    if base.joined_qkv:
        # The values are a view into the output of the one matrix, which stays whole.
        kept += width * (base.queries + base.keys)
    if attention == "eager":
        # The softmax in float32, and again in the values' type.
        kept += base.heads * length * (4 + (width if width < 4 else 0))
        if not base.sdpa:
            # The soft-capped scores, tanh(S/c)·c.
            kept += base.heads * length * width
    elif attention == "sdpa" and masked:
        # A row of the mask, made again in each layer.
        kept += width * length
    if base.drops_attention and place == "cpu" and attention == "sdpa":
        # torch has no such kernel with dropout for CPUs: softmax, its mask and the result are kept, and the masks
        # before the residuals.
        kept += 12 * base.heads * length + 4 * base.norms * base.hidden
    # For SwiGLU: gate, its activation and up; for a GELU composed of several operations: their factors.
    mlp = width * base.inner * base.mlp_kept
    if base.experts:
        # Each expert keeps its output until it is weighted, and the indices of its tokens: their order, and its inverse.
        mlp = base.experts * (mlp + width * base.hidden + _PLACES)
    kept += mlp
    if adapter is None:
        kept += width * (base.norms * base.hidden + 2 * base.hidden + base.inner * max(1, base.experts))
    else:
        # Values scaled by a dropout have more bits than before.
        kept += _adapter_bytes(adapter, copied=4 if mask else copied, mask=mask, shared=width >= 4 or narrowed)
    return tokens * kept + (0 if adapter is None else _dora_bytes(adapter, width=width, mask=mask))


def _dora_bytes(adapter: AdapterPlan, *, width: int, mask: int) -> int:
    """Return what DoRA keeps of a layer's matrices: with dropout PEFT multiplies by them again, with a float32 copy of each."""
    if not mask or width >= 4:
        return 0
    return max(
        (sum(4 * module.out * module.into for _, module in layer if module.dora) for layer in adapter.layers), default=0
    )


def _adapter_bytes(adapter: AdapterPlan, *, copied: int, mask: int, shared: bool) -> int:
    """Return what A and B keep per token in the layer where they keep most; `shared`: equal inputs are kept once."""
    most = 0
    for layer in adapter.layers:
        # A float32 copy for each A; if the numbers are float32 already, only with dropout.
        inputs = [(owner, module.into) for owner, module in layer]
        kept = (copied + mask) * sum(into for _, into in (set(inputs) if shared and not mask else inputs))
        # DoRA multiplies both the base's product and the adapter's by the magnitudes.
        kept += sum(4 * module.rank + (8 * module.out if module.dora else 0) for _, module in layer)
        most = max(most, kept)
    return most


def logits_bytes(*, tokens: int, vocabulary: int, chunk_tokens: int | None = None, capped_width: int = 0) -> int:
    """Return the bytes of the logits of supervised tokens, (tokens, vocabulary), in cross-entropy's backward pass.

    It holds three float32 copies: their log-softmax, and the gradients of the loss by it and by the logits. The forward
    pass holds less: the logits as computed and those of supervised positions, or these in float32 and their log-softmax
    (`workers.pipelines.data.batches`). Soft-capped logits also keep the result of tanh, in numbers of `capped_width`
    bytes. With chunks, only one chunk's logits are in memory at a time.
    """
    return min(tokens, chunk_tokens or tokens) * vocabulary * (12 + capped_width)


def rows_bytes(base: ModelShapes, adapter: AdapterPlan | None, *, width: int, logits: int) -> int:
    """Return what single trained rows of the embedding and the head take beyond `logits` bytes of logits.

    PEFT writes them into a copy of the whole matrix, (vocabulary, hidden), in each forward pass, and its gradient is of the
    whole matrix too (`peft.tuners.trainable_tokens`). The head keeps its copy until its gradient is there, when a third of
    the logits still is. The embedding's gradient comes last.
    """
    matrix = width * base.vocabulary * base.hidden
    head = matrix + max(0, matrix - 2 * logits // 3) if adapter and adapter.trains_head_rows else 0
    embedding = max(0, matrix - logits) if adapter and adapter.trains_rows else 0
    return max(head, embedding)


def looked_at_bytes(base: ModelShapes, *, width: int) -> int:
    """Return the peak before the first step and after the last one, where there is no backward pass.

    Before it, the head is tested for causality in float32 (`workers.pipelines.model.causality`); after it, a fixed text
    is predicted with the adapter and without (`workers.pipelines.data.probe`), with three copies of the logits if they
    are soft-capped.
    """
    widened = 4 * base.vocabulary * base.hidden if width < 4 else 0
    return max(widened, (2 if base.sdpa else 4) * MOST_TOKENS * base.vocabulary * width)


def pass_parts(
    base: ModelShapes,
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
    """Return what a forward pass of `tokens` keeps: activations, and logits, except for a classification, which has hardly any.

    With checkpointing each layer keeps only its input, (tokens, hidden), and one layer at a time is computed again
    (arXiv:1604.06174) after the logits are freed: only what it takes beyond them is added. One more normalisation is
    kept after the last layer. In main memory, what a layer frees stays in malloc's heap, while the logits are mapped
    separately, so nothing is given back there, and the gradients of an MLP count too; with checkpointing everything
    large is mapped (`workers.pipelines.model.device`).
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
        # A classifier classifies whole rows, and finds their ends by the mask.
        masked=not predicts_tokens,
        place=place,
        # What is computed again is kept in the type in which it comes.
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


def _gradients(base: ModelShapes, width: int) -> int:
    """Return the gradients per token while an MLP is differentiated: of its product, both factors, its input and its output.

    Each expert has two more of its output and two of its input: weighted or not, and in the order of the tokens or of
    the experts.
    """
    # Without a gate there are two: of the activation and of its input.
    inner = min(3, base.mlp_kept + 1) * base.inner
    mlp = base.experts * (inner + 4 * base.hidden) if base.experts else inner
    return width * (mlp + 2 * base.hidden)


def _gradients_again(base: ModelShapes, adapter: AdapterPlan | None, *, width: int, mask: int) -> int:
    """Return the gradients per token on top of all that its layer keeps, if freed memory is given back at once: those
    of the widest A and B, or of the MLP, whose last module has freed the input of its A by then.
    """
    modules = adapter.kinds if adapter else ()
    of_adapter = max((8 * (module.into + module.out) + 20 * module.out * module.dora for module in modules), default=0)
    given_back = max(((4 + mask) * module.into for module in modules if module.into >= base.inner), default=0)
    return max(of_adapter, _gradients(base, width) - given_back)


def _adapter_gradients(adapter: AdapterPlan | None) -> int:
    """Return the gradients per token while the widest A and B are differentiated, in float32.

    They are of input and output: as they come, scaled, and with the mask of the dropout. DoRA has five more of the
    output: of both products, of both factors, and of their sum, and its forward pass leaves as much freed memory
    behind.
    """
    modules = adapter.kinds if adapter else ()
    return max((12 * (module.into + module.out) + 40 * module.out * module.dora for module in modules), default=0)


def widened_matrix_bytes(base: ModelShapes, adapter: AdapterPlan | None, method: Method, *, width: int = HALF) -> int:
    """Return the bytes of the largest matrix that is widened temporarily: from 4 bits for its product, or to float32
    for DoRA's norms.
    """
    most = 0
    if method == "qlora":
        most = width * max((out * into for out, into in base.linear_sizes), default=0)
    dora = max((8 * module.out * module.into for module in adapter.kinds if module.dora), default=0) if adapter else 0
    return max(most, dora)


def adapter_parts(adapter: AdapterPlan, optimizer: Optimizer) -> dict[str, int]:
    """Return the bytes of A, B and whatever else is trained, of their gradients, and of the optimiser's moments."""
    own = ADAPTER_BYTES * adapter.trainable
    card, paged = moment_bytes(adapter, optimizer)
    return {"adapter": own, "gradients": own, "optimizer": card, "paged optimizer": paged}


def kernel_bytes(base: ModelShapes, *, width: int, passes: int | None) -> int:
    """Return what oneDNN caches for the products of experts, forward and backward: each expert has another number of tokens.

    `passes`: forward passes in total; None: many. Products over all tokens have few shapes, as long as rows have few lengths.
    """
    if width >= 4:
        return 0
    shapes = 2 * sum(count for count, _, _ in base.stacked.values())
    return _KERNEL_BYTES * (min(MOST_KERNELS, shapes * passes) if passes is not None else MOST_KERNELS * bool(shapes))


def full_parts(base: ModelShapes, *, width: int = HALF) -> dict[str, int]:
    """Return the bytes of gradients and Adam's two moments for all parameters, in 16 bits like the weights."""
    return {"gradients": width * base.parameters, "optimizer": 2 * width * base.parameters}
