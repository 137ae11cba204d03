"""What a notebook shows: text and nothing else, of what is known already, in tables that can be read by ear and in any colour."""

from __future__ import annotations

import copy
import pickle
import re
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from support.job_views import job_view
from support.sweep_views import sweep_view

from sdk.errors import VerificationFailed
from sdk.formats.html_tables import MOST_ROWS
from sdk.notebook.table_list import TableList
from sdk.nouns.sweeps import Sweep
from sdk.objects import Evaluation, Job, MergedModel, Version
from sdk.pulling.puller import Puller
from sdk.schemas.catalog import AdapterView, BaseName, LoraSize, VersionBrief, VersionView
from sdk.schemas.diff import (
    Diff,
    Difference,
    EvaluationBrief,
    EvaluationDiff,
    ModuleDiff,
    Score,
    ScoresDiff,
    Side,
    WeightsDiff,
)
from sdk.schemas.events import Progress
from sdk.schemas.jobs import JobState
from sdk.schemas.manifest import Manifest
from sdk.schemas.scores import ChangedRow, Compared, ComparedPair, Comparison, Contamination
from sdk.schemas.wire import Wire, read
from sdk.submitting.job_bars import shown

WHEN = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg/onload=alert(1)>",
    "</td></table><style>*{display:none}</style>",
    "<iframe src=//evil.example></iframe>",
    "javascript:alert(1)",
    "&lt;script&gt;&#60;b&#62;",
    "</caption><a href='https://evil.example'>x</a>",
    "<!-- --><![CDATA[<b>]]>",
    "\u202e<b>gnol\u202c\x00\x1b[2J",
    "${alert(1)} {{7*7}} `x` $$\\href{javascript:alert(1)}{x}$$",
    "<" * 5000,
]
#: What a page is made of, and what it may say of that.
TAGS = {"div", "p", "table", "caption", "thead", "tbody", "tr", "th", "td", "progress", "span"}
ATTRIBUTES = {"style", "scope", "max", "value", "aria-label"}


class Away:
    """A registry that must not be asked: whatever is wanted of it fails."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ConnectionError(f"{name} was wanted")


AWAY: Any = Away()


class Read(HTMLParser):
    """Reads a page as a browser would, and refuses what isn't a table's."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.headers: list[str | None] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS
        assert {name for name, _ in attrs} <= ATTRIBUTES
        style = dict(attrs).get("style") or ""
        assert not re.search(r"url|expression|import|@|\\", style)
        # Colours are the page's own; a line is half transparent.
        assert set(re.findall(r"(?<![-\w])(?:color|background):([^;]+)", style)) <= {"inherit", "transparent"}
        if tag == "th":
            self.headers.append(dict(attrs).get("scope"))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    handle_decl = unknown_decl = handle_pi = handle_comment


def version_view(**known: Any) -> VersionView:
    plain: dict[str, Any] = {
        "ref": "team/sql@v3", "adapter": "team/sql", "number": 3, "digest": "d" * 64, "state": "ready", "kind": "adapter",
        "aliases": ["production"], "tags": {"language": "python"}, "description": "a try", "created_by": "ana",
        "notes": [{"text": "good", "written_by": "ben", "written_at": WHEN}], "created_at": WHEN,
        "base": {"id": "tiny", "revision": "main", "fingerprint": "f" * 64, "weights_digest": "e" * 64, "architecture": "Llama"},
        "lora": {"rank": 8, "alpha": 16.0, "dropout": 0.0, "target_modules": ["q_proj", "v_proj"]},
        "method": "lora", "quantization": None, "dataset": None, "training": {"objective": "sft"},
        "metrics": {"loss": 1.25, "eval_loss": 1.5, "eval_loss_base": 3.0}, "job": {"id": "j1", "attempt": 1},
        "parents": [{"ref": "team/sql@v2", "relation": "continued-from"}], "libraries": {"torch": "2.10"}, "unknown": [],
        "warnings": ["the loss rose"], "files": [{"path": "adapter_config.json", "size_bytes": 5, "sha256": "a" * 64}],
    }  # fmt: skip
    return read(VersionView, plain | known)


def brief_of(view: VersionView) -> VersionBrief:
    return Version(view, AWAY).brief


def evaluation(**known: Any) -> Evaluation:
    plain: dict[str, Any] = {
        "id": "e1", "namespace": "team", "ref": "team/sql@v3", "digest": "d" * 64, "base_fingerprint": "f" * 64,
        "dataset": "5" * 64, "grader": "1", "precision": "native", "conditions": {}, "samples": [{"prompt": "p"}], "job": "j1",
        "metrics": {"rows": 48.0, "rouge_l": 0.5, "loss": 0.9}, "spec_digest": "c" * 64, "created_at": WHEN,
        "contamination": Contamination(rows=48, of=["reviews@v1"], not_checked=["x"]), "scorer_errors": {"mine": "broke"},
    }  # fmt: skip
    return Evaluation(**(plain | known))


def comparison() -> Comparison:
    pair = ComparedPair(
        a="a@v1", b="a@v2", difference=-0.07, low=-0.1, high=-0.02, p=0.01, p_adjusted=0.02, test="sign-flip", better="a@v2",
        verdict="a@v2 beats a@v1", detectable=0.06, rows_needed=20,
    )  # fmt: skip
    scores = [Compared(ref=ref, evaluation="e1", namespace="team", score=0.9) for ref in ("a@v1", "a@v2")]
    changed = [ChangedRow(row=7, prompt="p", reference="r", scores=[0.5, 0.1], predictions=["one", None])]
    return Comparison(
        metric="loss", lower_is_better=True, dataset="5" * 64, rows=48, by="repo", groups=24, refs=["a@v1", "a@v2"],
        scores=scores, pairs=[pair], notes=["a note"], examples=changed,
    )  # fmt: skip


def diff() -> Diff:
    only = [EvaluationBrief(id="e1", dataset="5" * 64, grader="1", precision="native", metrics={"loss": 1.0})]
    score = Score(name="loss", a=1.0, b=0.5, difference=-0.5)
    modules = [
        ModuleDiff(module=f"layers.{at}.q_proj", norm_a=1.0, norm_b=None, cosine=None, rank_a=8, rank_b=None)
        for at in range(60)
    ]
    return Diff(
        a=Side(ref="a@v1", digest="a" * 64, base="tiny"), b=Side(ref="a@v2", digest="b" * 64, base="tiny"), same=False,
        notes=["a note"], configuration=[Difference(name="lora.rank", a=8, b={"x": ["y"]})],
        training=[Difference(name="lr", a=1e-4, b=None)], dataset=[Difference(name="rows", a=3, b=4)],
        scores=ScoresDiff(
            training=[score], only_a=only, only_b=only,
            evaluations=[EvaluationDiff(dataset="5" * 64, grader="1", precision="native", metrics=[score])],
        ),
        weights=WeightsDiff(norm_a=1.0, norm_b=2.0, cosine=0.5, modules=modules, notes=["a note"]),
    )  # fmt: skip


SWEEP = sweep_view([{"rank": 1}, {"rank": 2}], [1.0, 0.5])
ADAPTER = AdapterView(adapter="team/sql", latest="team/sql@v3", versions=3, base="tiny", size_bytes=5, updated_at=WHEN)
WAITING = job_view(
    state=JobState.QUEUED,
    waits="no worker is there",
    progress=Progress(phase="train", step=3, total=10, message="m"),
    worker="w",
)
FAILED = job_view(state=JobState.FAILED, reason="oom", message="no memory", result={"ref": "x@v1"})
RECORDS: dict[str, tuple[Wire, Callable[[Any], Any]]] = {
    "version": (version_view(), lambda view: Version(view, AWAY)),
    "found": (brief_of(version_view()), lambda view: Version(view, AWAY)),
    "waiting": (WAITING, lambda view: Job(view, AWAY)),
    "failed": (FAILED, lambda view: Job(view, AWAY)),
    "evaluation": (evaluation(), lambda view: view),
    "comparison": (comparison(), lambda view: view),
    "diff": (diff(), lambda view: view),
    "sweep": (SWEEP, lambda view: Sweep(view, AWAY)),
    "adapter": (ADAPTER, lambda view: TableList([view])),
}


def hostile(value: Any, text: str) -> Any:
    """A record with a text in the place of every text, also of keys and of members of enumerations."""
    if isinstance(value, Wire):
        return value.model_copy(update={name: hostile(getattr(value, name), text) for name in type(value).model_fields})
    if isinstance(value, JobState):
        made = str.__new__(JobState, text)
        made._name_, made._value_ = text, text
        return made
    if isinstance(value, str):
        return text
    if isinstance(value, list | tuple):
        return type(value)(hostile(one, text) for one in value)
    return (
        {text + str(at): hostile(one, text) for at, one in enumerate(value.values())}
        if isinstance(value, dict)
        else value
    )


@pytest.mark.parametrize("name", RECORDS)
def test_a_page_is_text_in_tables_and_asks_for_nothing(name: str) -> None:
    record, made = RECORDS[name]
    shown = made(record)
    for one in (shown, TableList([shown] * 3)):
        page = Read(one._repr_html_())
        assert page.headers
        assert set(page.headers) <= {"row", "col"}
        assert "\n" not in repr(one)
        assert len(repr(one)) < 500 or name == "adapter"


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("name", RECORDS)
def test_what_others_wrote_is_shown_as_text(name: str, text: str) -> None:
    record, made = RECORDS[name]
    # Metrics are read by name, and a hostile name of one is still a name.
    shown = made(hostile(record, text))
    for one in (shown, TableList([shown])):
        page = Read(html := one._repr_html_())
        seen = "".join(page.text)
        assert all(character.isprintable() for character in seen), unicodedata.name(seen[0], "?")
        assert len(html) < 130_000


def test_a_version_that_a_search_found_is_fetched_once_and_whole() -> None:
    whole, asked = version_view(), []

    class Transport:
        def call(self, method: str, path: str, reply: Any, **given: Any) -> VersionView:
            asked.append((path, given["params"]))
            return whole

    registry: Any = type("Registry", (), {"transport": Transport()})()
    found = Version(brief_of(whole), registry)
    assert (found.metrics["loss"], found.aliases, found.tags) == (1.25, ["production"], {"language": "python"})
    assert (found.base, found.created_at) == (BaseName(id="tiny", revision="main", fingerprint="f" * 64), WHEN)
    assert found.lora == LoraSize(rank=8, alpha=16.0, target_modules=["q_proj", "v_proj"])
    assert (found.adapter, found.number, found.state, found.kind, found.method) == (
        "team/sql",
        3,
        "ready",
        "adapter",
        "lora",
    )
    assert (repr(found), asked) == ("Version(ref='team/sql@v3', digest='dddddddddddd')", [])
    assert "version.info asks for the rest" in found._repr_html_()
    assert [parent.ref for parent in found.parents] == ["team/sql@v2"]
    assert found.info.description == found.info.description == "a try"
    assert asked == [("/resolve", {"ref": f"team/sql@sha256:{'d' * 64}"})]
    assert "version.info asks for the rest" not in found._repr_html_()
    whole = version_view(digest="0" * 64)
    with pytest.raises(VerificationFailed):
        _ = Version(brief_of(version_view()), registry).info
    # What is given out is the caller's own.
    found.tags["more"] = found.metrics["more"] = 1  # type: ignore[assignment]
    assert (found.tags, len(found.metrics)) == ({"language": "python"}, 3)


def test_a_long_list_is_cut_with_a_sentence() -> None:
    versions = TableList(Version(version_view(ref=f"team/sql@v{at}", number=at), AWAY) for at in range(1, 401))
    page = Read(versions._repr_html_())
    assert page.headers.count("row") == MOST_ROWS
    assert "".join(page.text).endswith(
        "The first 50 of 400 are shown; take a part of the list to see others, as in [50:]."
    )
    assert "… 39" in repr(versions)
    assert len(repr(versions)) < 1000
    assert "team/sql@v60" in versions[50:]._repr_html_()
    assert isinstance(versions[50:], TableList)
    assert versions[0] in versions
    assert len(set(versions)) == 400
    assert Read(TableList([])._repr_html_()).text == ["The list is empty."]
    assert "The first 20 of 60 are shown." in diff()._repr_html_()


def test_loss_comes_first_and_numbers_are_short() -> None:
    assert re.findall(r"<th scope=\"row\"[^>]*>(\w+)</th>", evaluation()._repr_html_())[-3:] == [
        "loss",
        "rouge_l",
        "rows",
    ]
    assert repr(evaluation()) == "Evaluation(id='e1', ref='team/sql@v3', dataset='555555555555', loss=0.9, rows=48.0)"
    assert repr(comparison()) == "Comparison(metric='loss', rows=48, scores={'a@v1': 0.9, 'a@v2': 0.9})"
    assert repr(diff()) == "Diff(a='a@v1', b='a@v2', same=False, differing=3)"


class Secretive:
    """A registry whose token must not leave the process."""

    transport = type(
        "Transport", (), {"config": type("Config", (), {"token": "actl_secret", "url": "https://r.example"})}
    )()


@pytest.mark.parametrize(
    "given",
    [
        Version(version_view(), Secretive()),  # type: ignore[arg-type]
        Version(brief_of(version_view()), Secretive()),  # type: ignore[arg-type]
        Job(FAILED, Secretive()),  # type: ignore[arg-type]
        Sweep(SWEEP, Secretive()),  # type: ignore[arg-type]
        MergedModel("a@v1", Manifest(kind="merged", base_fingerprint="f" * 64, files=version_view().files), {"x": 1.0}, Secretive(), "m@v1"),  # type: ignore[arg-type]
    ],
    ids=lambda one: type(one).__name__,
)  # fmt: skip
def test_a_pickle_has_what_is_known_and_no_token(given: Any) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        stored = pickle.dumps(given, protocol)
        assert b"actl_secret" not in stored
        assert b"r.example" not in stored
        again = pickle.loads(stored)
        assert repr(again) == repr(given)
        assert not isinstance(again._registry, Secretive)
        assert pickle.dumps(again, protocol) == stored
    for copied in (copy.copy(given), copy.deepcopy([given])[0]):
        assert repr(copied) == repr(given)
        assert copied._registry is given._registry


def test_a_record_that_is_shown_is_pickled_as_it_is() -> None:
    for one in (evaluation(), comparison(), diff(), TableList([evaluation()])):
        assert pickle.loads(pickle.dumps(one)) == one


def test_another_registry_s_version_is_not_taken_for_the_one_that_was_pickled(tmp_path: Path) -> None:
    version = Version(version_view(), AWAY)

    class Others:
        puller: Any = Puller.__new__(Puller)

    def resolve(*args: Any, **given: Any) -> Any:
        return type("Resolved", (), {"digest": "0" * 64, "contents": None})()

    Others.puller.resolve, Others.puller._url = resolve, "https://other.example"
    version._registry = Others()  # type: ignore[assignment]
    with pytest.raises(
        VerificationFailed, match=r"has the digest 000000000000 in the registry at https://other\.example"
    ):
        version.pull(tmp_path / "to")


def test_progress_is_told_as_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Progress] = []
    steps = [Progress(phase="train", step=step, total=10, loss=1.5, message="\x1b[2J") for step in (1, 2)]
    for how in (None, False, True, seen.append):
        with shown(job_view(subject="team/sql"), how) as show:
            for one in [*steps, Progress(phase="save")]:
                show(one)
    assert seen == [*steps, Progress(phase="save")]
    # Lines are few where nobody watches: one for each phase, and then one every five seconds.
    lines = ["training of team/sql: train 1/10 steps, loss 1.500", "training of team/sql: save"]
    assert capsys.readouterr().err.splitlines() == lines


def test_a_comparison_has_letters_instead_of_refs_in_pairs_so_that_it_fits_a_page() -> None:
    html = comparison()._repr_html_()
    pairs = html[html.index("Pairs") :]
    assert ">B - A<" in pairs
    # Whole refs are only in the verdict, which wraps.
    assert "→" not in pairs
    assert pairs.count("a@v1") == 1


def test_tables_call_rows_that_were_trained_on_as_a_terminal_does() -> None:
    for one in (comparison(), TableList([evaluation()])):
        assert ">seen<" in one._repr_html_()
        assert ">contaminated<" not in one._repr_html_()


def test_a_difference_says_which_way_is_better_and_who_wins() -> None:
    shown = re.sub(r"<[^>]+>", "|", diff()._repr_html_())
    assert re.search(r"loss\|+1\|+0\.5\|+-0\.5\|+lower\|+a@v2", shown)
