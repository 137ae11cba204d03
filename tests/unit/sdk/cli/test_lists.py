"""Every list command, found from the tree of commands: what a pipe gets, and what a terminal of any width shows."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from support.small import write_base

from sdk.cli import cli
from sdk.cli.support.columns import HEADERS, CellForm, ListColumn
from sdk.cli.support.layout import columns_of
from sdk.cli.support.listings import Listing
from sdk.client import Client

HOSTILE = "a\tb\nc\x1b[2Jd\\n数据\x9b\u202ee\r" + "long " * 30
REF = "team/code-review@v12"
DIGEST = "0123456789ab" + "c" * 52
#: What a list may hold that is told from its kind alone.
VALUES: dict[CellForm, Any] = {
    CellForm.NAME: "3f1c2a9b7d20",
    CellForm.NAMES: [REF, "b@v1"],
    CellForm.PROSE: HOSTILE,
    CellForm.NUMBER: 1.23456789012345,
    CellForm.SIZE: 12_345_678,
    CellForm.DURATION: 750.5,
    CellForm.TIME: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    CellForm.DIGEST: DIGEST,
}


def listings(command: click.Command, path: str = "adapterctl") -> Iterator[tuple[str, click.Command]]:
    """Yield each command that lists, by its path."""
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            below = command.get_command(click.Context(command), name)
            assert below is not None
            yield from listings(below, f"{path} {name}")
    elif hasattr(command.callback, "listing"):
        yield path, command


LISTS = dict(listings(cli))


def cells_of(listing: Listing, ref: str = REF) -> list[dict[str, Any]]:
    """Rows of hostile values, one of empty ones among them."""
    full = {one.header: VALUES[one.drawn_as] for one in listing.columns}
    full |= {name: ref for name in ("ref", "made", "winner") if name in full}
    return [full, dict.fromkeys(full), {**full, listing.columns[0].header: VALUES[listing.columns[0].drawn_as]}]


def of_cells(listing: Listing) -> Listing:
    """The same columns, whose values are the cells of a row themselves."""
    columns = [
        ListColumn(one.header, _cell(one.header), one.importance, one.usual, one.form, one.none, one.always)
        for one in listing.columns
    ]
    return Listing(*columns, key=columns[0].header)


def _cell(header: str) -> Any:
    return lambda row: row[header]


def test_each_command_that_lists_is_known() -> None:
    assert len(LISTS) >= 25
    for path in ("list", "versions", "search", "audit", "jobs list", "evals list", "cache list", "data list", "status"):
        assert f"adapterctl {path}" in LISTS
    named = {f"adapterctl {name}" for name in _all_paths(cli) if name.endswith("list")}
    assert named <= set(LISTS), named - set(LISTS)


def _all_paths(command: click.Command, path: str = "") -> Iterator[str]:
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            below = command.get_command(click.Context(command), name)
            assert below is not None
            yield from _all_paths(below, f"{path} {name}".strip())
    else:
        yield path


@pytest.mark.parametrize("path", sorted(LISTS))
def test_a_pipe_gets_whole_values_between_tabs(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    listing = of_cells(LISTS[path].callback.listing)  # type: ignore[union-attr]
    rows = cells_of(listing)
    text = listing.tabbed(rows)
    assert "\x1b" not in text
    header, *lines = text.split("\n")
    assert len(lines) == len(rows)
    names = header.split("\t")
    assert len(set(names)) == len(names) == len(listing.columns)
    assert [len(line.split("\t")) for line in lines] == [len(names)] * len(rows)
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for line in lines for c in line.replace("\t", ""))
    first = dict(zip(names, lines[0].split("\t"), strict=True))
    for column in listing.columns:
        value = first[column.field]
        match column.drawn_as:
            case CellForm.PROSE:
                assert value == "a\\tb\\nc\\x1b[2Jd\\\\n数据\\x9b\\u202ee\\x0d" + "long " * 30
            case CellForm.TIME:
                assert value == "2026-01-02T03:04:05Z"
            case CellForm.NUMBER:
                assert value == "1.23456789012345"
            case CellForm.SIZE:
                assert value == "12345678"
            case CellForm.DIGEST:
                assert value == DIGEST
    cut = subprocess.run(["cut", "-f", "1"], input=text + "\n", capture_output=True, text=True, check=True).stdout
    assert cut.splitlines() == [line.split("\t")[0] for line in text.split("\n")]


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("path", sorted(LISTS))
def test_no_line_is_wider_than_the_terminal_and_no_name_is_cut(path: str, width: int) -> None:
    listing = of_cells(LISTS[path].callback.listing)  # type: ignore[union-attr]
    found = listing.drawn(cells_of(listing), width=width)
    header, *lines = found.text.split("\n")
    assert lines
    assert all(columns_of(line) <= width and line.isprintable() for line in (header, *lines)), found.text
    by_header = {one.header.upper().replace("_", " "): one for one in listing.columns}
    shown = [one for name, one in by_header.items() if one.importance and one.header not in found.left_out]
    for column in shown:
        whole = {CellForm.DIGEST: DIGEST[:12], CellForm.NAMES: f"{REF} +1"}.get(column.drawn_as)
        if column.drawn_as is CellForm.NAME:
            whole = REF if column.header in ("ref", "made", "winner") else VALUES[CellForm.NAME]
        assert whole is None or whole in lines[0], (column.header, lines[0])
    # The least important columns go first: none stays that matters less than one that is left out.
    gone = [one.importance for one in listing.columns if one.header in found.left_out]
    kept = [one.importance for one in shown if one is not listing.columns[0]]
    assert not gone or not kept or max(gone) <= max(kept)
    assert 0 not in gone


def test_digest_among_names_is_drawn_by_its_first_digits_and_written_whole() -> None:
    audit = of_cells(LISTS["adapterctl audit"].callback.listing)  # type: ignore[union-attr]
    rows = [{**cells_of(audit)[0], "subject": DIGEST}]
    assert f" {DIGEST[:12]} " in audit.drawn(rows, width=200).text
    assert DIGEST not in audit.drawn(rows, width=200).text
    assert f"\t{DIGEST}\t" in audit.tabbed(rows)


def test_headers_mean_one_thing_each() -> None:
    for path, command in LISTS.items():
        for column in command.callback.listing.columns:  # type: ignore[union-attr]
            assert column.form is not None or column.header in HEADERS, (path, column.header)
    with pytest.raises(ValueError, match="no list has a header 'created at'"):
        ListColumn("created at")


PROGRAM = """
import click
from sdk.cli.support.columns import ListColumn
from sdk.cli.support.listings import Listing, listed

FRUIT = Listing(ListColumn("ref"), ListColumn("note", importance=2), ListColumn("created", importance=1), key="ref")

@click.command()
@listed(FRUIT)
def main(style):
    rows = [{"ref": "apple@v1", "note": "red\\tand \\x1b[31mround, " * 4, "created": "2026-01-02T03:04:05Z"}]
    FRUIT.print(style, rows, empty="none")

main()
"""


def piped(*args: str, **env: str) -> str:
    """What a program gets that reads from a list command."""
    given = {key: value for key, value in os.environ.items() if key != "COLUMNS"} | env
    command = [sys.executable, "-c", PROGRAM, *args]
    return subprocess.run(command, env=given, capture_output=True, text=True, check=True).stdout


def at_a_terminal(width: int, *args: str, **env: str) -> str:
    """What a terminal of `width` columns gets."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    given = {key: value for key, value in os.environ.items() if key != "COLUMNS"} | env
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *args], env=given, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    data = b""
    while True:
        try:
            more = os.read(master, 65536)
        except OSError:
            break
        if not more:
            break
        data += more
    os.close(master)
    assert process.wait() == 0
    return data.decode().replace("\r\n", "\n")


def test_a_program_and_a_person_get_what_they_read() -> None:
    note = "red\\tand \\x1b[31mround, " * 4
    assert piped(COLUMNS="10") == f"ref\tnote\tcreated\napple@v1\t{note}\t2026-01-02T03:04:05Z\n"
    assert piped("--no-header") == f"apple@v1\t{note}\t2026-01-02T03:04:05Z\n"
    drawn = piped("--format", "table")
    assert drawn.startswith("REF ")
    assert "\t" not in drawn
    assert max(map(columns_of, drawn.splitlines())) <= 80
    narrow = at_a_terminal(30)
    assert "no room for: created" in narrow.replace("\n", " ")
    assert "apple@v1" in narrow
    assert max(columns_of(line) for line in narrow.replace("\x1b[1m", "").replace("\x1b[0m", "").split("\n")) <= 30
    wide = at_a_terminal(200)
    assert "no room" not in wide
    assert "…" not in wide
    # A person may say how wide it is.
    assert "no room for" in at_a_terminal(200, COLUMNS="30").replace("\n", " ")


def test_moments_are_relative_in_every_list_of_a_narrow_terminal_and_in_full_on_a_wide_one() -> None:
    soon = datetime.now(UTC) + timedelta(days=5, minutes=1)
    row = {"alias": "production", "time": datetime.now(UTC) - timedelta(hours=2), "expires": soon}
    listing = Listing(ListColumn("alias"), ListColumn("time"), ListColumn("expires"), key="alias")
    narrow = listing.drawn([row], width=80).text
    assert narrow.splitlines()[1].split("  ")[1:] == ["2 h ago", "in 5 d"]
    assert f"{soon.astimezone():%Y-%m-%d %H:%M}" in listing.drawn([row], width=200).text


def test_a_list_of_jobs_keeps_their_kind_at_80_columns() -> None:
    listing: Listing = LISTS["adapterctl jobs list"].callback.listing  # type: ignore[union-attr]
    values = {"id": "4724b002491b", "state": "succeeded", "kind": "evaluation", "subject": ["docstring-writer@v1"] * 9}
    values |= {"made": "docstring-writer@v6", "created": datetime.now(UTC), "tries": 2, "failures": 1}
    columns = [ListColumn(one.header, one.header, one.importance, one.usual) for one in listing.columns]
    drawn = Listing(*columns, key="id").drawn([{one.header: values.get(one.header) for one in columns}], width=80)
    assert "evaluation" in drawn.text
    assert drawn.left_out == ("tries", "failures", "created")


def test_an_audit_names_bases_and_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    write_base(tmp_path / "tiny")
    with Client(f"local:{tmp_path / 'home'}", cache=tmp_path / "cache") as client:
        client.bases.add(tmp_path / "tiny")
        client.datasets.add(tmp_path / "rows.jsonl")
    monkeypatch.setenv("ADAPTERCTL_URL", f"local:{tmp_path / 'home'}")
    monkeypatch.setenv("ADAPTERCTL_HELPER", "0")
    shown = CliRunner().invoke(cli, ["audit"]).stdout
    subjects = {line.split("\t")[4] for line in shown.splitlines()}
    assert {"rows.jsonl@v1", "tiny"} <= subjects
