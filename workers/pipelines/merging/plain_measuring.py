"""The fixed texts of `prompts` through both models of a plain merge, in one pass of each: the base with the unmerged adapter, and
the written files.

Everything is in float32, so what differs is the rounding of the written weights alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sdk.formats.base_files import CONFIG_FILE
from sdk.schemas.failures import FailureReason
from workers.main_memory import main_memory
from workers.pipelines.data.encoding import encoder_of_file
from workers.pipelines.data.fixed_texts import PROBE_TEXTS
from workers.pipelines.data.tokenizer import longest_row
from workers.pipelines.data.vocabulary import embedded
from workers.pipelines.errors import PipelineError, named
from workers.pipelines.merging.changes import LowRank, low_rank
from workers.pipelines.merging.independent import in_float32, raw
from workers.pipelines.merging.judgement import PROBE_LENGTH, Distance
from workers.pipelines.merging.plain_model import EMBEDDING, PlainModel, plain_model
from workers.pipelines.merging.prepared import Prepared
from workers.pipelines.merging.stored_base import StoredBase, open_files
from workers.pipelines.merging.threads import threads

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

#: The largest base, in bytes, that is measured here: with more, torch's products in 16 bits save more than its import takes.
_MOST_BYTES = 2 * 2**30
#: How many copies of all logits there are at a time, at most.
_COPIES = 3
#: How many numbers of a weight are in float32 at a time, and in how many threads.
_BLOCK_NUMBERS, _THREADS = 2**20, 2


class Measured(NamedTuple):
    """How far the written model's predictions are from the trained one's, over so many tokens."""

    distance: Distance
    tokens: int


def is_measured_here(prepared: Prepared, base: Path) -> bool:
    """Whether the fixed texts can go through both models without torch and transformers, and sooner."""
    size_bytes = sum(tensor.end - tensor.begin for tensor in prepared.base.tensors.values())
    return (
        size_bytes <= _MOST_BYTES and _model_of(prepared.config, base) is not None and _read_tokenizer(base) is not None
    )


def is_there_memory(prepared: Prepared) -> bool:
    """Whether there is the memory for it: for a few copies of both models' logits, and for blocks of weights."""
    words = prepared.base.tensors[EMBEDDING].shape[0]
    needed = _COPIES * 2 * 4 * len(PROBE_TEXTS) * PROBE_LENGTH * words + _THREADS * 2 * 4 * _BLOCK_NUMBERS
    return main_memory().available_bytes >= needed


def measured(prepared: Prepared, base: Path, folder: Path) -> Measured:
    """Return how far the written files' predictions are from those of the base with the unmerged adapter.

    Raises PipelineError ("verification") if the written files can't be read.
    """
    with named(FailureReason.VERIFICATION, "The merged model can't be loaded again: {error}", OSError, ValueError):
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        files = open_files(folder, list(prepared.base.headers))
    model, tokenizer = _model_of(config, folder), _read_tokenizer(folder)
    if model is None or tokenizer is None:
        raise PipelineError(
            FailureReason.VERIFICATION, "The merged model can't be loaded again: its config has changed."
        )
    cut, words = longest_row(base, PROBE_LENGTH), prepared.base.tensors[EMBEDDING].shape[0]
    encoder = encoder_of_file(tokenizer)
    rows = [embedded(encoder.whole(text), words=words)[:cut] for text in PROBE_TEXTS]
    ids = np.zeros((len(rows), max(map(len, rows))), dtype="<i8")
    # What follows a text has no influence on it.
    for text, row in zip(ids, rows, strict=True):
        text[: len(row)] = row
    kept = np.arange(ids.shape[1])[None, :] < np.array([len(row) for row in rows])[:, None]
    trained, merged = _Both(prepared, files).logits(model, ids)
    return Measured(_distance(trained[kept], merged[kept]), int(kept.sum()))


def _model_of(config: dict[str, Any], folder: Path) -> PlainModel | None:
    return plain_model(config, longest=longest_row(folder, PROBE_LENGTH))


def _read_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a folder; None if this library can't read it alone."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # noqa: BLE001 - the library raises nothing narrower
        return None


class _Both:
    """The weights of both models."""

    def __init__(self, prepared: Prepared, files: StoredBase) -> None:
        self._base, self._files, self._adapter = prepared.base, files, prepared.changes.file
        self._changes: dict[str, LowRank] = {}
        for parameter, given in prepared.changes.by_parameter.items():
            (self._changes[parameter],) = low_rank(given)

    def logits(self, model: PlainModel, ids: Array) -> Array:
        """Return the logits of the trained and of the written model, (2, texts, seq, vocabulary)."""
        with threads(_THREADS) as pool:

            def multiplied(name: str, inputs: Array) -> Array:
                found = np.empty((2, inputs.shape[1], self._files.tensors[name].shape[0]), "<f4")
                for _ in pool.map(lambda rows: self._multiply(name, inputs, found, rows), self._blocks(name)):
                    pass
                change = self._changes.get(name)
                if change is not None:
                    a, b = (_matrix(self._adapter, factor.key) for factor in (change.a, change.b))
                    found[0] += (inputs[0] @ a.T @ b.T) * np.float32(change.scale)
                return found

            return model.logits(ids, embedding=self._embedding, vector=self._vector, multiplied=multiplied)

    def _blocks(self, name: str) -> Iterator[slice]:
        rows, columns = self._files.tensors[name].shape
        step = max(16, min(-(-rows // _THREADS), _BLOCK_NUMBERS // columns))
        return (slice(begin, begin + step) for begin in range(0, rows, step))

    def _multiply(self, name: str, inputs: Array, found: Array, rows: slice) -> None:
        """Compute some rows of x·Wᵀ for both models."""
        written = _matrix(self._files, name, rows).T
        if name in self._changes:
            found[0, :, rows] = inputs[0] @ _matrix(self._base, name, rows).T
            found[1, :, rows] = inputs[1] @ written
            return
        # The read-back has compared its bytes with the base's.
        found[:, :, rows] = (inputs.reshape(-1, inputs.shape[2]) @ written).reshape(2, inputs.shape[1], -1)

    def _vector(self, name: str) -> Array | None:
        if name not in self._files.tensors:
            return None
        return in_float32(raw(self._files, name), self._files.tensors[name].dtype)

    def _embedding(self, tokens: Array) -> Array:
        return _matrix(self._files, EMBEDDING, tokens)


def _matrix(files: StoredBase, name: str, rows: slice | Array = slice(None)) -> Array:
    tensor = files.tensors[name]
    return in_float32(raw(files, name).reshape(tensor.shape)[rows], tensor.dtype)


def _distance(trained: Array, merged: Array) -> Distance:
    """Compare logits, (tokens, vocabulary): the mean of KL(trained ‖ merged) = Σ p·(log p − log q), and the largest difference."""
    most, kl = 0.0, 0.0
    for expected, found in zip(trained, merged, strict=True):
        most = max(most, float(np.abs(expected - found).max()))
        p, q = _log_softmax(expected.astype("<f8")), _log_softmax(found.astype("<f8"))
        kl += float((np.exp(p) * (p - q)).sum())
    # It is never negative, but rounding may make it so when terms cancel.
    mean = kl / len(trained)
    return Distance(max(0.0, mean) if mean == mean else mean, most)


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max()
    found: Array = shifted - np.log(np.exp(shifted).sum())
    return found
