"""What differs between two versions: as a document, over a real registry, and as people see it."""

from __future__ import annotations

import itertools
import json
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from support import registries
from support.adapters import base_registration, digest, save_adapter
from support.registries import World

from sdk.cli import cli
from sdk.errors import Unavailable
from sdk.lora.version_diff import compare_versions, differing, scored
from sdk.schemas.catalog import VersionView
from sdk.schemas.diff import Diff, Difference
from sdk.schemas.scores import EvaluationView

Run = Callable[..., Result]

#: Each pair of the run has bytes that no cache holds.
SEEDS = itertools.count(1)


def view(ref: str = "x@v1", **changed: Any) -> VersionView:
    base = {
        "id": "tiny",
        "revision": None,
        "fingerprint": digest("base"),
        "weights_digest": digest("weights"),
        "architecture": "LlamaForCausalLM",
    }
    said: dict[str, Any] = {
        "ref": ref,
        "adapter": ref.partition("@")[0],
        "number": 1,
        "digest": digest(ref),
        "state": "ready",
        "kind": "adapter",
        "aliases": [],
        "tags": {},
        "description": "",
        "created_by": "me",
        "created_at": datetime(2026, 1, 2, tzinfo=UTC),
        "base": base | changed.pop("base", {}),
        "lora": {"rank": 8, "alpha": 16.0, "dropout": 0.0, "target_modules": ["q_proj"]} | changed.pop("lora", {}),
        "method": "lora",
        "quantization": None,
        "dataset": None,
        "training": None,
        "metrics": {},
        "parents": [],
        "job": None,
        "libraries": {},
        "unknown": [],
        "files": [],
    }
    return VersionView.model_validate(said | changed)


def evaluation(ident: str, day: int = 1, **changed: Any) -> EvaluationView:
    said: dict[str, Any] = {
        "id": ident,
        "namespace": "team",
        "conditions": {},
        "spec_digest": digest("conditions"),
        "ref": "x@v1",
        "digest": None,
        "base_fingerprint": digest("base"),
        "dataset": digest("rows"),
        "grader": "loss",
        "precision": "nf4",
        "metrics": {"loss": 1.5},
        "samples": [],
        "contamination": {"rows": 1, "of": ["d@v1"]},
        "job": "j1",
        "created_at": datetime(2026, 1, day, tzinfo=UTC),
    }
    return EvaluationView.model_validate(said | changed)


def compare(a: VersionView, b: VersionView) -> Diff:
    return compare_versions(a, b, [], [])


class TestSettings:
    def test_only_what_differs_is_told_and_nested_values_by_dotted_names(self) -> None:
        a = view(lora={"rank_pattern": {"q_proj": 4, "v_proj": 2}}, method="qlora", quantization={"type": "nf4"})
        b = view("x@v2", lora={"rank": 16, "rank_pattern": {"q_proj": 8}, "target_modules": ["q_proj", "v_proj"]})
        found = {one.name: (one.a, one.b) for one in compare(a, b).configuration}
        assert {name: value for name, value in found.items() if not name.startswith("quantization.")} == {
            "method": ("qlora", "lora"),
            "lora.rank": (8, 16),
            "lora.rank_pattern.q_proj": (4, 8),
            "lora.rank_pattern.v_proj": (2, None),
            "lora.target_modules": (["q_proj"], ["q_proj", "v_proj"]),
        }
        assert found["quantization.type"] == ("nf4", None)
        assert found["quantization.double_quant"] == (True, None)

    def test_training_and_data(self) -> None:
        use = {"digest": digest("rows"), "rows": 10, "supervised_tokens": 99}
        a = view(training={"lr": 2e-4, "epochs": 3.0, "seed": 0}, dataset=use)
        b = view("x@v2", training={"lr": 1e-4, "epochs": 3.0, "max_steps": 5}, dataset=use | {"rows": 12})
        found = compare(a, b)
        assert [(one.name, one.a, one.b) for one in found.training] == [
            ("lr", 2e-4, 1e-4),
            ("seed", 0, None),
            ("max_steps", None, 5),
        ]
        assert found.dataset == [Difference(name="rows", a=10, b=12)]
        assert [one.name for one in compare(a, view("x@v2")).dataset] == ["digest", "rows", "supervised_tokens"]

    def test_what_is_equal_is_no_difference(self) -> None:
        found = compare(view(), view("x@v2"))
        assert (found.same, found.notes, found.configuration, found.training, found.dataset) == (False, [], [], [], [])
        assert differing({"a": {"b": {}}}, {"a": {}}) == []

    def test_the_same_bytes_are_said_to_be_so(self) -> None:
        found = compare_versions(view(), view("y@v1", digest=digest("x@v1"), metrics={"loss": 1.0}), [], [])
        assert found == Diff(a=found.a, b=found.b, same=True)
        assert (found.a.ref, found.b.ref) == ("x@v1", "y@v1")

    def test_other_adapters_and_other_bases_are_said(self) -> None:
        other = view("y@v1", base={"id": "small", "fingerprint": digest("b"), "weights_digest": digest("w")})
        said = compare(view(), other)
        assert said.notes[0] == "x and y are different adapters"
        assert "different bases, tiny and small" in said.notes[1]
        assert {"base.id", "base.fingerprint", "base.weights_digest"} <= {one.name for one in said.configuration}
        (note,) = compare(view(), view("x@v2", base={"fingerprint": digest("b")})).notes
        assert "same weights" in note


class TestScores:
    def test_metrics_of_both_and_of_one(self) -> None:
        assert [
            (one.a, one.b, one.difference) for one in scored({"loss": 1.5, "x": 1.0}, {"loss": 1.25, "y": 0.0})
        ] == [
            (1.5, 1.25, -0.25),
            (1.0, None, None),
            (None, 0.0, None),
        ]

    def test_the_last_evaluations_on_the_same_rows_by_the_same_grader_at_the_same_precision(self) -> None:
        ours = [
            evaluation("new", 3, metrics={"loss": 1.0}),
            evaluation("old", 2, metrics={"loss": 9.0}),
            evaluation("mine", dataset=digest("others")),
            evaluation("exact", precision="float32"),
        ]
        theirs = [evaluation("b", metrics={"loss": 1.5}), evaluation("rouge", grader="rouge_l")]
        found = compare_versions(view(), view("x@v2"), ours, theirs).scores
        (both,) = found.evaluations
        assert (both.dataset, both.grader, both.precision) == (digest("rows"), "loss", "nf4")
        assert [(one.name, one.a, one.b, one.difference) for one in both.metrics] == [("loss", 1.0, 1.5, 0.5)]
        assert {one.id for one in found.only_a} == {"mine", "exact"}
        assert {one.id for one in found.only_b} == {"rouge"}

    @given(st.data())
    def test_scores_of_unlike_conditions_are_never_subtracted(self, data: Any) -> None:
        def drawn(ident: str) -> EvaluationView:
            values = {
                "loss_on": ["completion", "all"],
                "max_length": [512, 1024],
                "max_new_tokens": [16, 48],
                "stop_ids": [[1], [1, 2]],
                "templates": [[], [digest("t")]],
                "template_date": [None, "2026-01-02"],
                "tokenizer": [digest("tokenizer"), digest("another")],
                "metrics": [{"rouge_l": 1}, {"rouge_l": 2}],
                # An outcome, and no setting: it keeps its own metric alone from being subtracted.
                "failed": [{}, {"loss": digest("row 2")}, {"rouge_l": digest("row 2")}],
            }
            # Most differ in little, so that some are alike.
            drawn_too = {"failed", *data.draw(st.lists(st.sampled_from(sorted(values)), max_size=1))}
            conditions = {
                name: data.draw(st.sampled_from(each)) if name in drawn_too else each[0]
                for name, each in values.items()
            }
            day = data.draw(st.integers(1, 28))
            precision = data.draw(st.sampled_from(["nf4", "float32"]))
            score = data.draw(st.floats(0, 9))
            return evaluation(ident, day, precision=precision, conditions=conditions, metrics={"loss": score})

        ours = [drawn(f"a{n}") for n in range(data.draw(st.integers(0, 4)))]
        theirs = [drawn(f"b{n}") for n in range(data.draw(st.integers(0, 4)))]
        found = compare_versions(view(), view("x@v2"), ours, theirs)

        def settings(one: EvaluationView) -> dict[str, Any]:
            return {name: value for name, value in one.conditions.items() if name != "failed"}

        def last(given: list[EvaluationView], like: EvaluationView) -> EvaluationView:
            alike = [one for one in given if (one.precision, settings(one)) == (like.precision, settings(like))]
            return max(alike, key=lambda one: one.created_at.day)

        common = {one.key for one in ours} & {one.key for one in theirs}
        assert len(found.scores.evaluations) == len(common)
        if len(common) == 1:
            (both,) = found.scores.evaluations
            like = next(one for one in ours if one.key in common)
            (score,) = both.metrics
            assert both.precision == like.precision
            assert score.a in {one.metrics["loss"] for one in ours if one.key == like.key}
            assert score.b in {one.metrics["loss"] for one in theirs if one.key == like.key}
            days = [one.created_at.day for one in ours if one.key == like.key]
            if len(set(days)) == len(days):
                assert score.a == last(ours, like).metrics["loss"]
                others = [one for one in theirs if one.key == like.key]
                if len({one.created_at.day for one in others}) == len(others):
                    both_failed = [last(given_, like).conditions["failed"].get("loss") for given_ in (ours, theirs)]
                    assert (score.difference is None) == (both_failed[0] != both_failed[1])
        # Where none is compared, and both were scored on these rows, a note says what differs.
        notes = [note for note in found.notes if "not compared" in note]
        assert len(notes) == (1 if ours and theirs and not common else 0)

    def test_a_score_is_not_subtracted_where_it_failed_on_other_rows(self) -> None:
        metrics = {"loss": 1.0, "perplexity": 3.0, "regex": 0.5, "regex_rows": 3.0}
        ours = [evaluation("a", conditions={"max_length": 512, "failed": {"regex": digest("row 2")}}, metrics=metrics)]
        theirs = [evaluation("b", conditions={"max_length": 512}, metrics=metrics)]
        found = compare_versions(view(), view("x@v2"), ours, theirs)
        (both,) = found.scores.evaluations
        differences = {one.name: one.difference for one in both.metrics}
        assert differences == {"loss": 0.0, "perplexity": 0.0, "regex": None, "regex_rows": 0.0}
        (note,) = [note for note in found.notes if "failed" in note]
        assert note.endswith(f"adapterctl compare A B --data {digest('rows')[:12]} --metric regex")

    def test_scores_over_fewer_rows_are_not_subtracted(self) -> None:
        conditions = {"max_length": 512}
        ours = [evaluation("a", conditions=conditions, metrics={"loss": 1.0, "rows": 5.0, "failed_rows": 1.0})]
        for rows, difference in ((6.0, 0.0), (5.0, None)):
            theirs = [evaluation("b", conditions=conditions, metrics={"loss": 1.0, "rows": rows})]
            found = compare_versions(view(), view("x@v2"), ours, theirs)
            assert {one.name: one.difference for one in found.scores.evaluations[0].metrics}["loss"] == difference
            assert any("since one has fewer rows; compare the rows" in note for note in found.notes) == (rows == 5.0)

    def test_two_scores_on_the_same_rows_are_told_apart_by_the_fewest_conditions(self) -> None:
        def scored_twice(side: str) -> list[EvaluationView]:
            short, long = ({"max_length": 512, "loss_on": "all"}, {"max_length": 1024, "loss_on": "all"})
            other = evaluation(f"{side}3", dataset=digest("others"), conditions=long)
            return [evaluation(f"{side}1", conditions=short), evaluation(f"{side}2", conditions=long), other]

        found = compare_versions(view(), view("x@v2"), scored_twice("a"), scored_twice("b"))
        assert [one.condition for one in found.scores.evaluations] == ["max_length 512", "max_length 1024", ""]

    def test_a_note_names_what_differs_and_what_would_help(self) -> None:
        ours = [evaluation("a", conditions={"max_length": 512, "loss_on": "all"})]
        theirs = [evaluation("b", conditions={"max_length": 1024, "loss_on": "all"})]
        (note,) = compare_versions(view(), view("x@v2"), ours, theirs).notes
        rows = digest("rows")[:12]
        assert note == (
            f"their scores on {rows} are not compared, since they differ in max_length;"
            f" score both in one job: adapterctl eval A B --data {rows}"
        )
        dated = [evaluation("b", conditions={"max_length": 512, "loss_on": "all", "template_date": "2026-01-02"})]
        (note,) = compare_versions(view(), view("x@v2"), ours, dated).notes
        assert note.endswith("differ in template_date")

    @pytest.mark.parametrize("texts", [None, digest("longer texts")])
    def test_what_changed_on_the_general_texts_of_another_release_is_not_subtracted(self, texts: str | None) -> None:
        metrics = {"loss": 1.0, "general_loss": 3.0, "general_loss_base": 3.0, "general_kl": 0.5}
        read = {} if texts is None else {"general_texts": texts}
        ours = [evaluation("a", conditions={"max_length": 512, **read}, metrics=metrics)]
        conditions = {"max_length": 512, "general_texts": digest("texts")}
        theirs = [evaluation("b", conditions=conditions, metrics=metrics)]
        found = compare_versions(view(), view("x@v2"), ours, theirs)
        assert found.scores.evaluations == []
        (note,) = found.notes
        assert "since they differ in general_texts" in note
        both = compare_versions(view(), view("x@v2"), theirs, theirs).scores.evaluations
        assert {one.name for one in both[0].metrics if one.difference == 0.0} == set(metrics)

    @pytest.mark.parametrize(
        ("name", "changed"),
        [
            ("eval_loss", {"training": {"eval_data": digest("other rows"), "loss_on": "all"}}),
            ("eval_loss", {"training": {"eval_data": digest("held out"), "loss_on": "completion"}}),
            ("eval_loss", {"training": {"loss_on": "all"}}),
            ("eval_loss", {"training": {"held_out_digest": digest("a part"), "loss_on": "all"}}),
            ("eval_loss", {"training": {"eval_data": digest("held out"), "loss_on": "all", "held_out_split": 1}}),
            ("eval_loss", {"quantization": {}}),
            ("eval_loss", {"base": {"fingerprint": digest("another")}}),
            ("loss", {"dataset": {"digest": digest("more"), "rows": 1, "supervised_tokens": 1}}),
            (
                "loss",
                {"training": {"eval_data": digest("held out"), "loss_on": "all", "training_digest": digest("a part")}},
            ),
        ],
    )
    def test_losses_of_trainings_are_subtracted_only_where_they_were_taken_alike(
        self, name: str, changed: dict[str, Any]
    ) -> None:
        def trained(ref: str, **said: Any) -> VersionView:
            return view(
                ref,
                **{
                    "dataset": {"digest": digest("rows"), "rows": 1, "supervised_tokens": 1},
                    "training": {"eval_data": digest("held out"), "loss_on": "all"},
                    "metrics": {"eval_loss": 1.5, "loss": 1.0, "train_s": 4.0},
                    **said,
                },
            )

        def differences(b: VersionView) -> dict[str, float | None]:
            return {one.name: one.difference for one in compare(trained("x@v1"), b).scores.training}

        metrics = {"eval_loss": 1.25, "loss": 0.5, "train_s": 3.0}
        assert differences(trained("x@v2", metrics=metrics)) == {"eval_loss": -0.25, "loss": -0.5, "train_s": -1.0}
        found = differences(trained("x@v2", metrics=metrics, **changed))
        assert found[name] is None
        # A time is a time.
        assert found["train_s"] == -1.0
        if name == "loss":
            assert found["eval_loss"] == -0.25


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with registries.embedded(tmp_path_factory.mktemp("diff") / "home") as found:
        found.admin.bases.register(base_registration())
        found.admin.bases.register(base_registration("small"))
        yield found


@pytest.fixture
def run(world: World, tmp_path: Path) -> Run:
    env = {"ADAPTERCTL_URL": world.url, "ADAPTERCTL_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    return lambda *args: CliRunner(env=env).invoke(cli, ["diff", *args])


def module_tensors(seed: int, count: int, share: float) -> dict[str, np.ndarray]:
    """Weights of `count` layers; the later one comes, the more of it depends on `share` and not on the seed alone."""
    tensors = {}
    for layer in range(count):
        prefix = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        random = np.random.default_rng([seed, layer])
        a, b, other = random.normal(size=(2, 6)), random.normal(size=(8, 2)), random.normal(size=(8, 2))
        tensors[f"{prefix}.lora_A.weight"] = a.astype("float32")
        tensors[f"{prefix}.lora_B.weight"] = (b + share * layer * other).astype("float32")
    return tensors


@pytest.fixture
def pair(world: World, tmp_path: Path) -> tuple[str, str]:
    """Two versions of 24 modules that differ more and more, and in their alpha."""
    tensors = {f"model.layers.{n}.self_attn.q_proj.weight": [8, 6] for n in range(24)}
    name = f"deep-{uuid.uuid4().hex[:8]}"
    world.admin.bases.register(base_registration("deep", tensors=tensors))
    refs, seed = [], next(SEEDS)
    for number, alpha in ((1, 4), (2, 8)):
        folder = tmp_path / f"adapter{number}"
        save_adapter(
            folder, tensors=module_tensors(seed, 24, number - 1.0), lora_alpha=alpha, target_modules=["q_proj"]
        )
        refs.append(world.writer.push(folder, name, base="deep").ref)
    return refs[0], refs[1]


class TestClient:
    def test_the_weights_are_fetched_and_compared(self, world: World, pair: tuple[str, str]) -> None:
        found = world.writer.diff(*pair)
        assert (found.same, found.a.ref, found.b.ref) == (False, *pair)
        assert [(one.name, one.a, one.b) for one in found.configuration] == [("lora.alpha", 4.0, 8.0)]
        assert len(found.weights.modules) == 24
        first = found.weights.modules[0]
        # The first layer is the same but for its alpha, by which its norm grows.
        assert first.cosine == pytest.approx(1)
        assert first.norm_b == pytest.approx(2 * (first.norm_a or 0))
        assert Diff.model_validate_json(found.model_dump_json()) == found

    def test_without_weights_nothing_is_fetched(self, world: World, pair: tuple[str, str]) -> None:
        found = world.writer.diff(*pair, weights=False)
        assert found.weights is None
        assert found.configuration
        cache = world.writer.cache
        assert not any(cache.version(world.writer.get(ref).digest).exists() for ref in pair)

    def test_different_adapters_over_different_bases(self, world: World, tmp_path: Path) -> None:
        refs = [
            world.writer.push(save_adapter(tmp_path / base, seed), f"over-{base}", base=base).ref
            for seed, base in ((901, "tiny"), (902, "small"))
        ]
        found = world.writer.diff(*refs)
        assert len(found.notes) == 2
        assert found.weights.cosine is not None

    def test_without_numpy_it_says_so_before_anything_is_fetched(
        self, world: World, pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "numpy", None)
        with pytest.raises(Unavailable, match=r"adapterctl\[local\].*weights=False"):
            world.writer.diff(*pair)
        assert not world.writer.cache.version(world.writer.get(pair[0]).digest).exists()
        assert world.writer.diff(*pair, weights=False).weights is None


class TestCommand:
    def test_the_table_has_three_sections_and_80_columns(self, run: Run, pair: tuple[str, str]) -> None:
        done = run(*pair, "--format", "table")
        assert done.exit_code == 0
        lines = done.stdout.splitlines()
        assert lines[:2] == [f"a  {pair[0]}", f"b  {pair[1]}"]
        assert max(map(len, lines)) <= 80
        assert [line.split()[0] for line in lines if line.isupper()] == ["SETTING", "MODULE"]
        assert "neither has scores" in lines
        assert ["lora.alpha", "4", "8"] in [line.split() for line in lines]
        # Scores are asked for first.
        assert lines.index("neither has scores") < next(
            at for at, line in enumerate(lines) if line.startswith("SETTING")
        )

    def test_the_modules_that_differ_most_come_first(self, run: Run, pair: tuple[str, str]) -> None:
        done = run(*pair, "--format", "table")
        lines = done.stdout.splitlines()
        start = next(n for n, line in enumerate(lines) if line.startswith("MODULE"))
        assert lines[start + 1].startswith("whole adapter")
        cosines = [float(line.split()[-1]) for line in lines[start + 2 :]]
        assert (len(cosines), cosines) == (20, sorted(cosines))
        assert done.stderr == "4 more modules differ less; show them with --all\n"
        every = run(*pair, "--all", "--format", "table")
        assert len(every.stdout.splitlines()) == len(lines) + 4
        assert every.stderr == ""

    def test_json_is_one_document(self, run: Run, pair: tuple[str, str]) -> None:
        found = Diff.model_validate(json.loads(run(*pair, "--format", "json").stdout))
        assert (found.a.ref, found.weights is not None) == (pair[0], True)
        bare = Diff.model_validate(json.loads(run(*pair, "--no-weights", "--format", "json").stdout))
        assert bare == found.model_copy(update={"weights": None})

    def test_one_version_under_two_names_is_the_same_bytes(self, run: Run, pair: tuple[str, str]) -> None:
        latest = f"{pair[0].partition('@')[0]}@latest"
        done = run(latest, pair[1])
        assert done.exit_code == 0
        assert "are the same bytes" in done.stdout
        found = json.loads(run(latest, pair[1], "--format", "json").stdout)
        assert (found["same"], found["weights"], found["configuration"]) == (True, None, [])
        assert run(latest, pair[1], "--format", "quiet").stdout == ""

    def test_quiet_is_the_names_of_what_differs(self, run: Run, pair: tuple[str, str]) -> None:
        assert run(*pair, "--no-weights", "--format", "quiet").stdout == "lora.alpha\n"

    def test_long_lists_show_what_only_one_side_has(self, world: World, run: Run, tmp_path: Path) -> None:
        names = [f"module_{n:02}" for n in range(30)]
        refs = [
            world.writer.push(
                save_adapter(tmp_path / str(n), 950 + n, target_modules=["q_proj", "v_proj", *more]),
                "many",
                base="tiny",
            ).ref
            for n, more in enumerate((names, [*names, "zz_extra"]))
        ]
        line = next(
            line
            for line in run(*refs, "--no-weights", "--format", "table").stdout.splitlines()
            if "target_modules" in line
        )
        assert line.split() == ["lora.target_modules,", "only", "in", "zz_extra"]
