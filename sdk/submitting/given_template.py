"""A chat template as a caller gives it: a file, a version's own, or a base's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from sdk.api import artifacts, versions
from sdk.api.transport import Transport
from sdk.config import user_path
from sdk.errors import InvalidBase, InvalidInput, NotFound
from sdk.formats.adapter_files import TEMPLATE_FILE
from sdk.formats.refs import is_folder
from sdk.formats.template_kwargs import without
from sdk.names import parse_ref
from sdk.pulling.cache import Cache
from sdk.pulling.puller import Puller
from sdk.pushing.given_base import GivenBase
from sdk.pushing.pack import template_in_config
from sdk.schemas.artifacts import Transfer
from sdk.schemas.catalog import VersionView
from sdk.schemas.template_fields import MOST_TEMPLATE_CHARACTERS
from sdk.submitting.data_preview import find_base

_BASE = "base:"
#: No character of a text takes more bytes as UTF-8.
_MOST_BYTES = 4 * MOST_TEMPLATE_CHARACTERS


class TemplateReach(Protocol):
    """What a client has."""

    @property
    def transport(self) -> Transport:
        """To its registry."""

    @property
    def cache(self) -> Cache:
        """Of this machine."""

    @property
    def puller(self) -> Puller:
        """Into the cache."""


def with_template_text(options: Mapping[str, Any], reach: Callable[[], TemplateReach]) -> dict[str, Any]:
    """Return the options of a training with the text of the chat template that they name, if they name one.

    `reach` is called only if that is not a file. Raises NotFound, InvalidInput, InvalidBase.
    """
    given = options.get("chat_template")
    return dict(options) if given is None else {**options, "chat_template": _text(given, reach)}


def rendering_of(version: VersionView, reach: TemplateReach) -> dict[str, Any]:
    """Return the options that say how the conversations of a version were rendered, as its record has them. Raises NotFound."""
    record = version.record
    found = {} if record.template_kwargs is None else {"template_kwargs": record.template_kwargs}
    if record.chat_template is None:
        return found
    return {**found, "chat_template": without(_of_version(version, reach), record.template_values)}


def _text(given: Any, reach: Callable[[], TemplateReach]) -> str:
    """Return the text of a chat template: of a file, of a version ("code-review@v2"), or of a base ("base:ID")."""
    if not isinstance(given, str | Path) or not str(given):
        raise _refused(f"{str(given)[:80]!a} is not a chat template; give a file, a version's ref or base:ID")
    if isinstance(given, str) and (folder := _folder_named(given)) is not None:
        raise _refused(f"chat_template can't be {folder!a}, a folder; give a file, a version's ref or base:ID")
    if isinstance(given, Path) or is_folder(given) or os.path.isfile(user_path(given)):  # noqa: PTH113 - False for a text that can't be a path
        return _in_file(user_path(given))
    if given.startswith(_BASE):
        return _of_base(given.removeprefix(_BASE), reach())
    if given.endswith(".jinja"):
        raise NotFound(f"there is no file {given[:200]}; check the path of the chat template", param="chat_template")
    at = reach()
    return _of_version(versions.resolve(at.transport, str(parse_ref(given))), at)


def _folder_named(given: str) -> str | None:
    """Return what names a folder here and no adapter could be: one of this name is asked for as NAME@vN."""
    path = user_path(given)
    return given if not is_folder(given) and os.path.isdir(path) else None  # noqa: PTH112 - False for a text that can't be a path


def _of_version(version: VersionView, reach: TemplateReach) -> str:
    file = next((file for file in version.files if file.path == TEMPLATE_FILE), None)
    if file is None:
        raise _refused(
            f"{version.ref} has no chat template, because it was not trained on conversations; name another version"
        )

    def locate(digest: str) -> Transfer:
        return next(
            place for place in artifacts.locate_files(reach.transport, version.digest) if place.sha256 == digest
        )

    return _in_file(reach.puller.cached_file(file.sha256, locate, doing="fetching the chat template"))


def _of_base(name: str, reach: TemplateReach) -> str:
    folder = find_base(reach.transport, reach.cache, GivenBase(name))
    if (folder / TEMPLATE_FILE).is_file():
        return _in_file(folder / TEMPLATE_FILE)
    if (found := template_in_config(folder)) is None:
        raise InvalidBase(
            f"the base {name[:200]} has no chat template, or several; give one in a file", param="chat_template"
        )
    return found


def _in_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES + 1).decode("utf-8")
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}; check the path of the chat template", param="chat_template") from None
    except UnicodeDecodeError:
        raise _refused(f"{path} is not text in UTF-8; save it as that") from None
    except OSError as error:
        raise _refused(f"{path} can't be read ({error.strerror or error}); check it") from None


def _refused(message: str) -> InvalidInput:
    return InvalidInput(message, param="chat_template")
