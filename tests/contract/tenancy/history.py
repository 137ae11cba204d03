"""Histories: what two tenants, and an admin whom both trust, do one after another. Drawn from a seed, and printed as
they are run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from contract.tenancy.universe import (
    ADAPTERS,
    ALIASES,
    BASE_IDS,
    BASES,
    DATA_NAMES,
    DATASETS,
    KEYS,
    PAYLOADS,
    TOKEN_NAMES,
    WORKERS,
)

#: Steps of each: the tenant who is compared, the one who may or may not be there, and the admin.
_VICTIM_STEPS, _ATTACKER_STEPS, _ADMIN_STEPS = 18, 14, 3
#: How often a step of the attacker is aimed at one of the victim's.
_AIMED = 0.6
#: With how many steps the victim begins.
_OPENING_STEPS = 5

VICTIM, ATTACKER, ADMIN = "victim", "attacker", "admin"


@dataclass(frozen=True)
class Step:
    """One thing that somebody does."""

    who: str
    what: str
    args: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        said = " ".join(f"{name}={value!r}" for name, value in self.args)
        return f"{self.who} {self.what} {said}".rstrip()


def step(who: str, what: str, **args: Any) -> Step:
    """Write a step down."""
    return Step(who, what, tuple(args.items()))


def _named(kind: str, count: int) -> list[str]:
    return [f"{kind}:{number}" for number in range(count)]


_NUMBERS = {"base": range(BASES), "data": range(DATASETS), "payload": range(PAYLOADS)}
_DATA = [*_named("digest", DATASETS), *_named("prefix", DATASETS), *(f"name:{name}" for name in DATA_NAMES)]
_BASE = [*(f"id:{name}" for name in BASE_IDS), *_named("fingerprint", BASES)]
_KEY = [None, None, *KEYS]
#: How a base may be registered; the first ones are what the SDK does.
HONEST = ("uploaded", "folder")
_TRICKS = ("extra files", "other weights", "elsewhere", "other shapes", "on a hub")


class _Drawn:
    """Draws the arguments of one tenant's steps."""

    def __init__(self, random: Random, *, theirs: float) -> None:
        self._random = random
        self._theirs = theirs

    def pick(self, among: Sequence[Any]) -> Any:
        """One of some."""
        return self._random.choice(among)

    def whose(self) -> str:
        """Whose thing is named: one's own, or the other tenant's."""
        return "theirs" if self._random.random() < self._theirs else "mine"

    def adapter(self) -> str:
        """An adapter."""
        return f"{self.whose()}/{self.pick(ADAPTERS)}"

    def ref(self) -> str:
        """A version."""
        selectors = ["v1", "v1", "v2", "latest", *ALIASES, *_named("payload", PAYLOADS)]
        return f"{self.adapter()}@{self.pick(selectors)}"

    def kept(self) -> str:
        """A job, an upload session or a token."""
        return f"{self.whose()}:{self._random.randrange(3)}"

    def number(self, what: str) -> int:
        """Which base, dataset or adapter of the universe."""
        return self.pick(_NUMBERS[what])

    def how(self) -> str:
        """How a base is registered."""
        return self.pick((*HONEST, *HONEST, "on a hub") if self._random.random() < 0.6 else _TRICKS)


#: What is done, how often, and with what. Both tenants have all of it.
_VERBS: dict[str, tuple[int, Callable[[_Drawn], dict[str, Any]]]] = {
    "data_add": (
        3,
        lambda d: {"data": d.number("data"), "name": d.pick([*_DATA, "name:rows.jsonl"])},
    ),
    "data_get": (2, lambda d: {"data": d.pick(_DATA)}),
    "data_list": (1, lambda _: {}),
    "data_remove": (1, lambda d: {"data": d.pick(_DATA)}),
    "base_add": (
        3,
        lambda d: {
            "base": d.number("base"),
            "id": f"id:{d.pick(BASE_IDS)}",
            "how": d.how(),
            "by": d.pick(("ci", "ci", "gpu")),
        },
    ),
    "base_show": (2, lambda d: {"base": d.pick([*_BASE, "prefix:0"])}),
    "base_list": (1, lambda _: {}),
    "base_remove": (1, lambda d: {"base": d.pick(_BASE), "whose": d.whose()}),
    "base_files": (1, lambda d: {"base": d.number("base")}),
    "push": (
        4,
        lambda d: {"payload": d.number("payload"), "adapter": d.adapter(), "base": d.pick([*_BASE, "folder:0"])},
    ),
    "get": (2, lambda d: {"ref": d.ref()}),
    "pull": (2, lambda d: {"ref": d.ref()}),
    "manifest_files": (1, lambda d: {"payload": d.number("payload")}),
    "adapters": (1, lambda _: {}),
    "versions": (1, lambda d: {"adapter": d.adapter()}),
    "search": (1, lambda d: {"filter": d.pick(("", "rank >= 1", "base = llama", "base = mistral"))}),
    "lineage": (2, lambda d: {"of": d.pick([d.ref(), f"data:{d.pick(_DATA)}", f"base:{d.pick(_BASE)}"])}),
    "diff": (1, lambda d: {"a": d.ref(), "b": d.ref()}),
    "move": (2, lambda d: {"verb": d.pick(("archive", "restore", "delete")), "ref": d.ref()}),
    "annotate": (1, lambda d: {"ref": d.ref(), "note": "looks well"}),
    "alias_set": (
        3,
        lambda d: {
            "adapter": d.adapter(),
            "alias": d.pick(ALIASES),
            "number": d.pick((1, 1, 2)),
            "expect": d.pick((None, None, 0, 1)),
        },
    ),
    "alias_rollback": (1, lambda d: {"adapter": d.adapter(), "alias": d.pick(ALIASES)}),
    "alias_remove": (1, lambda d: {"adapter": d.adapter(), "alias": d.pick(ALIASES)}),
    "alias_protect": (1, lambda d: {"adapter": d.adapter(), "alias": d.pick(ALIASES)}),
    "alias_history": (1, lambda d: {"adapter": d.adapter()}),
    "train": (6, lambda d: _training(d)),
    "evaluate": (
        4,
        lambda d: {"target": d.pick([d.ref(), d.ref(), d.pick(_BASE)]), "data": d.number("data"), "key": d.pick(_KEY)},
    ),
    "merge": (2, lambda d: {"ref": d.ref()}),
    "job": (1, lambda d: {"job": d.kept()}),
    "job_list": (1, lambda _: {}),
    "job_cancel": (1, lambda d: {"job": d.kept()}),
    "job_retry": (2, lambda d: {"job": d.kept(), "key": d.pick(_KEY)}),
    "job_files": (1, lambda d: {"job": d.kept()}),
    "checkpoint_publish": (1, lambda d: {"job": d.kept(), "adapter": d.adapter()}),
    "hello": (2, lambda d: {"worker": d.pick(WORKERS), "shares": d.pick(("nothing", "shared", "all"))}),
    "leave": (1, lambda d: {"worker": d.pick((*WORKERS, "house"))}),
    "claim": (2, lambda d: {"worker": d.pick(WORKERS), "key": d.pick(_KEY)}),
    "work": (2, lambda d: {"name": d.pick(WORKERS)}),
    "work_list": (1, lambda _: {}),
    "attempt": (
        2,
        lambda d: {
            "job": d.kept(),
            "verb": d.pick(("heartbeat", "fail", "release", "complete")),
            "by": d.pick(("gpu", "gpu", "ci")),
        },
    ),
    "upload_begin": (
        1,
        lambda d: {"files": d.pick([*_named("data", DATASETS), *_named("payload", PAYLOADS), *_named("base", BASES)])},
    ),
    "upload_use": (1, lambda d: {"upload": d.kept(), "data": d.number("data")}),
    "token_create": (1, lambda d: {"name": d.pick(TOKEN_NAMES), "role": d.pick(("reader", "writer", "admin"))}),
    "token_list": (1, lambda _: {}),
    "token_revoke": (1, lambda d: {"token": d.kept()}),
    "audit": (1, lambda _: {}),
    "quota": (1, lambda d: {"whose": d.whose()}),
    "whoami": (1, lambda _: {}),
}


def _training(drawn: _Drawn) -> dict[str, Any]:
    from_file = drawn.pick((True, False))
    bases = [*_BASE, *(_named("folder", BASES) if from_file else [])]
    return {
        "adapter": drawn.adapter(),
        "base": drawn.pick(bases),
        "data": drawn.pick(_named("file" if from_file else "digest", DATASETS)),
        "seed": drawn.pick((1, 2, 3)),
        "key": drawn.pick(_KEY),
        "resume": drawn.pick((None, None, None, drawn.kept())),
    }


def draw(seed: int) -> list[Step]:
    """Return the history of a seed."""
    random = Random(f"tenancy {seed}")
    victim = [*_opening(random), *_some(random, VICTIM, _VICTIM_STEPS, theirs=0.1)]
    history = list(victim)
    begun = {step.what: dict(step.args) for step in reversed(victim[:_OPENING_STEPS])}
    aims = [step for step in victim if _attacks(step, random, begun)]
    for _ in range(_ATTACKER_STEPS):
        if random.random() < _AIMED:
            aim = random.choice(aims)
            chosen = random.choice(_attacks(aim, random, begun))
            # What takes several steps is made ready for what the victim does next.
            place = history.index(aim) + random.randint(-2, 4 if len(chosen) == 1 else 0)
        else:
            chosen = _some(random, ATTACKER, 1, theirs=0.5)
            place = random.randrange(len(history))
        place = max(0, place)
        history[place:place] = chosen
    for _ in range(_ADMIN_STEPS):
        chosen = random.choice(
            [step(ADMIN, "work"), step(ADMIN, "gc"), step(ADMIN, "publish_base", base=random.randrange(BASES))]
        )
        history.insert(random.randrange(len(history) + 1), chosen)
    return [*history, step(ADMIN, "work")]


def _opening(random: Random) -> list[Step]:
    """What makes most of the rest possible."""
    base, data = random.randrange(BASES), random.randrange(DATASETS)
    named = f"id:{random.choice(BASE_IDS)}"
    return [
        step(VICTIM, "base_add", base=base, id=named, how=random.choice(("uploaded", "uploaded", "folder")), by="ci"),
        step(VICTIM, "data_add", data=data, name=f"name:{random.choice(DATA_NAMES)}"),
        step(VICTIM, "push", payload=random.randrange(PAYLOADS), adapter="mine/a", base=named),
        step(
            VICTIM,
            "train",
            adapter=f"mine/{random.choice(ADAPTERS)}",
            base=random.choice((named, f"fingerprint:{base}")),
            data=f"digest:{data}",
            seed=random.choice((1, 3)),
            key=random.choice(_KEY),
            resume=None,
        ),
        step(VICTIM, "evaluate", target="mine/a@v1", data=data, key=None),
    ]


def _some(random: Random, who: str, count: int, *, theirs: float) -> list[Step]:
    drawn = _Drawn(random, theirs=theirs)
    names = random.choices(list(_VERBS), [weight for weight, _ in _VERBS.values()], k=count)
    return [step(who, name, **_VERBS[name][1](drawn)) for name in names]


def _attacks(aim: Step, random: Random, begun: Mapping[str, Mapping[str, Any]]) -> list[list[Step]]:
    """What somebody does who wants to be in the way of a step: the same names, and what the victim is about to use.
    `begun` is what the victim began with, by what it did.
    """
    args = dict(aim.args)
    found: list[list[Step]] = []
    drawn = _Drawn(random, theirs=0.3)

    def attack(what: str, **said: Any) -> None:
        found.append([step(ATTACKER, what, **said)])

    data = args.get("data")
    if isinstance(data, int) or (isinstance(data, str) and data.startswith(("digest:", "file:"))):
        number = int(str(data)[-1])
        other = (number + random.randrange(1, DATASETS)) % DATASETS
        attack("data_add", data=other, name=random.choice((f"digest:{number}", f"prefix:{number}")))
        attack("data_add", data=number, name=f"name:{random.choice(DATA_NAMES)}")
        attack("data_remove", data=f"digest:{number}")
    base = args.get("base")
    if aim.what == "base_add" or (isinstance(base, str) and base.startswith(("fingerprint:", "folder:"))):
        number = int(str(base)[-1])
        named = args.get("id", f"id:{random.choice(BASE_IDS)}")
        attack("base_add", base=number, id=named, how=random.choice(_TRICKS), by=random.choice(("ci", "gpu")))
        attack("base_add", base=(number + 1) % BASES, id=named, how=random.choice(HONEST), by="ci")
        attack("base_remove", base=f"fingerprint:{number}", whose=random.choice(("mine", "theirs")))
    if isinstance(base, str) and base.startswith("id:"):
        attack("base_add", base=random.randrange(BASES), id=base, how=random.choice(HONEST), by="ci")
    if args.get("key") is not None and aim.what in ("train", "evaluate"):
        found.append(_key_taken(args["key"], random))
    if aim.what in ("train", "evaluate", "merge", "job_retry"):
        job = f"theirs:{random.randrange(3)}"
        attack("job_cancel", job=job)
        attack("attempt", job=job, verb=random.choice(("heartbeat", "fail", "release", "complete")), by="gpu")
        attack("claim", worker=random.choice(WORKERS), key=random.choice(_KEY))
        attack("train", **{**_training(drawn), "resume": job})
    if aim.what in ("hello", "claim", "work"):
        name = args.get("worker", args.get("name"))
        attack("hello", worker=name, shares=random.choice(("shared", "all")))
        attack("leave", worker=name)
        attack("claim", worker=name, key=args.get("key"))
    if aim.what in ("upload_begin", "upload_use"):
        attack("upload_use", upload=f"theirs:{random.randrange(3)}", data=random.randrange(DATASETS))
    if aim.what in ("push", "evaluate"):
        # Several times, since these take part in every comparison of what the victim has.
        found += [_forged(args, random, begun)] * 3
    if aim.what == "push":
        attack("push", payload=args["payload"], adapter="mine/a", base=args["base"])
        attack("manifest_files", payload=args["payload"])
    return found


def _key_taken(key: str, random: Random) -> list[Step]:
    """A job with this key. It needs nothing that isn't there, since a key is only taken by a job that is accepted."""
    base, data = random.randrange(BASES), random.randrange(DATASETS)
    named = f"id:{random.choice(BASE_IDS)}"
    asked = {"adapter": "mine/a", "base": f"fingerprint:{base}", "data": f"file:{data}", "seed": 1}
    return [
        step(ATTACKER, "base_add", base=base, id=named, how="uploaded", by="ci"),
        step(ATTACKER, "train", **asked, key=key, resume=None),
    ]


def _forged(args: Mapping[str, Any], random: Random, begun: Mapping[str, Mapping[str, Any]]) -> list[Step]:
    """The same bytes as a version, or what the victim's base is, and scores of them by a worker who lies."""
    base, payload = begun["base_add"]["base"], args.get("payload", begun["push"]["payload"])
    data = args.get("data", begun["data_add"]["data"])
    target = random.choice(("mine/b@latest", "mine/b@latest", f"fingerprint:{base}"))
    return [
        step(ATTACKER, "base_add", base=base, id=f"id:{random.choice(BASE_IDS)}", how="uploaded", by="ci"),
        step(ATTACKER, "data_add", data=data, name=f"name:{random.choice(DATA_NAMES)}"),
        step(ATTACKER, "push", payload=payload, adapter="mine/b", base=f"fingerprint:{base}"),
        step(ATTACKER, "evaluate", target=target, data=data, key=None),
        step(ATTACKER, "work", name=random.choice(WORKERS)),
    ]


def closing(jobs: int) -> list[Step]:
    """All that the victim can ask at the end, having submitted so many jobs."""
    asked = [
        *(
            step(VICTIM, what)
            for what in ("data_list", "base_list", "adapters", "job_list", "work_list", "token_list", "audit")
        ),
        step(VICTIM, "quota", whose="mine"),
        step(VICTIM, "search", filter=""),
    ]
    for adapter in (f"mine/{name}" for name in ADAPTERS):
        asked += [
            step(VICTIM, "versions", adapter=adapter),
            step(VICTIM, "alias_history", adapter=adapter),
            step(VICTIM, "lineage", of=f"{adapter}@latest"),
            step(VICTIM, "pull", ref=f"{adapter}@latest"),
        ]
    asked += [step(VICTIM, "lineage", of=f"base:fingerprint:{number}") for number in range(BASES)]
    asked += [step(VICTIM, "data_get", data=f"digest:{number}") for number in range(DATASETS)]
    return [*asked, *(step(VICTIM, "job", job=f"mine:{number}") for number in range(jobs))]
