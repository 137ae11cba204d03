"""A conversation at a terminal with one version, or with two that answer side by side."""

from __future__ import annotations

import json
import os
import queue
import shutil
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdk.asking.prompts import Message, Prompt, prompt_of_text
from sdk.asking.target import BASE
from sdk.cli.support.asking import Printer
from sdk.cli.support.output import WIDTH, say, say_filled
from sdk.cli.support.side_by_side import SideBySide
from sdk.config import user_path
from sdk.errors import AdapterctlError, InvalidInput, disk_explained

if TYPE_CHECKING:
    from sdk.asking.asker import AnswerPiece, Asker, RunningAnswer
    from sdk.asking.prompts import PromptForm, Sampling
    from sdk.asking.target import AskTarget

_PROMPT = "> "
_COMMANDS = """\
/use v2        go on with another version of the adapter, or another REF
/system TEXT   the system message from now on; without TEXT none
/save NAME     append the conversation to NAME.jsonl, as rows of a dataset
/clear         begin again
/quit          leave, as Ctrl-D does; a text that begins with / is written //"""
#: How long Ctrl-C waits for answers that were stopped.
_STOPPED_S = 5.0


class _Side:
    """Whom is talked to, and what has been said."""

    def __init__(self, target: AskTarget) -> None:
        self.target = target
        self.messages: list[Message] = []


class Chat:
    """A conversation. Both sides are asked the same, and each sees its own answers alone."""

    def __init__(
        self,
        asker: Asker,
        left: AskTarget,
        right: AskTarget | None,
        *,
        form: PromptForm,
        sampling: Sampling,
        system: str | None,
    ) -> None:
        self._asker, self._form, self._sampling = asker, form, sampling
        self._sides = [_Side(left)] if right is None else [_Side(left), _Side(right)]
        self._system = system or None
        self._leaves = False

    def begin(self) -> None:
        """Have everything loaded, and say who answers. Raises as the asker does."""
        if self._system is not None:
            self._require_conversation("system")
        for side in self._sides:
            self._asker.ready(side.target)
        if sys.stdin.isatty():
            self._say_who()
            say("/help shows what can be done; Ctrl-C stops an answer, Ctrl-D leaves")

    def on_terminal(self) -> None:
        """Talk until somebody leaves. Lines may be edited, and earlier ones called back; none are stored."""
        with suppress(ImportError):
            import readline

            readline.set_auto_history(True)
        while not self._leaves:
            try:
                line = input(_PROMPT)
            except EOFError:
                click.echo()
                return
            except KeyboardInterrupt:
                click.echo()
                say("Ctrl-D or /quit leaves")
                continue
            try:
                with disk_explained("taking this line"):
                    self._take(line)
            except AdapterctlError as error:
                # Whoever talks goes on after a slip.
                say(f"error: {error.message}")

    def from_lines(self, lines: Iterable[str]) -> None:
        """Take each line as if it had been typed. Raises what a command or a question does."""
        for line in lines:
            self._take(line.removesuffix("\n"))
            if self._leaves:
                return

    def _take(self, line: str) -> None:
        text = line.strip()
        if not text:
            return
        if text.startswith("/") and not text.startswith("//"):
            command, _, rest = text.partition(" ")
            self._command(command, rest.strip())
            return
        # Blanks at the beginning of a line may be part of code.
        self._ask(line.lstrip()[1:] if text.startswith("//") else line)

    # Commands.

    def _command(self, command: str, rest: str) -> None:
        match command:
            case "/use":
                self._use(rest)
            case "/system":
                self._require_conversation("system")
                if rest:
                    prompt_of_text(rest, is_chat=False)
                self._system = rest or None
                say("the system message is set" if rest else "there is no system message")
            case "/save":
                self._save(rest)
            case "/clear":
                for side in self._sides:
                    side.messages.clear()
                say("the conversation begins again")
            case "/help":
                _say_lines(_COMMANDS)
            case "/quit" | "/exit":
                self._leaves = True
            case _:
                raise InvalidInput(f"there is no command {command[:40]!a}; see /help, or write //… for a text")

    def _use(self, name: str) -> None:
        if not name:
            raise InvalidInput("say which: /use v2, /use ALIAS, or /use REF")
        side = self._sides[0]
        adapter, at, _ = side.target.ref.partition("@")
        is_selector = at and "@" not in name and not name.startswith(BASE) and "/" not in name
        target = self._asker.target(f"{adapter}@{name}" if is_selector else name)
        self._asker.ready(target)
        side.target = target
        self._say_who()

    def _save(self, name: str) -> None:
        messages = self._sides[0].messages
        if not name:
            raise InvalidInput("say under which name: /save NAME writes NAME.jsonl")
        if not messages:
            raise InvalidInput("the conversation is empty; ask something first")
        path = user_path(name)
        if not path.name or "\0" in name:
            raise InvalidInput(f"{name!a} is not a file's name; give another name: /save NAME")
        path = path if path.suffix == ".jsonl" else path.with_name(f"{path.name}.jsonl")
        rows = self._rows(self._sides[0])
        _append(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        of_whom = f" of {self._sides[0].target.ref}" if len(self._sides) > 1 else ""
        added = "a row" if len(rows) == 1 else f"{len(rows)} rows"
        say(f"added the conversation{of_whom} to {path} as {added}; it now has {_lines_of(path)}")

    def _rows(self, side: _Side) -> list[dict[str, Any]]:
        """Return what was said as rows of a dataset: one of messages, or each prompt with its completion."""
        if self._is_conversation(side):
            return [{"messages": [*self._system_message(), *side.messages]}]
        texts = [message["content"] for message in side.messages]
        return [
            {"prompt": prompt, "completion": answer} for prompt, answer in zip(texts[::2], texts[1::2], strict=True)
        ]

    def _require_conversation(self, what: str) -> None:
        """Raise InvalidInput if each line is a prompt of its own."""
        for side in self._sides:
            if not self._is_conversation(side):
                raise InvalidInput(
                    f"{side.target.ref} is asked plain text, which has no {what} message; add --chat to talk by its chat template",
                    param="system",
                )

    def _say_who(self) -> None:
        for side in self._sides:
            if (remark := self._form.remark(side.target)) is not None:
                say_filled(remark)
            elif not self._is_conversation(side) and side.target.digest is not None and self._form.as_turn is None:
                say_filled(
                    f"{side.target.ref} was trained on plain prompts: each line is asked by itself; to talk, add --chat"
                )
        bare = self._sides[-1]
        if bare.target.digest is None and bare.target.template_differs and self._is_conversation(bare):
            say_filled(f"{bare.target.ref} is asked by its own chat template, which is another one than the version's")
        say(f"talking to {' | '.join(side.target.ref for side in self._sides)}")

    # Questions.

    def _is_conversation(self, side: _Side) -> bool:
        return self._form.as_turn if self._form.as_turn is not None else side.target.is_chat

    def _system_message(self) -> list[Message]:
        return [] if self._system is None else [{"role": "system", "content": self._system}]

    def _ask(self, text: str) -> None:
        asked: list[tuple[_Side, Prompt]] = []
        for side in self._sides:
            prompt = prompt_of_text(text, is_chat=False)
            if self._is_conversation(side):
                prompt = Prompt(None, [*self._system_message(), *side.messages, {"role": "user", "content": text}])
            asked.append((side, prompt))
        answers: list[RunningAnswer] = []
        try:
            for side, prompt in asked:
                answers.append(self._asker.ask(side.target, prompt, self._sampling))
            self._show(answers)
        finally:
            # What was said before Ctrl-C, or an error, belongs to the conversation too.
            for side, answer in zip(self._sides, answers, strict=False):
                answer.close()
                if said := answer.generation.completion:
                    side.messages += [{"role": "user", "content": text}, {"role": "assistant", "content": said}]

    def _show(self, answers: list[RunningAnswer]) -> None:
        """Show answers as they come, until the last has ended or Ctrl-C."""
        pieces: queue.SimpleQueue[tuple[int, AnswerPiece | Exception | None]] = queue.SimpleQueue()
        readers = [
            threading.Thread(target=_read, args=(number, answer, pieces), daemon=True)
            for number, answer in enumerate(answers)
        ]
        for reader in readers:
            reader.start()
        screen = _One() if len(answers) == 1 else _Two([answer.target.ref for answer in answers])
        fault: Exception | None = None
        left = len(answers)
        try:
            while left:
                number, piece = pieces.get()
                if isinstance(piece, Exception):
                    fault = fault or piece
                if piece is None or isinstance(piece, Exception):
                    left -= 1
                    screen.end(number)
                else:
                    screen.show(number, piece)
        except KeyboardInterrupt:
            for answer in answers:
                answer.close()
            for reader in readers:
                reader.join(_STOPPED_S)
            screen.stop()
            say("stopped")
            return
        cut = [answer.target.ref for answer in answers if answer.stop == "length"]
        if cut and fault is None:
            say(
                f"cut after {self._sampling.max_new_tokens} tokens: {', '.join(cut)}; for longer answers, add --max-new-tokens"
            )
        if fault is not None:
            raise fault


class _One:
    """The screen of one answer."""

    def __init__(self) -> None:
        self._printer = Printer()

    def show(self, _number: int, piece: AnswerPiece) -> None:
        """Show a piece."""
        self._printer.show(piece)

    def end(self, _number: int) -> None:
        """End the answer."""
        self._printer.end()

    def stop(self) -> None:
        """End what is shown."""
        self._printer.end()


class _Two:
    """The screen of two answers."""

    def __init__(self, names: list[str]) -> None:
        is_terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size((WIDTH, 24)).columns if is_terminal else WIDTH
        self._both = SideBySide(sys.stdout, width=width, is_terminal=is_terminal)
        self._both.head(*names)

    def show(self, number: int, piece: AnswerPiece) -> None:
        """Show a piece."""
        self._both.add(number, piece.text, is_dim=piece.is_reasoning)

    def end(self, number: int) -> None:
        """End one of the answers."""
        self._both.end(number)

    def stop(self) -> None:
        """End what is shown."""
        for number in (0, 1):
            self._both.end(number)


def _read(
    number: int, answer: RunningAnswer, pieces: queue.SimpleQueue[tuple[int, AnswerPiece | Exception | None]]
) -> None:
    try:
        for piece in answer:
            pieces.put((number, piece))
    except Exception as error:  # noqa: BLE001 - it is raised where the answer is shown
        pieces.put((number, error))
    else:
        pieces.put((number, None))


def _append(path: Path, rows: str) -> None:
    """Add rows to a file, all of them or none. Raises InvalidInput for a name that no file can have, Unavailable, NotAllowed."""
    try:
        is_new = not path.exists()
        with disk_explained("saving the conversation"), path.open("a+b", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            if before:
                file.seek(-1, os.SEEK_END)
                # Somebody's editor may have left the last row without an end.
                rows = rows if file.read(1) == b"\n" else "\n" + rows
            left = memoryview(rows.encode())
            try:
                while left:
                    left = left[file.write(left) :]
            except OSError:
                file.truncate(before)
                if is_new:
                    path.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise InvalidInput(f"{path} can't be written ({error.strerror}); give another name: /save NAME") from error


def _lines_of(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _say_lines(text: str) -> None:
    for line in text.splitlines():
        say(line)
