"""Policies as people write them: YAML, in which a key that signs may be the path of its PEM file.

>>> print(as_yaml(read_policy({"alias": "production", "approvals": 2}).document), end="")
alias: production
alpha: 0.05
approvals: 2
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from sdk.config import user_path
from sdk.errors import InvalidInput, NotFound
from sdk.schemas.codes import plain_type, unfit
from sdk.schemas.policies import PolicyDocument
from sdk.schemas.wire import BY_HAND

if TYPE_CHECKING:
    import yaml

_MOST_BYTES = 1_000_000
_MOST_KEY_BYTES = 65_536
_PEM = "-----BEGIN "
_PUBLIC = re.compile(r"-----BEGIN PUBLIC KEY-----[^-]*-----END PUBLIC KEY-----")
#: YAML's tag of numbers with an exponent, what they look like, and how they begin; PyYAML takes them for texts.
_NUMBERS = ("tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789"))
_PLACE = tuple[str | int, ...]
#: How messages begin that go on with the key's name.
_GOES_ON = ("can't ", "has ", "is ")


def read_policies(file: str | Path) -> list[GivenPolicy]:
    """Read a YAML file of one policy, or of several that `---` separates. Raises NotFound for the file and for that of a key,
    InvalidInput that names the line and the key that is wrong.
    """
    path = user_path(file)
    found = [_given(path, node, value) for node, value in _parsed(path)]
    if not found:
        raise InvalidInput(f"{path} holds no policy; write one, such as: alias: production", param="policy")
    aliases = [each.document.alias for each in found]
    for alias in aliases:
        if aliases.count(alias) > 1:
            raise InvalidInput(f"{path} holds two policies for the alias {alias}; leave one", param="alias")
    return found


def read_policy(given: PolicyDocument | Mapping[str, Any] | str | Path) -> GivenPolicy:
    """Return the policy that a mapping or a YAML file holds. Raises as `read_policies`."""
    if isinstance(given, PolicyDocument):
        return GivenPolicy(given, None)
    if isinstance(given, Mapping):
        source = _Source("the policy", Path.cwd(), None)
        return GivenPolicy(_checked(source, dict(given)), source)
    found = read_policies(given)
    if len(found) > 1:
        raise InvalidInput(f"{user_path(given)} holds {len(found)} policies; give a file of one", param="policy")
    return found[0]


def as_yaml(policy: PolicyDocument) -> str:
    """Return a policy as a YAML document that `read_policies` reads as the same policy. What is as it is by default is left out."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes texts of several lines, such as keys, line by line, and items of lists further to the right than the list's key."""

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)

    # A text that would be read as such a number is written in quotes.
    Dumper.add_implicit_resolver(*_NUMBERS)
    Dumper.add_representer(
        str,
        lambda dumper, text: dumper.represent_scalar(
            "tag:yaml.org,2002:str", text, style="|" if "\n" in text.strip() else None
        ),
    )
    document = {"alias": policy.alias, "alpha": policy.alpha, **policy.model_dump(mode="json", exclude_defaults=True)}
    # Read back, an empty part is the rule with all that it has by default, and a missing one no rule.
    text: str = yaml.dump(document, Dumper=Dumper, sort_keys=False, allow_unicode=False, width=100)
    return text


@dataclass(frozen=True)
class _Source:
    """Where a policy was written."""

    label: str
    #: Where paths of keys begin.
    folder: Path
    node: yaml.Node | None

    def refuse(
        self, place: _PLACE, message: str, error: Callable[..., InvalidInput | NotFound] = InvalidInput
    ) -> Exception:
        """Return the error about what stands at a place, with its line."""
        line = None if self.node is None or not place else _line_of(self.node, place)
        where = self.label if line is None else f"{self.label}, line {line}"
        name = _named(place)
        # "can't be …" goes on with the name, other messages are sentences of their own.
        colon = "" if message.startswith(_GOES_ON) else ":"
        return error(f"{where}: {name}{colon} {message}" if name else f"{where}: {message}", param=name or "policy")


@dataclass(frozen=True)
class GivenPolicy:
    """A policy, and where it was written."""

    document: PolicyDocument
    #: None: in no file and no mapping.
    source: _Source | None

    @contextmanager
    def placed(self) -> Iterator[None]:
        """Say in which line it is what the registry refuses of the policy."""
        try:
            yield
        except (InvalidInput, NotFound) as error:
            at, *place = (error.param or "").split(".")
            if self.source is None or at != "policy":
                raise
            keys = tuple(int(each) if each.isdecimal() else each for each in place)
            raise self.source.refuse(keys, error.message, type(error)) from None


def _parsed(path: Path) -> Iterator[tuple[yaml.Node, Any]]:
    """Yield the documents of a file, each as it was written and as it was read."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads 5e-2 as a number, as the newer YAML does."""

    Loader.add_implicit_resolver(*_NUMBERS)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InvalidInput(f"{path} is too long for a policy; give a YAML file of one", param="policy")
        text = path.read_text(encoding="utf-8")
        nodes = list(yaml.compose_all(text, Loader=Loader))
        values = list(yaml.load_all(text, Loader=Loader))
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}; give the YAML file of a policy", param="policy") from None
    except IsADirectoryError:
        raise InvalidInput(f"{path} is a folder; give the YAML file of a policy", param="policy") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{path} is not text in UTF-8; save it as that", param="policy") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark is not None else ""
        raise InvalidInput(f"{path} can't be read as YAML{line}; correct it, then try again", param="policy") from None
    for node, value in zip(nodes, values, strict=True):
        # A file that ends with `---`, or holds comments alone, has an empty document.
        if value is not None and node is not None:
            yield node, value


def _given(path: Path, node: yaml.Node, value: Any) -> GivenPolicy:
    source = _Source(str(path), path.parent, node)
    if not isinstance(value, dict):
        raise source.refuse((), "this is not a policy; write lines such as: alias: production")
    if (twice := _twice(node)) is not None:
        raise source.refuse((), f"{twice[0][:80]!a} is given twice, again in line {twice[1]}; leave one")
    return GivenPolicy(_checked(source, value), source)


def _checked(source: _Source, value: dict[str, Any]) -> PolicyDocument:
    for place in _empty_places(value, ()):
        raise source.refuse(place, _nothing_there(place))
    if isinstance(signers := value.get("signed_by"), str | list):
        listed = [signers] if isinstance(signers, str) else signers
        value = value | {"signed_by": [_key(source, ("signed_by", at), each) for at, each in enumerate(listed)]}
    try:
        return PolicyDocument.model_validate(value, context=BY_HAND)
    except ValidationError as error:
        errors = error.errors()
        first = errors[0]
        place = tuple(first["loc"])
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise source.refuse(place, _explained(first, place) + more) from None


def _key(source: _Source, place: _PLACE, given: Any) -> Any:
    """Return the PEM text of a key: itself, or what the file holds that it names."""
    if not isinstance(given, str):
        return given
    text = given
    if _PEM not in given:
        path = user_path(given)
        path = path if path.is_absolute() else source.folder / path
        try:
            with path.open("rb") as file:
                text = file.read(_MOST_KEY_BYTES).decode("ascii")
        except FileNotFoundError:
            raise source.refuse(
                place, f"there is no file {path}; give the PEM file of a public key", NotFound
            ) from None
        except (OSError, ValueError):
            raise source.refuse(place, f"{path} can't be read as PEM; give the file of a public key") from None
    if (public := _PUBLIC.search(text)) is not None:
        # What else is in the file, perhaps the private half, is not sent.
        return f"{public[0]}\n"
    if "PRIVATE KEY-----" in text:
        raise source.refuse(
            place, "this is a private key; give its public half: openssl ec -in KEY.pem -pubout -out KEY.pub.pem"
        )
    raise source.refuse(place, f"{given[:80]!a} holds no key in PEM; give the file of a public key")


def _empty_places(value: Any, place: _PLACE) -> Iterator[_PLACE]:
    """Yield the places of keys without a value: to read `probe:` as no rule would open the gate that it was to close."""
    if len(place) > 10:
        return
    items: Sequence[tuple[str | int, Any]] = ()
    if isinstance(value, dict):
        items = [(str(key), each) for key, each in value.items()]
    elif isinstance(value, list):
        items = list(enumerate(value))
    for key, each in items:
        if each is None:
            yield (*place, key)
        else:
            yield from _empty_places(each, (*place, key))


def _nothing_there(place: _PLACE) -> str:
    key = str(place[-1])
    if key in ("probe", "contamination"):
        return f"nothing is given; write '{key}: {{}}' for the rule as it is by default, or leave it out"
    return "nothing is given; give a value, or leave it out"


def _explained(error: Any, place: _PLACE) -> str:
    kind, given = str(error["type"]), error.get("input")
    if kind == "extra_forbidden" and place == ("hidden",):
        return "rules that you may not see were left out of this; give a whole policy"
    if kind == "extra_forbidden":
        known = list(_fields_at(place[:-1]))
        near = difflib.get_close_matches(str(place[-1]), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"give one of {', '.join(known)}"
        return f"there is no such key; {hint}"
    if kind == "missing":
        return "is missing; add it"
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return f"can't be {_shown(given)}; use its keys: {', '.join(_fields_at(place)) or 'names of scores'}"
    if kind == "list_type":
        return f"can't be {_shown(given)}; use a list, each item in a line that begins with '- '"
    if kind == "string_type" and not isinstance(given, str):
        return f"{_shown(given)} is not text; put it in quotes"
    message = unfit(error, _fields_at(place[:-1]).get(str(place[-1])) if place else None) or str(
        error["msg"]
    ).removeprefix("Value error, ")
    advises = any(f"; {verb} " in message for verb in ("give", "leave", "use", "write"))
    return message if advises or " needs " in message else f"{message}; correct it, then try again"


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _fields_at(place: _PLACE) -> dict[str, Any]:
    """Return the fields of the part of a policy that stands at a place; none if it is no such part."""
    kind: Any = PolicyDocument
    for key in place:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(str(key))
            kind = None if field is None else plain_type(field.annotation)
        elif get_origin(kind) in (list, dict):
            kind = plain_type(get_args(kind)[-1])
        else:
            return {}
    return dict(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else {}


def _named(place: _PLACE) -> str:
    """Return a place as people write it: require[0].metrics.loss."""
    text = "".join(f"[{each}]" if isinstance(each, int) else f".{str(each)[:100]}" for each in place[:12])
    return text.removeprefix(".")


def _line_of(node: yaml.Node, place: _PLACE) -> int:
    """Return the line of what stands at a place, or else of the innermost part around it."""
    import yaml

    line: int = node.start_mark.line
    for key in place:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == key), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line
        else:
            break
    return line + 1


def _twice(root: yaml.Node) -> tuple[str, int] | None:
    """Return a key that one part of a document has twice, with the line of the second; YAML silently takes the last."""
    import yaml

    todo, seen = [root], set[int]()
    while todo:
        node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            todo.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            keys = set[str]()
            for key, value in node.value:
                todo.append(value)
                if isinstance(key, yaml.ScalarNode):
                    if key.value in keys:
                        return key.value, key.start_mark.line + 1
                    keys.add(key.value)
    return None
