"""How much memory a merge needs, in bytes, computed before any weights are loaded, and how many logits a training holds.

For trainings and evaluations, see `sdk.lora.planning`.

>>> f"{merge_bytes(quantized=False) / 1e9:.1f} GB"
'0.5 GB'
"""

from __future__ import annotations

from typing import Literal

#: Interpreter and libraries, without mapped files: 330 MiB were seen, and more with a torch that is built for cards.
_MERGE_PROCESS_BYTES = 384 * 2**20
#: Blocks of rows, the matrices of one module, and the float64 copies of both while reading back: 150 MiB were seen, with the
#: process never more than 480, and 321 over a base in 4 bits.
_MERGE_BLOCKS_BYTES = 112 * 2**20
#: The largest weight in 4 bits, twice, with its scales.
_MERGE_CODES_BYTES = 128 * 2**20
#: Gaps between freed pieces that nothing else fits into.
_FRAGMENTED = 1.1
#: NF4 keeps 4 bits of 16 and a scale for each 64 weights; embeddings and norms stay as they are.
_QUANTIZED_SHARE = 0.3
#: The number of texts on which a merge compares models, the most tokens of each, and how many (tokens, vocabulary)
#: matrices in float32 it holds at a time for that.
_PROBE_TOKENS = 5 * 32
_PROBE_MATRICES = 4


def merge_bytes(*, quantized: bool) -> int:
    """Return a merge's peak memory, whatever the size of its base: files are mapped, and only blocks of rows are held.

    It is process + blocks, and over a base in 4 bits also the codes of one weight and the scales of all its blocks.
    """
    return _MERGE_PROCESS_BYTES + _MERGE_BLOCKS_BYTES + (_MERGE_CODES_BYTES if quantized else 0)


def prompts_bytes(weights_bytes: int, *, quantized: bool, merged_bytes: int, vocabulary: int) -> int:
    """Return the extra memory for comparing a merged model's predictions with those of the base as trained.

    1.1·max(S, M) + L, where S is the size of the weights as they are stored, plus their 4-bit copy if they are
    quantised in memory, M the size of the merged model, and L four (160, vocabulary) matrices in float32. With less
    memory, a merge skips the comparison. One model is in memory at a time; a CPU that can't multiply 16-bit numbers
    holds them in 32.
    """
    base = int(weights_bytes * (1 + _QUANTIZED_SHARE)) if quantized else weights_bytes
    return int(_FRAGMENTED * max(base, merged_bytes)) + _PROBE_TOKENS * vocabulary * 4 * _PROBE_MATRICES


def widened_bytes(numbers: int, *, width: int = 2) -> int:
    """Return the size of quantised weights once widened to numbers of `width` bytes."""
    return width * numbers


#: The logits of a chunk take 16 MiB in float32 on a CPU, and 256 MiB on a card, which is as slow for few tokens as for many.
_LOGITS = {"cpu": 2**22, "cuda": 2**26}
#: With fewer tokens, reading the head's weights would take longer than computing with them.
_LEAST_TOKENS = {"cpu": 64, "cuda": 256}


def chunk_tokens(vocabulary: int, place: Literal["cuda", "cpu"]) -> int:
    """Return for how many tokens a training has logits at a time, given the size of the vocabulary: the one rule for
    workers and for the forecasts of their memory.

    >>> chunk_tokens(49_152, "cpu"), chunk_tokens(262_144, "cpu"), chunk_tokens(128_256, "cuda")
    (85, 64, 523)
    """
    return max(_LEAST_TOKENS[place], _LOGITS[place] // vocabulary)
