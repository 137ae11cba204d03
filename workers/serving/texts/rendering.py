"""A program that renders conversations with versions' chat templates, one after the other, for as long as its input lasts.

A template is untrusted: here it can't reach the base in memory, and one that takes too long is ended with the process.
Each line of its input is a request, each of its output an answer: what was rendered, or `{"refused"}` with a sentence.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from sdk.worker_program import PARENT_VARIABLE
from workers.pipelines.data.conversation import Conversation, forms, probe
from workers.pipelines.data.render import Renderer, TemplateRefusal
from workers.pipelines.data.thoughts import find_thoughts
from workers.pipelines.errors import PipelineError
from workers.pipelines.sandbox import die_with_parent

#: The processor time of one rendering, unless a request says less. Most take a thousandth of it.
PROCESSOR_S = 4.0


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return `{"text"}`, the prompt for the next answer of `messages` with `tools`, or `{"thoughts"}`, how the template writes them, if
    there are no messages; `{"refused"}` if the template can't, with `{"costly": true}` if it takes more than `processor_s`.
    """
    day = date.fromisoformat(request["day"])
    renderer = Renderer(request["special_tokens"], day, processor_s=request.get("processor_s", PROCESSOR_S))
    template = request["template"]
    try:
        if (messages := request.get("messages")) is not None:
            return {"text": _prompt(renderer, template, messages, request.get("tools"))}
        return {"thoughts": _thoughts(renderer, template, request["controls"])}
    except TemplateRefusal as error:
        return {"refused": f"the version's chat template refuses this conversation ({error}); write it in another way"}
    except PipelineError:
        sentence = "the version's chat template takes too much to render this conversation; shorten it"
        return {"refused": sentence, "costly": True}


def _prompt(
    renderer: Renderer, template: str, messages: Sequence[Mapping[str, Any]], tools: list[dict[str, Any]] | None
) -> str:
    """Return the text from which an answer is generated, by the first form that the template renders without losing any
    of it. Raises TemplateRefusal.
    """
    conversation = Conversation([dict(message) for message in messages], tools, ())
    probed, refusal = probe(conversation), TemplateRefusal("it renders nothing")
    incomplete: TemplateRefusal | None = None
    for form in forms(conversation):
        try:
            rendered, found = (
                renderer.render(
                    template, [form.message(message) for message in each.messages], tools=each.tools, prompt=True
                )
                for each in (conversation, probed.conversation)
            )
        except TemplateRefusal as error:
            refusal = error
            continue
        if not (lost := probed.lost(found.text)):
            return rendered.text
        # Other forms are tried because of this, and what is wrong with those is not the reason.
        incomplete = incomplete or TemplateRefusal(f"it leaves out {', '.join(lost)}")
    raise incomplete or refusal


def _thoughts(renderer: Renderer, template: str, controls: str) -> dict[str, Any]:
    def render(messages: Sequence[Mapping[str, Any]], prompt: bool) -> str:
        return renderer.render(template, messages, prompt=prompt).text

    thoughts = find_thoughts(render, controls)
    return {"notations": thoughts.notations, "headers": thoughts.headers, "closing": thoughts.closing}


def main() -> int:
    """Answer requests until the input ends. Returns the exit code."""
    die_with_parent(os.environ.get(PARENT_VARIABLE))
    for line in sys.stdin.buffer:
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
