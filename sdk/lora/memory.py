"""How much memory a merge needs, in bytes, from what is known before any weights are loaded.

What trainings and evaluations need, `sdk.lora.planning` says.

>>> f"{merge_bytes(quantized=False) / 1e9:.1f} GB"
'0.6 GB'
"""

from __future__ import annotations

#: Interpreter and libraries, without what is mapped of files: 330 MiB were seen, and more with a torch that is built for cards.
_MERGE_PROCESS_BYTES = 384 * 2**20
#: Blocks of rows, the matrices of one module, and what the read-back holds of both in float64: 150 MiB were seen.
_MERGE_BLOCKS_BYTES = 160 * 2**20
#: Of the largest weight in 4 bits, twice, with its scales.
_MERGE_CODES_BYTES = 128 * 2**20
#: What freed pieces leave between them that nothing else fits into.
_FRAGMENTED = 1.1
#: NF4 keeps 4 bits of 16 and a scale for each 64 weights; embeddings and norms stay as they are.
_QUANTIZED_SHARE = 0.3
#: Texts by which a merge measures models, the tokens of each at most, and the (tokens, vocabulary) matrices in float32 that
#: it holds at a time to compare two of them.
_PROBE_TOKENS = 4 * 128
_PROBE_MATRICES = 4


def merge_bytes(*, quantized: bool) -> int:
    """Return what a merge takes at its peak, whatever the size of its base: files are mapped, and blocks of rows are held.

    process + blocks; over 4 bits the codes of one weight as well, and the scales of all its blocks.
    """
    return _MERGE_PROCESS_BYTES + _MERGE_BLOCKS_BYTES + (_MERGE_CODES_BYTES if quantized else 0)


def prompts_bytes(weights_bytes: int, *, quantized: bool, merged_bytes: int, vocabulary: int) -> int:
    """Return what it takes beside that to hold a merged model's predictions against those of the base as trained.

    1.1·max(S, M) + L, where S is the size of the weights as they are stored, of which one that is quantised in memory needs
    the 16-bit one too, M that of the merged model, and L four (512, vocabulary) matrices in float32. Where there is not as much,
    a merge does without. One model is in memory at a time; a CPU that can't multiply 16-bit numbers holds them in 32.
    """
    base = int(weights_bytes * (1 + _QUANTIZED_SHARE)) if quantized else weights_bytes
    return int(_FRAGMENTED * max(base, merged_bytes)) + _PROBE_TOKENS * vocabulary * 4 * _PROBE_MATRICES


def widened_bytes(numbers: int, *, width: int = 2) -> int:
    """Return what quantised weights take that are made wide, in numbers of `width` bytes."""
    return width * numbers
