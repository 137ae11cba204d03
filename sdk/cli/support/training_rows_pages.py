"""What `show --rows` prints: the first rows of a training as it saw them, with the loss marked as `data preview` marks it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sdk.cli.support.data_pages import bold, headline, lines, marked_as_learnt
from sdk.cli.support.output import plain, print_json, writable
from sdk.cli.support.records import print_facts

if TYPE_CHECKING:
    from sdk.schemas.training_rows import SeenText, TrainingRowsView

_DESIRABLE = {True: "desirable", False: "undesirable", None: None}


def print_training_rows(found: TrainingRowsView, style: str) -> None:
    """Print the texts with what was learnt marked, then where they are from; "quiet": only what was learnt."""
    if style == "json":
        print_json(found)
        return
    for text in found.recorded.texts:
        parts = [(part, learnt) for piece in text.pieces for part, learnt in piece.parts()]
        if style == "quiet":
            learnt = "".join(part for part, is_learnt in parts if is_learnt)
            click.echo(writable(lines(learnt if text.label is None else text.label)))
            continue
        click.echo(bold(_headline(text)))
        click.echo(writable(_shown(text)))
        click.echo()
    if style != "quiet":
        texts, recorded = found.recorded.texts, found.recorded
        datasets = ", ".join(digest[:12] for digest in found.datasets)
        print_facts(
            [
                ("version", found.ref),
                ("job", found.job),
                ("loss on", recorded.loss_on),
                ("datasets", datasets),
                (
                    "rows",
                    f"the first {len({(text.step, text.where) for text in texts})} of {recorded.rows}, as its steps took them",
                ),
            ]
        )


def _headline(text: SeenText) -> str:
    of = [text.where, *(said for said in (text.answer, _DESIRABLE[text.desirable]) if said)]
    return headline(
        of, [f"step {text.step}"], tokens=text.tokens, learnt=text.supervised_tokens, stop=text.stop, label=text.label
    )


def _shown(text: SeenText) -> str:
    shown, at = [], 0
    for piece in text.pieces:
        shown += [_left_out(piece.first_token - at), *(_part(*part) for part in piece.parts())]
        at = piece.first_token + piece.tokens
    return "".join([*shown, _left_out(text.tokens - at)])


def _part(text: str, is_learnt: bool) -> str:
    return marked_as_learnt(lines(text)) if is_learnt else lines(text)


def _left_out(tokens: int) -> str:
    return f" … {plain(str(tokens))} tokens … " if tokens else ""
