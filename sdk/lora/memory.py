"""How much memory work over a base needs, in bytes, from what is known before any weights are loaded.

What a job asks of a worker is what it surely takes, not what it would like: one that asks for more waits for no reason.

>>> f"{loading_bytes(14_000_000_000, quantized=True) / 1e9:.1f} GB"
'4.7 GB'
>>> merge = merge_bytes(14_000_000_000, stored_dtype="bfloat16", merged_dtype="auto", quantized=False, vocabulary=32_000)
>>> f"{merge / 1e9:.1f} GB"
'32.3 GB'
"""

from __future__ import annotations

from typing import Literal

#: Interpreter and libraries, without any weights.
_PROCESS_BYTES = 512 * 2**20
#: Likewise of a merge, which was seen to take 545 MiB, and 1,120 MiB with a torch that is built for cards.
_MERGE_PROCESS_BYTES = 1216 * 2**20
#: What freed pieces leave between them that nothing else fits into.
_FRAGMENTED = 1.1
#: NF4 keeps 4 bits of 16 and a scale for each 64 weights; embeddings and norms stay as they are.
_QUANTIZED_SHARE = 0.3
#: Bytes of one number.
_WIDTHS = {"bfloat16": 2, "float16": 2, "float32": 4}
#: Texts by which a merge measures models, the tokens of each at most, and the (tokens, vocabulary) matrices in float32 that
#: it holds at a time to compare two of them.
_PROBE_TOKENS = 4 * 128
_PROBE_MATRICES = 4

Dtype = Literal["auto", "bfloat16", "float16", "float32"]


def loading_bytes(weights_bytes: int, *, quantized: bool, kept_share: float = 0.0) -> int:
    """Return the least that a training or an evaluation takes: the base as it is held, and the process.

    process + S, where S is the size of the weights as they are stored; where they are quantised to 4 bits, process + 0.3·S of
    what is packed, and all of `kept_share`, the experts of a mixture, which stay in 16 bit.
    """
    packed = weights_bytes * (1 - kept_share) * _QUANTIZED_SHARE + weights_bytes * kept_share
    return _PROCESS_BYTES + int(packed if quantized else weights_bytes)


def merge_bytes(
    weights_bytes: int,
    *,
    stored_dtype: str | None,
    merged_dtype: Dtype,
    quantized: bool,
    vocabulary: int,
    packed_parameters: int | None = None,
) -> int:
    """Return what a merge takes at its peak: whole models, and the logits by which they are compared.

    process + 1.1·(S + M + Q) + L, where S is the size of the weights as they are stored, whose file stays mapped; M
    that of the merged model, in the stored precision where "auto" is asked for; Q, where the adapter was trained over 4
    bits, twice the weights in 16 bit, for the base is quantised, made wide again and measured before it is merged onto;
    and L the logits of the probe, four (512, vocabulary) matrices in float32. A base that is stored in 4 bits, of
    `packed_parameters` numbers, is made wide once, and has no other weights to merge onto. A precision that is not
    known is taken for float32, as transformers does. A CPU that can't multiply 16-bit numbers needs more, which nobody
    knows at submit.
    """
    stored_width = _WIDTHS.get(stored_dtype or "", 4)
    numbers = weights_bytes // stored_width if packed_parameters is None else packed_parameters
    merged = numbers * (stored_width if merged_dtype == "auto" else _WIDTHS[merged_dtype])
    wide = 0
    if packed_parameters is not None:
        wide = 2 * numbers
    elif quantized:
        wide = 2 * numbers * 2
    models = int(_FRAGMENTED * (weights_bytes + merged + wide))
    return _MERGE_PROCESS_BYTES + models + _PROBE_TOKENS * vocabulary * 4 * _PROBE_MATRICES


def pass_bytes(*, tokens: int, hidden: int, inner: int, layers: int, vocabulary: int, width: int) -> int:
    """Return what a forward pass of `tokens` keeps for the backward pass, in numbers of `width` bytes, and the logits.

    Per token and layer some 18 vectors of the hidden size and 6 of the MLP's, and the adapters' float32 inputs, 4 more in 16
    bit; attention keeps no (seq, seq) matrix. The logits count in 16 bit once and in float32 twice. This is an upper
    estimate for Llama's kin.
    """
    activations = tokens * layers * (18 * hidden + 6 * inner + 8 * hidden) * width
    return activations + tokens * vocabulary * (width + 8)


def widened_bytes(numbers: int, *, width: int = 2) -> int:
    """Return what quantised weights take that are made wide, in numbers of `width` bytes."""
    return width * numbers
