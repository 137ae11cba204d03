"""How a base or a version reads and writes text: its tokenizer, chat template, day, and the tokens at which it stops."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sdk.formats.adapter_files import MAX_SERVING_BYTES, RENDERING_FILE
from sdk.schemas.failures import FailureReason
from sdk.schemas.recorded import Rendering
from sdk.schemas.wire import read_json
from workers.pipelines.data.control_tokens import ControlTokens
from workers.pipelines.data.encoding import Encoder
from workers.pipelines.data.thoughts import Thoughts
from workers.pipelines.data.tokenizer import (
    all_stops,
    configured_stops,
    default_template,
    load_tokenizer,
    template_beside,
    tokenizer_folder,
)
from workers.pipelines.errors import PipelineError
from workers.serving.texts.prompts import PromptRenderers, RenderingRefused, TemplateInUse
from workers.serving.texts.texts import TextVocabulary


@dataclass(frozen=True)
class TextsOfVersion:
    """How text becomes tokens for a version, or for the bare base, and tokens text."""

    tokenizer: Any
    encoder: Encoder
    vocabulary: TextVocabulary
    #: None: it has no chat template.
    template: TemplateInUse | None
    #: How its template writes thoughts.
    thoughts: Thoughts
    stop_ids: frozenset[int]

    def plain(self, prompt: str) -> list[int]:
        """Return a prompt that is continued as it is."""
        return self.encoder.open(prompt)

    def rendered(self, prompt: str) -> list[int]:
        """Return a prompt whose control tokens its template has written."""
        return list(self.tokenizer(prompt, add_special_tokens=False)["input_ids"])


class TextsOfBase:
    """Reads how versions over one base read and write; those without a tokenizer of their own share the base's."""

    def __init__(self, base: Path, renderer: PromptRenderers) -> None:
        """Raises PipelineError for a base whose tokenizer can't be used."""
        self._base, self._renderer = base, renderer
        self._tokenizer = load_tokenizer(base)
        self._vocabulary = TextVocabulary(self._tokenizer)
        #: Of the base itself.
        self.bare = self.of(None)

    def of(
        self,
        adapter: Path | None,
        *,
        day: date | None = None,
        stop_ids: Sequence[int] = (),
        template: str | None = None,
    ) -> TextsOfVersion:
        """Return how a version reads and writes, by its folder and what its record says beyond that.

        `template` is the SHA-256 of the chat template that its rows were rendered with. Raises PipelineError ("adapter") if
        the folder has another one, or files that can't be read.
        """
        own = adapter is not None and tokenizer_folder(self._base, adapter) is adapter
        tokenizer = load_tokenizer(self._base, adapter) if own else self._tokenizer
        rendering = Rendering() if adapter is None else _rendering_beside(adapter)
        if day is None and rendering.template_date is not None:
            day = date.fromisoformat(rendering.template_date)
        text = (None if adapter is None else template_beside(adapter)) or default_template(tokenizer)
        if template is not None and (text is None or digest_of_template(text) != template):
            raise PipelineError(
                FailureReason.ADAPTER,
                "The version's rows were rendered with another chat template than the one in its folder; pull it again.",
            )
        taught = [*stop_ids, *rendering.stop_ids, *([] if adapter is None else configured_stops(adapter))]
        stops = all_stops(self._base, tokenizer, taught)
        in_use = None
        if text is not None:
            controls = ControlTokens(tokenizer, stops).pattern
            in_use = TemplateInUse(text, tokenizer.special_tokens_map, controls, day)
        return TextsOfVersion(
            tokenizer,
            Encoder(tokenizer),
            TextVocabulary(tokenizer) if own else self._vocabulary,
            in_use,
            self._thoughts(in_use),
            frozenset(stops),
        )

    def _thoughts(self, template: TemplateInUse | None) -> Thoughts:
        if template is None:
            return Thoughts()
        try:
            return self._renderer.thoughts(template)
        except RenderingRefused:
            # A conversation will be refused with the reason; plain prompts can still be answered.
            return Thoughts()


def digest_of_template(text: str) -> str:
    """Return the SHA-256 of a chat template, as records have it."""
    return hashlib.sha256(text.encode()).hexdigest()


def _rendering_beside(adapter: Path) -> Rendering:
    """Return what comes with an adapter on how its rows became tokens. Raises PipelineError ("adapter")."""
    try:
        with (adapter / RENDERING_FILE).open("rb") as file:
            return read_json(Rendering, file.read(MAX_SERVING_BYTES))
    except FileNotFoundError:
        return Rendering()
    except (OSError, ValidationError) as error:
        raise PipelineError(
            FailureReason.ADAPTER,
            f"The adapter's {RENDERING_FILE} can't be read; pull the version again, or push it without that file.",
        ) from error
