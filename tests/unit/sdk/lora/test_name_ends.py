from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from support.work import grows

from sdk.lora.linear_modules import Layered
from sdk.lora.name_ends import NameEnds
from sdk.lora.targets import resolve_targets

PARTS = ["a", "ab", "b", "q_proj", "0", "1", "11", "", "é", "\U0010ffff", "a-b"]


def some_names(rng: random.Random, most: int = 25) -> list[str]:
    return [".".join(rng.choices(PARTS, k=rng.randint(1, 5))) for _ in range(rng.randint(1, most))]


def matches(full_name: str, target: str) -> bool:
    """How PEFT reads a list of targets."""
    return full_name == target or full_name.endswith(f".{target}")


def test_index_means_what_looking_at_every_name_means() -> None:
    rng = random.Random(27)
    for _ in range(300):
        names = some_names(rng)
        wanted = {rng.choice(names)[rng.randint(0, 3) :] for _ in range(4)} | set(some_names(rng, 3))
        index = NameEnds(names)
        assert index.meant_by(wanted) == {name for name in names if any(matches(name, end) for end in wanted)}
        for end in wanted:
            meant = {name for name in names if matches(name, end)}
            assert (index.has(end), index.count(end)) == (bool(meant), len(meant))
            alike = {name for name in names if name.endswith(end)}
            assert index.count_ending_in(end) == len(alike)
            assert set(index.ending_in(end)) == alike


def shortest(wanted: list[str], names: list[str]) -> list[str]:
    """The definition of the names in which a preset is written, by comparing every end with every name."""
    found: list[str] = []
    for rest, placed in Layered.of(wanted).by_rest.items():
        parts = rest.split(".")
        ends = [".".join(parts[at:]) for at in range(len(parts) - 1, -1, -1)]
        meant = {end: {name for name in names if matches(name, end)} for end in ends}
        exact = next((end for end in ends if meant[end] == set(placed)), None)
        within = next((end for end in ends if meant[end] <= set(wanted)), None)
        chosen = exact or within
        found += placed if chosen is None else [chosen]
    return sorted(set(found))


@pytest.mark.parametrize("seed", range(8))
def test_presets_are_written_in_the_shortest_names_that_mean_exactly_their_modules(seed: int) -> None:
    rng = random.Random(seed)
    parents, ends = ["attn", "mlp", "mixer.inner", "visual"], ["q_proj", "v_proj", "up", "out.up", "w"]
    for _ in range(60):
        prefixes = rng.sample(["m.layers", "m.vision.layers", "other"], 2)
        names = sorted(
            {
                f"{rng.choice(prefixes)}.{rng.randint(0, 3)}.{rng.choice(parents)}.{rng.choice(ends)}"
                for _ in range(rng.randint(2, 20))
            }
        )
        text = [name for name in names if "vision" not in name and "visual" not in name]
        if text:
            # None of the customary names of such models is among these.
            assert resolve_targets("all-linear", "gpt_neox", names) == shortest(text, names)


def odd(count: int) -> list[str]:
    return [f"m.layers.{number % 7}.p{number}.q{number * 7 % count}.w" for number in range(count)]


@pytest.mark.parametrize(
    ("targets", "exclude"),
    [
        ("all-linear", None),
        ("NAMES", None),
        ("all-linear", "NAMES"),
    ],
)
def test_work_for_targets_is_in_proportion_to_the_names(targets: str, exclude: str | None) -> None:
    def resolving(count: int) -> Callable[[], object]:
        names = odd(count)
        some = ",".join(names[: count // 2])
        said = {"targets": targets.replace("NAMES", some), "exclude": exclude and exclude.replace("NAMES", some)}
        return lambda: resolve_targets(said["targets"] or "", "llama", names, exclude=said["exclude"])

    assert grows(resolving, 300) < 2.6
