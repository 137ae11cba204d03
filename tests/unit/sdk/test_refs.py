"""The grammar of names, aliases and refs: one spelling each, and no way out of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk.schemas.refs import BadNameError, BadRefError, Ref, is_folder, parse_alias, parse_name, parse_number

PART = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?", fullmatch=True).filter(lambda text: ".." not in text)
NAMES = st.one_of(PART, st.tuples(PART, PART).map("/".join))
ALIASES = PART.filter(lambda t: t != "latest" and not t.startswith("sha256") and not (t[0] == "v" and t[1:].isdigit()))
DIGESTS = st.from_regex(r"sha256:[0-9a-f]{12,64}", fullmatch=True)
SELECTORS = st.one_of(st.integers(1, 999_999_999).map("v{}".format), st.just("latest"), ALIASES, DIGESTS)


@given(NAMES, SELECTORS)
def test_a_ref_says_what_it_was_parsed_from(name: str, selector: str) -> None:
    ref = Ref.parse(f"{name}@{selector}")
    assert (ref.adapter, ref.selector) == (name, selector)
    assert str(ref) == f"{name}@{selector}"
    assert Ref.parse(str(ref)) == ref
    # A selector is one of four things and never two.
    kinds = [selector == "latest", ref.number is not None, ref.digest_prefix is not None, ref.alias is not None]
    assert kinds.count(True) == 1


@given(NAMES)
def test_a_bare_name_is_the_latest(name: str) -> None:
    assert Ref.parse(name) == Ref.parse(f"{name}@latest")


@given(st.text(max_size=80))
def test_whatever_is_accepted_is_plain(text: str) -> None:
    refused = None
    try:
        name = parse_name(text)
    except BadNameError as error:
        refused = str(error)
    if refused is not None:
        # The message shows what was given, and nothing that a terminal obeys.
        assert refused.isascii()
        assert refused.isprintable()
        return
    assert name == text
    assert name.isascii()
    assert name == name.lower()
    assert ".." not in name
    assert not name.startswith(("/", "."))
    assert all(0 < len(part) <= 64 for part in name.split("/"))


@given(
    NAMES,
    st.sampled_from(
        [
            " {}",
            "{} ",
            "{}\n",
            "{}\u200b",
            "\ufeff{}",
            "{}\x00",
            "./{}",
            "{}/",
            "/{}",
            "{}/.",
            "{}/..",
            "../{}",
            "{}//x",
            "{}\u0301",
        ]
    ),
)
def test_a_name_has_no_second_spelling(name: str, form: str) -> None:
    with pytest.raises(BadNameError):
        parse_name(form.format(name))


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "../x",
        "a/../b",
        "a..b",
        "-a",
        "a-",
        "a/b/c",
        "a b",
        "a\tb",
        "a%2fb",
        "naïve",
        "ａｂ",
        "a\u202eb",
        "x" * 65,
        "a@b",
        "a:b",
        "\ud800",
    ],
)
def test_bad_names_are_refused(text: str) -> None:
    with pytest.raises(BadNameError, match="is no adapter name"):
        parse_name(text)


@pytest.mark.parametrize(("text", "lower"), [("Code-Review", "code-review"), ("Team/SQL", "team/sql")])
def test_upper_case_is_refused_with_the_lower_case_spelling(text: str, lower: str) -> None:
    with pytest.raises(BadNameError, match=f"write '{lower}'"):
        parse_name(text)


@pytest.mark.parametrize("text", ["latest", "v1", "v0", "v007", "sha256", "sha256-x", "sha256abc"])
def test_names_with_a_meaning_are_no_aliases(text: str) -> None:
    with pytest.raises(BadNameError, match="can't be an alias"):
        parse_alias(text)


@pytest.mark.parametrize(
    "selector",
    [
        "",
        "v0",
        "v01",
        "v1234567890",
        "sha256:",
        "sha256:abc",
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 65,
        "Production",
        "a/b",
        "v1@v2",
        "v1\n",
    ],
)
def test_bad_selectors_are_refused(selector: str) -> None:
    with pytest.raises(BadRefError):
        Ref.parse(f"code-review@{selector}")


@given(st.integers(1, 999_999_999))
def test_a_number_has_one_spelling(number: int) -> None:
    assert parse_number(f"v{number}") == number
    for other in (f"V{number}", f"v0{number}", f"{number}", f"v{number}.0", f"v+{number}", f"v{number} "):
        with pytest.raises(BadRefError, match="is no version"):
            parse_number(other)


def test_folders_are_told_from_names() -> None:
    assert all(map(is_folder, ["/x", "./x", "../x", "~/x", ".", ".."]))
    assert not any(map(is_folder, ["x", "org/name", "x/./y", ""]))
