"""What of a replayed probe is rounding and what is not, and how it is shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

from sdk.cli.commands import pull
from sdk.cli.support.replayed_probe import print_replay
from sdk.errors import InvalidInput, VerificationFailed
from sdk.examining.probe_replay import nearest_gap, record_of, require_equal, text_differences
from sdk.schemas.probe import (
    LogitsReplay,
    NormDiffering,
    ProbeReplay,
    ProbeReport,
    ProbeText,
    TextDiffering,
    recorded_probe,
    says_probe,
)
from sdk.schemas.probe_records import ProbeRecordView
from sdk.schemas.version_records import TrainingRecord

LONG = "model.language_model.layers.{}.mlp.shared_experts.down_projection_of_the_layer"


def report(gap: float = 0.5, kl: float = 0.02, *, tokens: int = 40, largest: float = 20.0) -> ProbeReport:
    texts = [ProbeText(tokens=40, logit_gap=0.5, kl=0.02), ProbeText(tokens=tokens, logit_gap=gap, kl=kl)]
    return ProbeReport(texts_digest="a" * 64, texts=texts, largest_logit=largest)


def differing(found: ProbeReport, *dtypes: str) -> list[tuple[int, str]]:
    return [(one.text, one.what) for one in text_differences(report(), found, set(dtypes))]


def test_rounding_is_that_of_the_type_that_was_computed_in() -> None:
    assert differing(report(), "float32") == []
    # 1e-3 of 0.5, and 64 roundings of a logit of 20: 6.5e-4.
    assert differing(report(gap=0.5006), "float32") == []
    assert differing(report(gap=0.5008), "float32") == [(2, "logit_gap")]
    assert differing(report(gap=0.4992), "float32") == [(2, "logit_gap")]
    # 8 roundings of bfloat16: 0.625; it is enough that one side computed in it.
    for dtypes in (("bfloat16",), ("float32", "bfloat16"), ("bfloat16", "None")):
        assert differing(report(gap=1.12), *dtypes) == []
        assert differing(report(gap=1.13), *dtypes) == [(2, "logit_gap")]
    assert differing(report(gap=0.57), "float16") == []
    assert differing(report(gap=0.58), "float16") == [(2, "logit_gap")]
    assert differing(report(kl=0.02 + 5e-5), "float32") == []
    assert differing(report(kl=0.0203), "float32") == [(2, "kl")]
    # Another tokenizer cuts otherwise.
    assert differing(report(tokens=41), "bfloat16") == [(2, "tokens")]


def replayed(**changed: object) -> ProbeReplay:
    norms = {LONG.format(number): float(number) for number in range(30)}
    logits = LogitsReplay(recorded=report(), found=report(), dtype="float32", device="cpu", differing=[])
    return ProbeReplay.model_validate(
        {
            "ref": "team/an-adapter-of-a-long-name@v3",
            "digest": "b" * 64,
            "norms": norms,
            "replaced": ["lm_head.weight"],
            "norms_stored": True,
            "norms_differing": [],
            "logits": logits,
            "notes": ["predictions were recorded on cuda, and replayed on cpu"],
        }
        | changed
    )


@pytest.fixture
def _drawn() -> Iterator[None]:
    """As where a table was asked for: without one, a pipe gets a number a line."""
    with click.Context(pull.verify_command, info_name="verify") as context:
        context.meta["sdk.cli.table_asked"] = True
        yield


@pytest.mark.usefixtures("_drawn")
def test_tables_fit_eighty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    one = NormDiffering(module=LONG.format(29), stored=29.123456789, found=29.0)
    gone = NormDiffering(module=LONG.format(99), stored=1.0, found=None)
    text = TextDiffering(text=2, what="kl", recorded=0.021234567, found=0.02, allowed=1e-5)
    spoilt = replayed().logits
    changes: tuple[dict[str, object], ...] = (
        {},
        {"logits": None, "norms_stored": False},
        {"norms_differing": [one, gone]},
        {"logits": spoilt.model_copy(update={"differing": [text]})},
        {"logits": spoilt.model_copy(update={"recorded": None})},
    )
    for changed in changes:
        found = replayed(**changed)
        try:
            print_replay(found, "table")
        except VerificationFailed:
            assert not found.ok
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines[1:])) <= 80, lines
        assert any("and 20 more" in line or "and 21 more" in line for line in lines)


def test_what_differs_is_named_and_is_an_error() -> None:
    require_equal(replayed())
    one = NormDiffering(module="layers.0.q_proj", stored=1.5, found=1.25)
    with pytest.raises(
        VerificationFailed, match=r"layers\.0\.q_proj of team/.*norm 1.25 in the pulled bytes and norm 1.5"
    ):
        require_equal(replayed(norms_differing=[one]))
    gone = NormDiffering(module="layers.1.q_proj", stored=1.5, found=None)
    with pytest.raises(
        VerificationFailed, match=r"ΔW has no such module in the pulled bytes.*and 1 more modules differ"
    ):
        require_equal(replayed(norms_differing=[gone, one]))
    text = TextDiffering(text=2, what="kl", recorded=0.25, found=0.5, allowed=1e-4)
    logits = LogitsReplay(recorded=report(), found=report(), dtype="float32", device="cpu", differing=[text])
    with pytest.raises(VerificationFailed, match=r"text 2 of the probe .* kl is 0\.5 here and 0\.25 in the record"):
        require_equal(replayed(logits=logits))


RECORD: dict[str, Any] = {"probe_texts": "a" * 64}


@pytest.mark.parametrize(
    ("metrics", "training"),
    [
        ({"probe_tokens_x": 1.0, "probe_largest_logit": 1.0}, RECORD),
        ({"probe_tokens_1": 1.0, "probe_largest_logit": 1.0}, RECORD),
        (report().metrics() | {"probe_tokens_x": 1.0}, RECORD),
        (report().metrics() | {"probe_tokens_4": 1.0}, RECORD),
        (report().metrics() | {"probe_tokens_1": 0.0}, RECORD),
        (report().metrics() | {"probe_tokens_1": 1.5}, RECORD),
        (report().metrics() | {"probe_tokens_1": float("inf")}, RECORD),
        (report().metrics() | {"probe_kl_2": -1.0}, RECORD),
        (report().metrics(), {"probe_texts": "z" * 64}),
        (report().metrics(), {"probe_texts": 3}),
        (report().metrics(), None),
        ({name: value for name, value in report().metrics().items() if name != "probe_largest_logit"}, RECORD),
        (
            {f"probe_{what}_{number}": 1.0 for what in ("tokens", "kl", "logit_gap") for number in range(1, 66)}
            | {"probe_largest_logit": 1.0},
            RECORD,
        ),
    ],
)
def test_a_record_that_its_publisher_made_up_is_no_probe(metrics: dict[str, float], training: Any) -> None:
    assert recorded_probe(report().metrics(), TrainingRecord.read(RECORD)) == report()
    assert recorded_probe(metrics, TrainingRecord.read(training)) is None
    assert says_probe(metrics, TrainingRecord.read(training))
    assert not says_probe({"loss": 1.0, "probe_kl": 1.0}, TrainingRecord(seed=1))


def test_numbers_without_bounds_are_compared() -> None:
    texts = [ProbeText(tokens=1, logit_gap=0.0, kl=0.0), ProbeText(tokens=1, logit_gap=1e308, kl=1e308)]
    huge = ProbeReport(texts_digest="a" * 64, texts=texts, largest_logit=1e308)
    assert [one.what for one in text_differences(huge, report(), {"float32"})] == ["tokens", "tokens", "logit_gap"]


def test_what_is_recorded_is_the_text_nearest_to_what_is_allowed() -> None:
    difference, allowed = nearest_gap(report(), report(gap=0.5006), {"float32"})
    assert (difference, allowed) == (pytest.approx(6e-4), pytest.approx(1e-3 * 0.5 + 20 * 64 * 2.0**-23))
    logits = replayed().logits.model_copy(update={"difference": difference, "allowed": allowed})
    found = record_of(replayed(logits=logits))
    assert (found.adapter, found.number, found.digest) == ("team/an-adapter-of-a-long-name", 3, "b" * 64)
    assert (found.agrees, found.difference, found.tolerance, found.message) == (True, difference, allowed, "")
    gone = NormDiffering(module="layers.1.q_proj", stored=1.5, found=None)
    differs = record_of(replayed(logits=logits, norms_differing=[gone]))
    assert (differs.agrees, "ΔW has no such module" in differs.message) == (False, True)
    # Nothing is allowed where there is nothing: then any difference is the largest.
    bare = ProbeReport(texts_digest="a" * 64, texts=[ProbeText(tokens=1, logit_gap=0.0, kl=0.0)], largest_logit=0.0)
    assert nearest_gap(bare, bare, {"float32"}) == (0.0, 0.0)


def test_nothing_is_recorded_where_no_predictions_were_compared() -> None:
    for changed in ({"logits": None, "notes": ["the record has none; give --base"]}, {}):
        with pytest.raises(InvalidInput, match="nothing was recorded, since no predictions were compared: ") as caught:
            record_of(replayed(**changed))
        assert caught.value.exit_code == 2
    logits = replayed().logits.model_copy(update={"difference": 0.0, "allowed": 1e-3})
    with pytest.raises(InvalidInput, match="has no number, as in quarantine"):
        record_of(replayed(logits=logits, ref=f"team/a@sha256:{'b' * 64}"))


@pytest.mark.usefixtures("_drawn")
def test_a_difference_is_shown_then_recorded_and_then_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[ProbeReplay] = []

    def record(found: ProbeReplay) -> ProbeRecordView:
        asked.append(found)
        assert "whole: team/" in capsys.readouterr().out
        said = {"adapter": "team/a", "number": 3, "digest": "b" * 64, "agrees": found.ok, "created_by": "gpu"}
        return ProbeRecordView.model_validate({**said, "created_at": datetime(2026, 1, 31, tzinfo=UTC)})

    print_replay(replayed(), "table", record=record)
    assert (
        "recorded for gpu: the replay of team/an-adapter-of-a-long-name@v3 agrees with its record"
        in capsys.readouterr().err
    )
    gone = NormDiffering(module="layers.1.q_proj", stored=1.5, found=None)
    with pytest.raises(VerificationFailed, match="ΔW has no such module"):
        print_replay(replayed(norms_differing=[gone]), "table", record=record)
    assert len(asked) == 2
    assert "differs from its record" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_what_was_verified_is_replayed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Puller:
        def resolve(self, ref: str) -> SimpleNamespace:
            return SimpleNamespace(ref="team/a@v1", contents=SimpleNamespace(kind=kind))

    class Versions:
        def verify(self, ref: str, *, verify_with: object) -> SimpleNamespace:
            asked.append(ref)
            return SimpleNamespace(digest="b" * 64)

        def replay_probe(self, ref: str, *, base: object, answers: bool) -> ProbeReplay:
            asked.append(ref)
            return replayed()

    @contextmanager
    def opened() -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(puller=Puller(), versions=Versions())

    monkeypatch.setattr(pull, "open_client", opened)
    done = CliRunner().invoke(pull.verify_command, ["team/a@prod", "--probe"])
    if kind == "merged":
        # Before its gigabytes are fetched.
        assert isinstance(done.exception, InvalidInput)
        assert "lineage team/a@v1 --up" in str(done.exception)
        assert asked == []
        return
    assert done.exit_code == 0, done.output
    assert asked == ["team/a@prod", f"team/a@sha256:{'b' * 64}"]
