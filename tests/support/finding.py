"""What a search must find: versions, filters over them, and an oracle that looks at one version after the other."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from registry.principal import Principal
from registry.search.fields import FIELDS, And, Field, FieldComparison, Node, Not, Or, Value, comparisons, day_bounds
from support.registries import World
from support.shelf import DAWN, Made, Score, Shelf, digest_of

#: Texts with characters that mean something else elsewhere.
TRICKS = [
    "'; drop table versions; --",
    '" or 1=1 --',
    "%",
    "_",
    "a%",
    "100%_\\sure",
    "\\",
    "[a-z]?",
    "*",
    "O'Neill",
    "é\u200b\n",
]


#: By a dataset's digest: its name and the namespaces whose readers may use it.
Datasets = dict[str, tuple[str, tuple[str, ...]]]
#: What was written into the registry at a URL.
_WRITTEN: dict[str, tuple[list[Made], Datasets]] = {}


def furnish(world: World) -> tuple[list[Made], Datasets]:
    """Write versions in the namespaces a, b and none, once per world; return them, and datasets by digest."""
    if world.url in _WRITTEN:
        return _WRITTEN[world.url]
    shelf = Shelf(world.services.db)
    datasets = {
        shelf.dataset(name, *spaces): (name, spaces)
        for name, spaces in (
            ("shared.jsonl", ("a", "b")),
            ("secret.jsonl", ("b",)),
            ("train.jsonl", ("a", "-")),
            # Others call other rows so.
            ("shared.jsonl", ("-",)),
        )
    }
    shared, secret, train, theirs = datasets
    made = [
        Made("a/one", 1, rank=4, alpha=8, aliases=["canary"], tags={"language": "python"}, datasets=[train], hours=1),
        Made("a/one", 2, rank=8, aliases=["production"], targets=["q_proj"], datasets=[shared], hours=25.5),
        Made("a/one", 3, rank=8, state="archived", author="ada", base="Tiny", hours=26),
        Made("a/two", 1, rank=16, base="other", method="lora", author="ada", metrics={"loss": 0.5}, hours=48),
        Made("a/two", None, rank=64, state="quarantined", hours=49),
        Made("a/two", None, rank=65, state="pending", hours=49),
        Made("a/two", 2, rank=66, state="deleted", hours=50),
        Made("b/one", 1, rank=8, aliases=["production"], tags={"language": "py"}, datasets=[secret], hours=24),
        Made("b/one", None, rank=8, state="quarantined", hours=51),
        Made("plain", 1, rank=32, tags={"note": "x", "language": "pascal"}, targets=["k_proj", "o_proj"], hours=72),
        Made(
            "plain",
            2,
            rank=32,
            method="unknown",
            datasets=[train, shared],
            metrics={"loss": 0.5},
            tags={"language": ""},
        ),
        *(Made("odd", n, author=trick, tags={"note": trick}, base="other") for n, trick in enumerate(TRICKS, 1)),
    ]
    scored = {
        ("a/one", 1): [Score(shared, "a", {"loss": 1.5, "rouge_l": 0.25}), Score(shared, "b", {"loss": 0.5})],
        ("a/one", 2): [Score(shared, "a", {"loss": 1.25}), Score(train, "-", {"loss": 2.0})],
        ("b/one", 1): [Score(secret, "b", {"loss": 0.25, "exact match": 1.0})],
        ("plain", 1): [Score(train, "-", {"loss": 3.0}), Score(secret, "b", {"loss": 0.125})],
        ("plain", 2): [Score(shared, "-", {"loss": 0.25}), Score(theirs, "-", {"loss": 1.5})],
    }
    made = [replace(item, scores=scored.get((item.adapter, item.number or 0), ())) for item in made]
    shelf.add(made)
    _WRITTEN[world.url] = (made, datasets)
    return _WRITTEN[world.url]


def fits(pattern: str, value: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), value, re.DOTALL) is not None


def holds(sign: str, value: Any, values: tuple[Value, ...]) -> bool:
    """Tell whether a comparison is true for one plain value."""
    first: Any = values[0]
    return {
        "=": lambda: value == first,
        "in": lambda: value in values,
        "~": lambda: fits(first, value),
        "<": lambda: value < first,
        "<=": lambda: value <= first,
        ">": lambda: value > first,
        ">=": lambda: value >= first,
    }[sign]()


def made_at(sign: str, moment: datetime, values: tuple[Value, ...]) -> bool:
    answers = []
    for value in values:
        if isinstance(value, datetime):
            answers.append(holds(sign.replace("in", "="), moment, (value,)))
            continue
        assert isinstance(value, date)
        start, end = day_bounds(value)
        during = start <= moment < end
        answers.append(
            {"<": moment < start, "<=": moment < end, ">": moment >= end, ">=": moment >= start}.get(sign, during)
        )
    return any(answers)


class Oracle:
    """Answers by looking at what was written, one version after the other."""

    def __init__(self, world: World, who: Principal, scores_of: str | None = None) -> None:
        self.made, self.datasets = furnish(world)
        self.who = who
        self.scores_of = scores_of

    def answer(self, tree: Node) -> set[str]:
        asked = {value for part in comparisons(tree) if part.field.word == "state" for value in part.values}
        return {item.ref for item in self.made if self.visible(item, bool(asked)) and self.true(tree, item)}

    def of_mine(self, refs: list[str]) -> set[str]:
        """Leave out what other tests of the same world have written."""
        return set(refs) & {item.ref for item in self.made}

    def visible(self, item: Made, any_state: bool) -> bool:
        states = {"ready"}
        if any_state:
            states |= {"archived"} | ({"quarantined"} if self.who.may("admin", item.namespace) else set())
        return self.who.may("read", item.namespace) and item.state in states

    def true(self, tree: Node, item: Made) -> bool:
        if isinstance(tree, Not):
            return not self.true(tree.part, item)
        if isinstance(tree, And):
            return all(self.true(part, item) for part in tree.parts)
        if isinstance(tree, Or):
            return any(self.true(part, item) for part in tree.parts)
        if tree.operator == "!=":
            return not self.true(replace(tree, operator="="), item)
        if tree.field.word == "created":
            return made_at(tree.operator, item.created_at, tree.values)
        return any(holds(tree.operator, value, tree.values) for value in self.values(tree, item))

    def values(self, tree: FieldComparison, item: Made) -> list[Any]:
        """The values that a version has for a field, as they would be compared."""
        match tree.field.word:
            case "name":
                return [item.adapter]
            case "base":
                return [item.base]
            case "number":
                return [] if item.number is None else [item.number]
            case "target":
                return list(item.targets)
            case "alias":
                return list(item.aliases)
            case "tag":
                return [value for key, value in item.tags.items() if key == tree.field.key]
            case "kind":
                return ["adapter"]
            case "digest":
                return [self.begins(item.digest, tree)]
            case "base.fingerprint":
                return [self.begins(digest_of(item.base), tree)]
            case "dataset":
                names = [name for digest in item.datasets if (name := self.called(digest, item)) is not None]
                return names + [self.begins(digest, tree) for digest in item.datasets if tree.operator != "~"]
            case "eval":
                return [
                    score.metrics[tree.field.metric]
                    for score in item.scores
                    if self.counts(score, item)
                    and self.is_of(score.dataset, tree.field.key, item)
                    and tree.field.metric in score.metrics
                ]
        return [getattr(item, tree.field.word)]

    def begins(self, digest: str, tree: FieldComparison) -> str:
        """The value that a digest begins with, or the digest."""
        return next(
            (str(value) for value in tree.values if len(str(value)) >= 12 and digest.startswith(str(value))), digest
        )

    def counts(self, score: Score, item: Made) -> bool:
        made_in = {None: item.namespace, "*": score.namespace}.get(self.scores_of, self.scores_of)
        return score.namespace == made_in and self.who.may("read", score.namespace)

    def called(self, digest: str, item: Made) -> str | None:
        """The name that a dataset has for a version: none of its own namespace's, if that calls others so."""
        name, spaces = self.datasets[digest]
        own = {other for other, (called, known) in self.datasets.items() if called == name and item.namespace in known}
        seen = any(self.who.may("read", space) for space in spaces)
        return name if seen and (digest in own or not own) else None

    def is_of(self, digest: str, key: str, item: Made) -> bool:
        return (len(key) >= 12 and digest.startswith(key)) or self.called(digest, item) == key


def digests(*texts: str) -> list[str]:
    return [piece for found in map(digest_of, texts) for piece in (found, found[:12], found[:13])]


#: Values that some versions have, and a few that no version has.
POOL: dict[str, list[Any]] = {
    "name": ["a/one", "a/two", "b/one", "plain", "odd", "A/one", "a_one", "a/*", "*one", "*", "?/one", ""],
    "namespace": ["a", "b", "-", "c", "*"],
    "base": ["tiny", "Tiny", "other", "t*", "T*", "none"],
    "base.fingerprint": digests("tiny", "other", "none"),
    "rank": [4, 8, 16, 32, 33, 64, 65, 66],
    "alpha": [8.0, 16.0, 15.999, 1e300],
    "number": [1, 2, 3, 0],
    "method": ["qlora", "lora", "unknown"],
    "target": ["q_proj", "k_proj", "*_proj", "qXproj", "q%"],
    "state": ["ready", "archived"],
    "alias": ["production", "canary", "*", "p*n"],
    "author": ["ci", "ada", "a*", "CI", *TRICKS],
    "created": [
        date(2026, 3, 1),
        date(2026, 3, 2),
        date(2026, 3, 4),
        DAWN + timedelta(hours=24),
        DAWN + timedelta(hours=25.5),
    ],
    "digest": digests("a/one 1 ready", "b/one 1 ready", "a/one 3 archived", "nothing"),
    "dataset": ["shared.jsonl", "secret.jsonl", "train.jsonl", "*.jsonl", "s*"],
    "kind": ["adapter", "merged"],
    "tag": ["python", "py", "py*", "pascal", "", "*", *TRICKS],
    "eval": [0.125, 0.25, 0.5, 1.0, 1.25, 1.5, 2.0, 3.0],
}
DATASET_DIGESTS = [
    digest_of(f"{name} {spaces}") for name, spaces in (("shared.jsonl", ("a", "b")), ("secret.jsonl", ("b",)))
]


@st.composite
def compared(draw: st.DrawFn) -> FieldComparison:
    word = draw(st.sampled_from(sorted(FIELDS)))
    sign = draw(st.sampled_from(FIELDS[word].operators))
    pool = POOL[word] + ([*DATASET_DIGESTS, DATASET_DIGESTS[0][:12]] if word == "dataset" else [])
    values = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=3 if sign == "in" else 1))
    key, metric = "", ""
    if word == "tag":
        key = draw(st.sampled_from(["language", "note", "Language", "'"]))
    elif word == "eval":
        key = draw(st.sampled_from(["shared.jsonl", "secret.jsonl", "train.jsonl", "none", *DATASET_DIGESTS]))
        metric = draw(st.sampled_from(["loss", "rouge_l", "exact match", "none"]))
    return FieldComparison(Field(word, key, metric), sign, tuple(values))


def both(parts: list[Node]) -> Node:
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def either(parts: list[Node]) -> Node:
    return parts[0] if len(parts) == 1 else Or(tuple(parts))


TREES: st.SearchStrategy[Node] = st.recursive(
    compared(),
    lambda inner: st.one_of(
        inner.map(Not),
        st.lists(inner, min_size=1, max_size=3).map(both),
        st.lists(inner, min_size=1, max_size=3).map(either),
    ),
    max_leaves=6,
)
