"""Policies as people write them: what is read, what is refused in which line, and what is written comes back the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sdk.errors import InvalidInput, NotFound
from sdk.schemas.policies import ContaminationRule, ForgettingRule, MetricRule, PolicyDocument, ProbeRule, RowsRule
from sdk.submitting.given_policy import as_yaml, read_policies, read_policy

PUBLIC = "-----BEGIN PUBLIC KEY-----\nMFkwEwYH\n-----END PUBLIC KEY-----\n"
ROWS = "alias: production\nrequire:\n  - data: heldout\n    "
#: A policy, the line that is wrong, and what is said of it.
REFUSED: list[tuple[str, int | None, str]] = [
    (
        ROWS + "metrics:\n      loss: {at_lest: 1}\n",
        5,
        "require[0].metrics.loss.at_lest: there is no such key; did you mean at_least?",
    ),
    ("alias: production\nnosuch: 1\n", 2, "nosuch: there is no such key; give one of alias, alpha, require"),
    (
        ROWS + "metrics:\n      loss:\n        not_worse_than: -0.1\n",
        5,
        "metrics.loss: a margin is by how much it may be worse, whether less or more is better; give not_worse_than of 0 or more",
    ),
    (
        ROWS + "metrics: {loss: {not_worse_than: 1, against: nosuch}}\n",
        4,
        "'nosuch' is nothing to compare with; write incumbent",
    ),
    (ROWS + "metrics: {loss: {at_least: 2, at_most: 1}}\n", 4, "metrics.loss: no score is at least 2 and at most 1"),
    (ROWS + "metrics: {loss: {}}\n", 4, "metrics.loss: this asks for nothing; give at_least"),
    (ROWS + "metrics: {loss: 0.5}\n", 4, "metrics.loss can't be 0.5; use its keys: at_least, at_most"),
    (ROWS + "metrics: {}\n", 4, "require[0].metrics is empty; give at least 1"),
    (
        ROWS + "max_age: 30 days\n    metrics: {loss: {at_most: 1}}\n",
        4,
        "'30 days' is not an age; write a whole number",
    ),
    (
        ROWS + "min_rows: 5\n    metrics: {loss: {at_most: 1}}\n",
        4,
        "min_rows can't be 5; use a whole number from 20 to 1000000",
    ),
    ("alias: production\nrequire:\n  data: heldout\n", 2, "use a list, each item in a line that begins with '- '"),
    (
        "alias: production\nrequire:\n  - data: 123456789012\n    metrics: {loss: {at_most: 1}}\n",
        3,
        "123456789012 is not text; put it in quotes",
    ),
    ("alias: production\nprobe:\n", 2, "probe: nothing is given; write 'probe: {}' for the rule as it is by default"),
    ("alias: production\nalpha:\n", 2, "alpha: nothing is given; give a value, or leave it out"),
    ("alias: production\nalpha: 0.5\n", 2, "alpha can't be 0.5; use a number of at least 0.0001 and at most 0.2"),
    ("alias: production\napprovals: two\n", 2, "approvals can't be 'two'; use a whole number from 0 to 20"),
    ("alias: production\nscored_by: other_worker\n", 2, "scored_by: there is no such key"),
    ("alias: Production\n", 1, "alias: 'Production' is not an alias"),
    ("approvals: 1\n", 1, "alias is missing; add it"),
    (
        "alias: production\nhidden: 2\n",
        2,
        "hidden: rules that you may not see were left out of this; give a whole policy",
    ),
    ("alias: production\nalias: staging\n", None, "'alias' is given twice, again in line 2; leave one"),
    (
        ROWS + "metrics: {loss: {at_most: 1}}\n    data: other\n",
        None,
        "'data' is given twice, again in line 5; leave one",
    ),
    ("alias: production\npromote: automatic\n", None, "promote: automatic needs a cap"),
    ("alias: production\napproval_age: 7d\n", None, "approval_age belongs to approvals; leave it out"),
    ("- production\n", None, "this is not a policy; write lines such as: alias: production"),
    ("# nothing\n", None, "holds no policy; write one"),
    ("alias: [\n", None, "can't be read as YAML in line 2; correct it"),
    ("alias: a\n---\nalias: a\n", None, "holds two policies for the alias a; leave one"),
]


@pytest.mark.parametrize(("text", "line", "message"), REFUSED, ids=lambda value: repr(value)[:40])
def test_a_policy_that_can_t_be_is_refused_with_its_line(
    tmp_path: Path, text: str, line: int | None, message: str
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    with pytest.raises(InvalidInput) as refused:
        read_policies(file)
    assert message in refused.value.message
    assert refused.value.message.startswith(f"{file}, line {line}: " if line else f"{file}")
    assert line is not None or ", line" not in refused.value.message
    assert "\n" not in refused.value.message


def test_numbers_are_read_as_people_write_them(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(ROWS + "metrics: {loss: {at_most: 2e-1}}\nalpha: 1e-2\n")
    policy = read_policies(file)[0].document
    assert (policy.alpha, policy.require[0].metrics["loss"].at_most) == (0.01, 0.2)


def test_one_text_stands_for_a_list() -> None:
    rule = {"data": "heldout", "metrics": {"loss": {"not_worse_than": 0, "against": "v3"}}}
    policy = read_policy({"alias": "production", "require": [rule]}).document
    assert policy.require[0].metrics["loss"].references == ["v3"]


def test_keys_are_read_from_files_beside_the_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "release.pub.pem").write_text(f"a comment\n{PUBLIC}\n")
    (tmp_path / "policy.yaml").write_text("alias: production\nsigned_by: keys/release.pub.pem\n")
    monkeypatch.chdir("/")
    policy = read_policies(tmp_path / "policy.yaml")[0].document
    assert policy.signed_by == [PUBLIC]
    assert read_policy({"alias": "production", "signed_by": [PUBLIC]}).document == policy


def test_a_key_that_is_no_public_one_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text(PUBLIC.replace("PUBLIC", "EC PRIVATE"))
    (tmp_path / "both.pem").write_text(PUBLIC + PUBLIC.replace("PUBLIC", "EC PRIVATE"))
    (tmp_path / "text.pem").write_text("hello")
    (tmp_path / "bytes.pem").write_bytes(b"\xff\xfe")
    for name, message in {
        "key.pem": "this is a private key; give its public half",
        "text.pem": "holds no key in PEM",
        "bytes.pem": "can't be read as PEM",
    }.items():
        with pytest.raises(InvalidInput, match=message):
            _signed_by(tmp_path, name)
    (public,) = _signed_by(tmp_path, "both.pem") or []
    assert public == PUBLIC
    with pytest.raises(NotFound, match=r"line 2: signed_by\[0\]: there is no file"):
        _signed_by(tmp_path, "none.pem")


def _signed_by(folder: Path, name: str) -> list[str] | None:
    (folder / "policy.yaml").write_text(f"alias: production\nsigned_by: [{name}]\n")
    return read_policies(folder / "policy.yaml")[0].document.signed_by


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no file"):
        read_policies(tmp_path / "policy.yaml")
    with pytest.raises(InvalidInput, match="is a folder; give the YAML file of a policy"):
        read_policies(tmp_path)


METRICS = st.one_of(
    st.builds(MetricRule, at_least=st.floats(-1e6, 1e6), point=st.booleans()),
    st.builds(
        MetricRule,
        not_worse_than=st.floats(0, 1e6),
        against=st.none() | st.lists(st.sampled_from(["incumbent", "best", "v3"]), min_size=1, max_size=3),
    ),
)
TEXTS = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=20)
RULES = st.builds(
    RowsRule,
    data=TEXTS | st.just("1e5") | st.just("012345678901"),
    data_name=st.none() | TEXTS,
    by=st.none() | TEXTS,
    min_rows=st.integers(20, 10**6),
    max_age=st.none() | st.just("30d"),
    metrics=st.dictionaries(TEXTS, METRICS, min_size=1, max_size=2),
)
POLICIES = st.builds(
    PolicyDocument,
    alias=st.just("production"),
    alpha=st.floats(1e-4, 0.2),
    require=st.lists(RULES, min_size=1, max_size=2),
    forgetting=st.none() | st.builds(ForgettingRule, kl_at_most=st.floats(0, 10)),
    contamination=st.none() | st.builds(ContaminationRule, at_most=st.floats(0, 0.5)),
    probe=st.none() | st.just(ProbeRule()),
    signed_by=st.none() | st.just([PUBLIC]),
    approvals=st.integers(0, 5),
)


@settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(policy=POLICIES)
def test_a_policy_that_was_written_is_read_as_the_same(
    tmp_path_factory: pytest.TempPathFactory, policy: PolicyDocument
) -> None:
    file = tmp_path_factory.getbasetemp() / "written.yaml"
    file.write_text(as_yaml(policy))
    assert [each.document for each in read_policies(file)] == [policy]


PAGE = (Path(__file__).resolve().parents[4] / "docs" / "promoting.md").read_text()


def test_the_policy_of_the_page_is_read_and_refused_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (text,) = re.findall(r"<!-- file: policy.yaml -->\n```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "policy.yaml").write_text(text)
    assert read_policies("policy.yaml")[0].document.approvals == 2
    (tmp_path / "policy.yaml").write_text(text.replace("not_worse_than: 0.1", "not_worse_than: -0.1"))
    with pytest.raises(InvalidInput) as refused:
        read_policies("policy.yaml")
    assert refused.value.message in PAGE.replace("\n", " ")


def test_the_tables_of_the_page_have_each_key_with_its_default() -> None:
    for model in (PolicyDocument, RowsRule, MetricRule):
        missing = [
            name
            for name in model.model_fields
            if f"| `{name}`" not in PAGE and f", `{name}` |" not in PAGE and name not in ("data_name", "point")
        ]
        assert missing == [], model
        for name, field in model.model_fields.items():
            if isinstance(field.default, str | int | float) and field.default and f"| `{name}` |" in PAGE:
                assert re.search(rf"\| `{name}` \| `?{re.escape(str(field.default))}`? \|", PAGE), name
