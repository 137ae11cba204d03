"""How a chat gets to an engine that has one template while versions may have others.

A version whose template is the engine's own is passed on as it is, with the tokens at which its answers end. Another one's chats
are rendered here, as an evaluation does, and sent as tokens; the engine then can't know of tools.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from sdk.formats.adapter_files import (
    GENERATION_FILE,
    MAX_SERVING_BYTES,
    RENDERING_FILE,
    TEMPLATE_FILE,
    VOCABULARY_FILES,
)
from sdk.gateway.door.prompt_lengths import PromptLengths
from sdk.gateway.door.refusals import Declined
from sdk.gateway.door.renderers import Renderers
from sdk.gateway.door.requests import ChatBody
from sdk.gateway.engines.engine import EngineFacts
from sdk.schemas.completions import CompletionRequest
from sdk.schemas.recorded import Rendering
from sdk.schemas.wire import read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: What engines take that have each version's own template, and those that take ids of tokens at which an answer ends.
OWN_TEMPLATES, STOP_IDS = "templates", "stop_token_ids"
#: Versions and tokenizers that are remembered.
_MOST_VERSIONS, _MOST_TOKENIZERS = 64, 4


@dataclass(frozen=True)
class Prompted:
    """How a chat is sent: as it is, or as the tokens that its version's template makes of it."""

    #: None: the engine renders it.
    tokens: list[int] | None
    #: What is added to the body.
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class VersionFiles:
    """What comes with a version for serving it."""

    #: Its chat template, where one comes with it.
    template: str | None
    #: The day that its template wrote into the conversations; None: it writes none.
    day: str | None
    #: At which tokens its answers end.
    stop_ids: tuple[int, ...]
    #: Whether it has a tokenizer of its own.
    has_tokenizer: bool

    @classmethod
    def of(cls, folder: Path) -> VersionFiles:
        """Read them; the files are untrusted. Raises OSError, ValueError."""
        template = _read(folder / TEMPLATE_FILE)
        rendering = Rendering()
        if (recorded := _read(folder / RENDERING_FILE)) is not None:
            try:
                rendering = read_json(Rendering, recorded)
            except ValidationError as error:
                raise ValueError(f"{RENDERING_FILE} can't be read") from error
        generation = _object(folder / GENERATION_FILE).get("eos_token_id")
        named = generation if isinstance(generation, list) else [generation]
        stops = {*rendering.stop_ids, *(each for each in named if type(each) is int and each >= 0)}
        return cls(
            None if template is None else template.decode(),
            rendering.template_date,
            tuple(sorted(stops))[:256],
            any((folder / name).is_file() for name in VOCABULARY_FILES),
        )

    @property
    def template_digest(self) -> str | None:
        """The SHA-256 of its template."""
        return None if self.template is None else hashlib.sha256(self.template.encode()).hexdigest()


class Templates:
    """Decides it for each chat. `base` is the base's folder on this machine; None: it isn't here."""

    def __init__(self, facts: EngineFacts, base: Path | None, renderers: Renderers) -> None:
        self._facts, self._base, self._renderers = facts, base, renderers
        self._lengths = PromptLengths(base, facts.context_tokens)
        self._files: OrderedDict[Path, VersionFiles] = OrderedDict()
        self._tokenizers: OrderedDict[Path, tuple[Tokenizer, dict[str, str]]] = OrderedDict()

    async def continued(
        self, version: str | None, folder: Path | None, request: CompletionRequest
    ) -> Mapping[str, Any]:
        """Return what is added to the body of a plain completion: the version's answers end where it has learnt to end. Raises Declined."""
        if OWN_TEMPLATES in self._facts.takes:
            return {}
        await self._lengths.require_room(request)
        return {} if version is None or folder is None else self._stops(await self._files_of(version, folder))

    def _stops(self, files: VersionFiles) -> Mapping[str, Any]:
        return {STOP_IDS: list(files.stop_ids)} if files.stop_ids and STOP_IDS in self._facts.takes else {}

    async def prompted(self, version: str | None, folder: Path | None, request: ChatBody) -> Prompted:
        """Return how a chat is sent to a version, the base with None. Raises Declined."""
        if OWN_TEMPLATES in self._facts.takes:
            return Prompted(None, {})
        await self._lengths.require_room(request)
        if version is None or folder is None:
            return Prompted(None, {})
        files = await self._files_of(version, folder)
        stops = self._stops(files)
        # An engine writes today's date, where a template writes one.
        if files.template is None or (files.template_digest == self._facts.template and files.day is None):
            return Prompted(None, stops)
        if request.tools or any(message.tool_calls or message.role == "tool" for message in request.messages):
            raise Declined(
                400,
                "invalid",
                f"{version} has another chat template than the engine, which therefore can't read tools; leave them out",
                param="tools",
            )
        tokenizer, special_tokens = await self._tokenizer(folder if files.has_tokenizer else self._base, version)
        text = await self._renderers.render(
            version,
            template=files.template,
            messages=[_message(message.model_dump(exclude_none=True)) for message in request.messages],
            special_tokens=special_tokens,
            day=files.day or datetime.now(UTC).date().isoformat(),
        )
        # A batch lets the event loop run meanwhile.
        (encoded,) = await asyncio.to_thread(tokenizer.encode_batch, [text], add_special_tokens=False)
        return Prompted(self._bounded(encoded.ids, request), stops)

    def _bounded(self, tokens: list[int], request: ChatBody) -> list[int]:
        if len(tokens) >= self._facts.context_tokens:
            raise Declined(
                400,
                "invalid",
                f"the conversation has {len(tokens):,} tokens, and the engine takes {self._facts.context_tokens:,} with the answer; "
                "shorten it",
                param="messages",
            )
        return tokens

    async def _files_of(self, version: str, folder: Path) -> VersionFiles:
        files = self._files.get(folder)
        if files is None:
            try:
                files = self._files[folder] = await asyncio.to_thread(VersionFiles.of, folder)
            except (OSError, ValueError) as error:
                raise Declined(
                    503, "unavailable", f"the files of {version} can't be read ({str(error)[:200]}); verify the cache"
                ) from error
            while len(self._files) > _MOST_VERSIONS:
                self._files.popitem(last=False)
        return files

    async def _tokenizer(self, folder: Path | None, version: str) -> tuple[Tokenizer, dict[str, str]]:
        if folder is None:
            raise Declined(
                400,
                "invalid",
                f"{version} has another chat template than the engine, and the base isn't on this machine to render it; "
                "use /v1/completions",
                param="model",
            )
        found = self._tokenizers.get(folder)
        if found is None:
            try:
                found = self._tokenizers[folder] = await asyncio.to_thread(_load, folder)
            except Exception as error:  # the library raises Exception itself
                raise Declined(
                    503, "unavailable", f"the tokenizer of {version} can't be read; it needs a tokenizer.json"
                ) from error
            while len(self._tokenizers) > _MOST_TOKENIZERS:
                self._tokenizers.popitem(last=False)
        return found


def _load(folder: Path) -> tuple[Tokenizer, dict[str, str]]:
    from tokenizers import Tokenizer

    named = {**_object(folder / "special_tokens_map.json"), **_object(folder / "tokenizer_config.json")}
    special = {}
    for name, value in named.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            special[name] = text
    return Tokenizer.from_file(str(folder / "tokenizer.json")), special


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message with its content as one text, as most templates read it."""
    content = message.get("content", "")
    if isinstance(content, list):
        content = "\n".join(part["text"] for part in content)
    return {**message, "content": content}


def _read(path: Path) -> bytes | None:
    """Return a small file's content; None if there is none. Raises OSError, ValueError for a longer one."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SERVING_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(content) > MAX_SERVING_BYTES:
        raise ValueError(f"{path.name} is too long")
    return content


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_read(path) or b"{}")
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path.name} is not JSON") from error
    return found if isinstance(found, dict) else {}
