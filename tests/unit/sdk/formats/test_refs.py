"""The grammar of names, aliases and refs: one spelling each, and no way out of it."""

from __future__ import annotations

import unicodedata
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.names import (
    NAMES,
    NEARLY,
    NEARLY_SELECTORS,
    PARSERS,
    PART,
    SELECTORS,
    accepted,
    is_name,
    is_part,
    other_forms,
)

from sdk.formats.refs import (
    BadNameError,
    BadRefError,
    MemberRef,
    Ref,
    is_folder,
    namespace_of,
    parse_alias,
    parse_digest,
    parse_name,
    parse_namespace,
    parse_number,
    parse_ref_or_member,
    parse_scope,
)

each_parser = pytest.mark.parametrize("kind", PARSERS)


@each_parser
@given(data=st.data())
def test_what_is_accepted_is_its_own_canonical_form(kind: str, data: st.DataObject) -> None:
    parse, valid = PARSERS[kind]
    text = data.draw(valid)
    assert parse(text) == parse(parse(text)) == text
    # Nothing that a database, a file system, a URL or a terminal does to a text makes it another one.
    forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD", "NFKC", "NFKD")]
    assert {text, *forms, text.casefold(), text.lower(), text.strip(), text.encode().decode("ascii")} == {text}
    assert quote(text, safe="/*") == text


@given(NEARLY)
def test_the_grammar_is_exactly_its_rule(text: str) -> None:
    head, slash, tail = text.rpartition("/")
    reserved = text == "latest" or text.startswith("sha256") or (text[:1] == "v" and text[1:].isdigit())
    assert accepted(parse_name, text) == is_name(text)
    assert accepted(parse_namespace, text) == is_part(text)
    assert accepted(parse_alias, text) == (is_part(text) and not reserved)
    assert accepted(parse_scope, text) == (
        text == "*" or is_name(text) or (slash == "/" and tail == "*" and is_part(head))
    )


@each_parser
@given(data=st.data())
def test_no_other_text_is_taken_for_a_name(kind: str, data: st.DataObject) -> None:
    parse, valid = PARSERS[kind]
    text = data.draw(valid)
    at = data.draw(st.integers(0, len(text) - 1))
    other = text[:at] + data.draw(st.sampled_from(other_forms(text[at]))) + text[at + 1 :]
    assert not accepted(parse, other)
    if kind == "name":
        with pytest.raises(BadNameError):
            Ref.parse(other)
        with pytest.raises(BadNameError):
            Ref.parse(f"{other}@v1")
    if kind == "alias":
        with pytest.raises(BadRefError):
            Ref.parse(f"code-review@{other}")


@each_parser
@given(
    data=st.data(),
    inserted=st.one_of(
        st.characters(categories=["Cc", "Cf", "Zs", "Zl", "Zp", "Mn", "Me", "Co", "Cs", "Lo"]),
        st.sampled_from(["..", "/..", "../", "/../", "/./", "./", "//", "///", "\\", "..\\", "%2e%2e", "%2F", "\r\n"]),
        st.sampled_from(["@", ":", "~", "$", "?", "#", "&", "=", "+", "'", '"', ";", ",", "|", "<", "{", "%", "%00"]),
    ),
)
def test_nothing_can_be_put_into_a_name(kind: str, data: st.DataObject, inserted: str) -> None:
    parse, valid = PARSERS[kind]
    text = data.draw(valid)
    at = data.draw(st.one_of(st.just(0), st.just(len(text)), st.integers(0, len(text))))
    assert not accepted(parse, text[:at] + inserted + text[at:])


@given(PART, PART)
def test_a_name_lies_in_one_namespace(namespace: str, name: str) -> None:
    assert namespace_of(f"{namespace}/{name}") == parse_namespace(namespace) == namespace
    assert namespace_of(name) == ""
    assert parse_scope(f"{namespace}/*") == f"{namespace}/*"


@given(NEARLY)
def test_a_namespace_is_asked_of_names_only(text: str) -> None:
    if is_name(text):
        namespace = namespace_of(text)
        assert text == f"{namespace}/{text[len(namespace) + 1 :]}" if namespace else "/" not in text
    else:
        with pytest.raises(BadNameError, match="is not an adapter name"):
            namespace_of(text)


@pytest.mark.parametrize(
    "text", ["", "**", "*/*", "*/a", "/*", "a/b/*", "a*", "a/**", "a/*b", "team/", "a/*/", "*\n", "a/*@v1"]
)
def test_bad_scopes_are_refused(text: str) -> None:
    with pytest.raises(BadNameError, match="is not a scope: write "):
        parse_scope(text)


@pytest.mark.parametrize("text", ["", "*", "team/", "team/a", "/", ".", "..", "te..am", "-team", "t" * 65])
def test_bad_namespaces_are_refused(text: str) -> None:
    with pytest.raises(BadNameError, match="is not a namespace: use "):
        parse_namespace(text)


@given(NAMES, NEARLY_SELECTORS)
def test_a_selector_that_is_accepted_means_one_thing(name: str, selector: str) -> None:
    text = f"{name}@{selector}"
    try:
        ref = Ref.parse(text)
    except BadRefError:
        return
    assert str(ref) == text
    assert text.isascii()
    kinds = [selector == "latest", ref.number is not None, ref.digest_prefix is not None, ref.alias is not None]
    assert kinds.count(True) == 1
    # What could also be read as another kind, in whichever case, is never an alias.
    lower = selector.lower()
    if lower == "latest" or lower.startswith("sha256") or (lower[0] == "v" and lower[1:].isdigit()):
        assert ref.alias is None


@given(st.text("0123456789abcdef", max_size=70))
def test_a_digest_is_12_to_64_digits(digits: str) -> None:
    text = f"code-review@sha256:{digits}"
    if 12 <= len(digits) <= 64:
        assert Ref.parse(text).digest_prefix == digits
    else:
        with pytest.raises(BadRefError, match="12 to 64 hex digits"):
            Ref.parse(text)
    assert accepted(parse_digest, digits) == (len(digits) == 64)


@pytest.mark.parametrize("length", [64, 65, 1000, 1_000_000])
def test_long_names_are_refused_in_few_words(length: int) -> None:
    text = f"{'t' * length}/{'n' * length}"
    if length == 64:
        assert parse_name(text) == text
        return
    for parse in (parse_name, parse_alias, parse_namespace, parse_scope, parse_digest, Ref.parse):
        with pytest.raises((BadNameError, BadRefError)) as caught:
            parse(text)
        assert len(str(caught.value)) < 400


@given(st.one_of(NEARLY, NEARLY.map(str.upper), NEARLY.map(str.title)), st.sampled_from(["name", "alias", "scope"]))
def test_a_spelling_that_is_proposed_is_accepted(text: str, kind: str) -> None:
    parse, _ = PARSERS[kind]
    try:
        parse(text)
    except BadNameError as error:
        _, proposes, spelling = str(error).partition("upper case is not used; write ")
        if proposes and len(text) <= 80:
            assert parse(spelling.strip("'")) == text.lower()


@given(NAMES, SELECTORS)
def test_a_ref_says_what_it_was_parsed_from(name: str, selector: str) -> None:
    ref = Ref.parse(f"{name}@{selector}")
    assert (ref.adapter, ref.selector) == (name, selector)
    assert str(ref) == f"{name}@{selector}"
    assert Ref.parse(str(ref)) == ref


@given(NAMES)
def test_a_bare_name_is_the_latest(name: str) -> None:
    assert Ref.parse(name) == Ref.parse(f"{name}@latest")


@given(st.text(max_size=80).filter(lambda text: not is_name(text)))
def test_a_refusal_shows_what_was_given_and_nothing_that_a_terminal_obeys(text: str) -> None:
    with pytest.raises(BadNameError) as caught:
        parse_name(text)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "../x",
        "a/../b",
        "./a",
        "a/",
        "/a",
        "a\n",
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
    with pytest.raises(BadNameError, match="is not an adapter name"):
        parse_name(text)


@pytest.mark.parametrize(("text", "lower"), [("Code-Review", "code-review"), ("Team/SQL", "team/sql")])
def test_upper_case_is_refused_with_the_lower_case_spelling(text: str, lower: str) -> None:
    with pytest.raises(BadNameError, match=f"write '{lower}'"):
        parse_name(text)


@pytest.mark.parametrize("text", ["\u212aey", "A..B", "-A", "A" * 65, "A/B/C", "Team/*"])
def test_no_spelling_is_proposed_that_is_none(text: str) -> None:
    # The Kelvin sign is k in lower case, and yet nobody's way to write k.
    with pytest.raises(BadNameError, match="is not an adapter name: use lower-case letters"):
        parse_name(text)


@pytest.mark.parametrize(
    "text", ["latest", "Latest", "v1", "V3", "v0", "v007", "sha256", "sha256-x", "sha256abc", "SHA256-x"]
)
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
        "v1\u0661",
        "v\uff11",
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
        with pytest.raises(BadRefError, match="is not a version"):
            parse_number(other)


def test_folders_are_told_from_names() -> None:
    assert all(map(is_folder, ["/x", "./x", "../x", "~/x", ".", ".."]))
    assert not any(map(is_folder, ["x", "org/name", "x/./y", ""]))


MEMBERS = st.tuples(st.from_regex(r"[a-z0-9]{1,32}", fullmatch=True), st.integers(1, 999_999))


@given(MEMBERS)
def test_a_member_of_a_sweep_is_its_id_and_a_number(member: tuple[str, int]) -> None:
    sweep, number = member
    text = f"sweep:{sweep}/{number}"
    assert parse_ref_or_member(text) == MemberRef.parse(text) == MemberRef(sweep, number)
    assert str(MemberRef(sweep, number)) == text
    # It is not taken for a name, nor for a version.
    assert not accepted(parse_name, text)
    with pytest.raises(BadRefError, match=f"^{text} is a member of a sweep and not a version, .* jobs publish JOB, "):
        Ref.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "/",
            "x",
            "x/",
            "/1",
            "x/0",
            "x/01",
            "x/-1",
            "x/1000000",
            "../1",
            "x/1/2",
            "x/1@v1",
            "X/1",
            "x/1\n",
            "x /1",
        ),
        *("\u0445/1", "x/\u0661", "x/\uff11", "x/\u00b9", "x/1\u0301", "x\u22151", "x/" + "9" * 5000, "x" * 33 + "/1"),
    ],
)
def test_bad_members_are_refused_in_few_words(text: str) -> None:
    for parse in (parse_ref_or_member, MemberRef.parse, Ref.parse):
        with pytest.raises(BadRefError, match="is not a member of a sweep: write sweep:ID/N, ") as caught:
            parse(f"sweep:{text}")
        assert len(str(caught.value)) < 250
        assert str(caught.value).isascii()
        assert str(caught.value).isprintable()


@given(st.one_of(NEARLY, st.tuples(NAMES, NEARLY_SELECTORS).map("@".join)))
def test_what_is_no_member_is_parsed_as_ever(text: str) -> None:
    try:
        ref = Ref.parse(text)
    except (BadNameError, BadRefError) as error:
        with pytest.raises(type(error)):
            parse_ref_or_member(text)
    else:
        assert parse_ref_or_member(text) == ref
