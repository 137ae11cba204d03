"""A manifest's digest is that of its content, and its paths are plain."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sdk.schemas.manifest import Manifest, ManifestFile, check_path
from sdk.schemas.wire import canonical_json, digest_of

FINGERPRINT = "f" * 64
PATHS = st.from_regex(r"[a-z_][a-z0-9._-]{0,8}(/[a-z_][a-z0-9._-]{0,8}){0,2}", fullmatch=True)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


def files_of(paths: list[str]) -> list[ManifestFile]:
    return [ManifestFile(path=path, size_bytes=len(path), sha256=f"{n:064x}") for n, path in enumerate(paths)]


@given(st.lists(PATHS, min_size=1, max_size=6, unique=True), st.randoms())
def test_the_digest_is_independent_of_order(paths: list[str], rng: random.Random) -> None:
    files = files_of(paths)
    try:
        one = Manifest(base_fingerprint=FINGERPRINT, files=files)
    except ValidationError:
        # A file and a folder of one name, in either order.
        with pytest.raises(ValidationError):
            Manifest(base_fingerprint=FINGERPRINT, files=files[::-1])
        return
    shuffled = list(files)
    rng.shuffle(shuffled)
    assert Manifest(base_fingerprint=FINGERPRINT, files=shuffled).digest == one.digest
    assert Manifest.model_validate_json(one.canonical()).digest == one.digest


def test_the_digest_changes_with_everything_that_a_manifest_says() -> None:
    given = {"base_fingerprint": FINGERPRINT, "files": files_of(["a", "b"])}
    digests = {
        Manifest.model_validate({**given, **change}).digest
        for change in (
            {},
            {"kind": "merged"},
            {"base_fingerprint": "e" * 64},
            {"files": files_of(["a"])},
            {"files": files_of(["b", "a"])},
            {"files": [file.model_copy(update={"size_bytes": 7}) for file in files_of(["a", "b"])]},
        )
    }
    assert len(digests) == 6


def test_the_digest_is_pinned() -> None:
    # A version's digest is for ever: whoever changes this form makes every stored digest wrong.
    manifest = Manifest(base_fingerprint=FINGERPRINT, files=files_of(["adapter_model.safetensors"]))
    assert manifest.canonical() == (
        b'{"base_fingerprint":"' + b"f" * 64 + b'","files":[{"path":"adapter_model.safetensors","sha256":"'
        + b"0" * 64 + b'","size_bytes":25}],"format":"adapterctl.manifest.v1","kind":"adapter"}'
    )  # fmt: skip


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../b",
        "a/./b",
        "./a",
        "a//b",
        "a/",
        ".hidden",
        "a/.github/x",
        ".adapterctl/manifest.json",
        "a\\b",
        "C:\\x",
        "C:x",
        "a\nb",
        "a\n",
        "a/b\n",
        "a\x00",
        "naïve",
        "a b",
        "\u200ba",
        "~",
        "-rf",
        "x" * 201,
        "/".join("a" * 17),
    ],
)
def test_hostile_paths_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not a file path"):
        check_path(path)
    with pytest.raises(ValidationError):
        ManifestFile(path=path, size_bytes=1, sha256="0" * 64)


@given(st.text(max_size=30))
def test_what_is_accepted_as_a_path_stays_inside(path: str) -> None:
    refused = None
    try:
        check_path(path)
    except ValueError as error:
        refused = str(error)
    if refused is not None:
        assert refused.isprintable()
        return
    assert path.isprintable()
    assert path.isascii()
    assert not {"", ".", ".."} & set(path.split("/"))


@pytest.mark.parametrize("paths", [["a", "a"], ["a", "A"], ["a", "a/b"], ["A/b", "a"], ["a/b", "a/b/c"], []])
def test_files_that_can_not_lie_beside_each_other_are_refused(paths: list[str]) -> None:
    with pytest.raises(ValidationError):
        Manifest(base_fingerprint=FINGERPRINT, files=files_of(paths))


@pytest.mark.parametrize(
    "wrong",
    [
        {"sha256": "0" * 63},
        {"sha256": "A" * 64},
        {"sha256": "0" * 64 + "\n"},
        {"size_bytes": -1},
        {"size_bytes": True},
        {"size_bytes": "1"},
        {"mode": 0o777},
    ],
)
def test_records_are_strict(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ManifestFile.model_validate({"path": "a", "size_bytes": 1, "sha256": "0" * 64, **wrong})


@given(JSON)
def test_canonical_json_says_the_same_in_one_way(value: Any) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), st.integers(), max_size=5))
def test_the_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    assert digest_of(dict(reversed(value.items()))) == digest_of(value)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_canonical_json_has_no_word_for_nan(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json([number])
