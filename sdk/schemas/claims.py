"""What a registry tells of a version to whoever pulls it, and what another registry keeps of that as claims.

A pulled copy has it as `.adapterctl/about.json`, beside its manifest. Where the copy is pushed, it is what somebody claims: nobody
there can check it. So it is a text that is kept as it was sent, and is read only to be shown.

>>> read_about("[]")
Traceback (most recent call last):
ValueError: it is not what a pull writes
"""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import AfterValidator, Field, ValidationError

from sdk.formats.about_file import MOST_ABOUT_BYTES
from sdk.schemas.catalog import BaseBrief, JobRef, LoraSize, Parent
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.training_report import DatasetUse
from sdk.schemas.wire import IF_SET, JsonScalar, Sha256, Wire, read

ABOUT_FORMAT: Literal["adapterctl.about/1"] = "adapterctl.about/1"
#: How many evaluations are told, the newest; the deepest that lists and objects are nested; the largest whole number.
MOST_EVALUATIONS, _MOST_DEPTH, _MOST_INTEGER = 50, 16, 2**63
#: The longest name, and how many parents and keys are told.
MOST_NAME, MOST_PARENTS, MOST_SIGNERS = 300, 200, 100
_Name = Annotated[str, Field(max_length=MOST_NAME)]
#: Characters that show nothing, though they count as printable.
_BLANKS = frozenset("\u115f\u1160\u2800\u3164\uffa0")


def _one_word(text: str) -> str:
    """Return the name of a registry or a ref as one word: it stands in sentences, and must not be able to end them.

    >>> _one_word("local:my folder"), _one_word("a@v1; signed by the key 0123")
    ('local:my%20folder', 'a@v1%3B%20signed%20by%20the%20key%200123')
    """
    return "".join(one if one.isalnum() or one in "-._~/:@[]%+?" else quote(one, safe="") for one in text)


_Word = Annotated[_Name, AfterValidator(_one_word)]


class AboutScores(Wire):
    """The scores of a version on one dataset."""

    dataset: _Name
    grader: _Name
    precision: _Name
    metrics: dict[_Name, float]
    created_at: _Name


class AboutRecord(Wire):
    """What a registry records of a version, as far as the one who asks may see it."""

    ref: _Word
    digest: Sha256
    created_at: _Name
    base: BaseBrief
    lora: LoraSize
    method: _Name
    quantization: QuantizationRecipe | None
    dataset: DatasetUse | None
    #: What the datasets are called there, by digest.
    dataset_names: dict[_Name, _Name]
    training: dict[_Name, JsonScalar] | None
    metrics: dict[_Name, float]
    libraries: dict[_Name, str]
    parents: Annotated[list[Parent], Field(max_length=MOST_PARENTS)]
    job: JobRef | None
    #: Which of it was only stated there by whoever made the version.
    reported: list[_Name] | None
    unknown: list[_Name]
    evaluations: Annotated[list[AboutScores], Field(max_length=MOST_EVALUATIONS)]
    #: The ids of the keys of its signatures, as their senders say.
    signed_by: Annotated[list[_Name], Field(max_length=MOST_SIGNERS)]


class EarlierClaims(Wire):
    """What the registry was told itself, by the first one that told of the version."""

    registry: _Word
    at: _Name
    about: AboutRecord
    #: The key that the registry lists and by which it was signed; None: by none.
    key_id: Annotated[Sha256 | None, IF_SET] = None


class About(AboutRecord):
    """A registry's own record of a version, and what it was told of it by another one."""

    claimed: Annotated[EarlierClaims | None, IF_SET] = None


class AboutFile(Wire):
    """The file `about.json`."""

    format: Literal["adapterctl.about/1"]
    #: The registry that told it: its URL without a password, or `local:` and the name of its folder.
    registry: _Word
    #: When it was pulled, in UTC.
    at: _Name
    about: About


def read_about(text: str, *, exact: bool = False) -> AboutFile:
    """Return what a text tells, with `?` for each character that can't be seen. Raises ValueError, which says why not.

    `exact`: to act on it. Its texts are as they were written, and what only a newer release knows is an error.
    """
    if len(text.encode("utf-8", "replace")) > MOST_ABOUT_BYTES:
        raise ValueError(f"it is longer than {MOST_ABOUT_BYTES // 1024} KiB")
    try:
        # Half a character can be neither signed nor stored.
        text.encode()
        told = _checked(json.loads(text, object_pairs_hook=_once), _MOST_DEPTH, shown=not exact)
        return read(AboutFile, told, open_ended=not exact)
    except ValidationError as error:
        # There may be thousands, and each would say what was sent.
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part)[:40] for part in first["loc"])
        raise ValueError(f"it is not what a pull writes{f', at {where}' if where else ''}") from None
    except (ValueError, RecursionError):
        raise ValueError("it isn't JSON that a pull writes") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object whose keys all differ: whoever reads it before it is signed may see another one than is read here."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key twice")
    return made


def _checked(value: Any, depth: int, *, shown: bool) -> Any:
    """Return a parsed value whose numbers can be sent, and whose texts can be shown or else stored. Raises ValueError."""
    if isinstance(value, str) and not shown:
        # Half a character can't be written, and NUL can't be stored.
        if b"\0" in value.encode():
            raise ValueError("no text")
        return value
    if isinstance(value, str):
        return "".join(one if one.isprintable() and one not in _BLANKS else "?" for one in value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("no number")
    if isinstance(value, int) and abs(value) >= _MOST_INTEGER:
        raise ValueError("a number that nothing counts")
    if isinstance(value, (dict, list)) and not depth:
        raise ValueError("too deep")
    if isinstance(value, dict):
        return {
            _checked(key, depth, shown=shown): _checked(each, depth - 1, shown=shown) for key, each in value.items()
        }
    if isinstance(value, list):
        return [_checked(each, depth - 1, shown=shown) for each in value]
    return value


#: "claimed": nobody whom this registry knows vouches for it; "signed": a key that it lists has signed it.
ClaimState = Literal["claimed", "signed"]


class ClaimsView(Wire):
    """What is claimed of a version."""

    state: ClaimState
    #: The key that has signed it, if this registry lists it.
    key_id: str | None
    #: The registry that told it, and when it was pulled there.
    registry: str
    at: str
    about: About
    #: Who sent it here, and when.
    created_by: str
    created_at: datetime
