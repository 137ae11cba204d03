"""WordNet's files on this worker, which `meteor` looks synonyms up in: whether they are there, and which they are."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from sdk.formats.canonical_json import digest_of
from sdk.pulling.transfer import hash_file
from sdk.schemas.evaluation import WORDNET
from sdk.schemas.work import ScorerInfo

#: Of a WordNet database (wndb(5WN)), those that words' synonyms are read from.
_PARTS = ("noun", "verb", "adj", "adv")
FILES = ("lexnames", *(name for part in _PARTS for name in (f"index.{part}", f"data.{part}", f"{part}.exc")))


class NoWordNetError(ValueError):
    """A worker has no WordNet; the message is a whole sentence."""


@cache
def wordnet_digest(folder: Path | None) -> str:
    """Return the SHA-256 over the digests of the files of a WordNet, read once in a process. Raises NoWordNetError."""
    if folder is None:
        raise NoWordNetError(
            "This worker has no WordNet, which meteor needs; set ADAPTER_WORKER_WORDNET to its folder, or ask for"
            " meteor_exact_stem."
        )
    try:
        return digest_of({name: hash_file(folder / name)[0] for name in FILES})
    except OSError as error:
        raise NoWordNetError(
            f"{folder}, which ADAPTER_WORKER_WORDNET names, is not a folder of WordNet ({error.strerror or error}); set it to one with"
            f" {FILES[1]} and {FILES[2]}."
        ) from None


def announced_wordnet(folder: Path | None) -> list[ScorerInfo]:
    """Return what a worker says of its WordNet; nothing if it has none."""
    try:
        return (
            [] if folder is None else [ScorerInfo(name=WORDNET, distribution="WordNet", version=wordnet_digest(folder))]
        )
    except NoWordNetError:
        return []
