"""How a chat template renders rows, as trainings, their records and previews say it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from sdk.formats.template_kwargs import canonical_kwargs, parse_kwargs, write_kwargs
from sdk.schemas.option_types import Option
from sdk.schemas.wire import BY_HAND, IF_SET, Wire


def _written(value: Any, info: ValidationInfo) -> Any:
    """Convert a table of values that a person wrote to the text with the same meaning."""
    return write_kwargs(value) if info.context is BY_HAND and isinstance(value, Mapping) else value


#: 'enable_thinking=false,reasoning_effort="high"'.
TemplateKwargs = Annotated[
    str, Field(min_length=1, max_length=4000), BeforeValidator(_written), AfterValidator(canonical_kwargs)
]


#: The longest templates of published models have some 20,000.
MOST_TEMPLATE_CHARACTERS = 131_072


def template_digest(text: str) -> str:
    """Return the SHA-256 of a chat template, as it is recorded."""
    return hashlib.sha256(text.encode()).hexdigest()


class TemplateFields(Wire):
    """The options of a training that say how its chat template renders conversations."""

    #: The text of the chat template that renders conversations, stored with the version; the record has its SHA-256. None: the base's
    #: own.
    chat_template: Annotated[
        Annotated[str, Field(min_length=1, max_length=MOST_TEMPLATE_CHARACTERS)] | None,
        IF_SET,
        Option(
            "The chat template: of a file, of a version, or of base:ID.",
            default="the base's own",
            metavar="FILE|REF",
            alone=True,
            of_loss=True,
            of_rows=True,
        ),
    ] = None
    #: What the chat template is given besides the conversation, by name, with values in JSON: "enable_thinking=false". It is set at
    #: the head of the template that is stored with the version, so that it holds wherever that is served. None: nothing.
    template_kwargs: Annotated[
        TemplateKwargs | None,
        IF_SET,
        Option(
            "What the chat template is given: enable_thinking=false.",
            metavar="NAME=JSON,…",
            alone=True,
            of_loss=True,
            of_rows=True,
        ),
    ] = None

    @property
    def of_template(self) -> dict[str, Any]:
        """Those of these options that are given, by name."""
        return self.model_dump(include=set(TemplateFields.model_fields))

    @property
    def template_values(self) -> dict[str, Any]:
        """What the chat template is given, by name."""
        return {} if self.template_kwargs is None else parse_kwargs(self.template_kwargs)
