"""Which options a sweep varies, and over what: as a person writes it, and as it is sent.

>>> parse_axis("rank", "1,2,4"), parse_axis("rank", 8)
(Values(values=[1, 2, 4]), 8)
>>> parse_axis("lr", "1e-4..1e-3:log[5]")
Range(low=0.0001, high=0.001, log=True, whole=False, count=5)
>>> parse_axis("rank", "64..1")
Traceback (most recent call last):
ValueError: rank: the range 64..1 does not go up; write the smaller number first
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self, get_args, get_origin

from pydantic import ValidationError, ValidationInfo, model_validator

from sdk.formats.axis_texts import RangeText, parse_axis_text, require_count, require_few
from sdk.schemas.codes import explain_validation, plain_type, range_of
from sdk.schemas.option_types import options_of
from sdk.schemas.sweep_axes import Axis, Range, Setting, Values
from sdk.schemas.training import WITHOUT_EFFECT, TrainingSpec
from sdk.schemas.watch_fields import WatchFields
from sdk.schemas.wire import BY_HAND, JsonScalar, digest_of

_OPTIONS = options_of(TrainingSpec)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)
_MOST_DIGITS = 40
#: How a text says that an option is as if it were left out, where that is None.
_LEFT_OUT = "none"
#: How many characters the texts of all settings of a grid may have: each is checked as a training of its own.
_MOST_CHARACTERS = 1_000_000


class _OneOption(TrainingSpec):
    """A training of which one option is looked at: whether it goes together with the others is not asked."""

    @model_validator(mode="after")
    def _options_go_together(self, _: ValidationInfo) -> Self:
        return self


def why_fixed(name: str, *, by_loss: bool = True) -> str | None:
    """Say why a sweep can't vary an option, and what to do; None if it can. `by_loss`: the held-out loss chooses.

    Options that change what the held-out loss measures (`of_loss`) can vary only if an evaluation chooses, which scores all
    members in the same way: with a shorter max_length it would be the loss of the first tokens alone, and with another loss_on
    that of other tokens. Options that change what the rows are (`of_rows`) can't vary even then.
    """
    option = _OPTIONS.get(name)
    if option is None:
        near = difflib.get_close_matches(name, _OPTIONS, n=1)
        hint = f"did you mean {near[0]}?" if near else "see: adapterctl train --help"
        return f"there is no option {name[:80]!a}; {hint}"
    if name == "seed":
        return "seeds are not a setting, but trainings of the same one; say how many with seeds"
    if option.of_rows:
        return f"{name} says what the rows are, and members of a sweep learn and are scored on the same ones; give one value"
    if name in WatchFields.model_fields or name in WITHOUT_EFFECT:
        return f"{name} says how a training is watched, not how it learns, and all members are watched in the same way; give one value"
    if option.of_loss and by_loss:
        return (
            f"{name} changes what the held-out loss measures, so it can't choose between its values; choose by a score of an"
            " evaluation, such as rouge_l, or give one value"
        )
    return None


def separator_of(name: str) -> str:
    """Return what separates the values of an option in a text: a semicolon where a value may have commas itself."""
    return ";" if plain_type(TrainingSpec.model_fields[name].annotation) is str else ","


def parse_axis(name: str, given: Any) -> Axis | JsonScalar:
    """Return what a person wrote for an option: a `Values` or `Range` if it varies, else its one value.

    A text has values or a range as `sdk.formats.axis_texts` reads them, values of options that are texts themselves separated
    by semicolons. A list, tuple or `range` is values, one of which may be a list again where the option takes one; a table
    with low and high is a range. Values are returned as the option has them: 1e-4 for "1e-4", and names sorted.

    Raises ValueError with one sentence that begins with the option, ends with what to do, and is the option's own where it
    refuses a value. That the option may vary is for `why_fixed` to say.
    """
    if name not in _OPTIONS:
        raise ValueError(why_fixed(name))
    try:
        return _axis(name, given)
    except ValidationError as error:
        raise ValueError(_named(name, explain_validation(list(error.errors()))[0])) from None
    except ValueError as error:
        raise ValueError(_named(name, str(error))) from None


def checked_axis(name: str, axis: Axis) -> Axis:
    """Return what was sent for an option as `parse_axis` returns it, but no value that was sent as another type. Raises
    ValueError.
    """
    checked = parse_axis(name, axis)
    assert isinstance(checked, Values | Range)
    if isinstance(axis, Values) and isinstance(checked, Values):
        for sent, own in zip(axis.values, checked.values, strict=True):
            if isinstance(sent, str) != isinstance(own, str):
                raise ValueError(f"{name} can't be {sent!r}; use {range_of(TrainingSpec.model_fields[name])}")
    return checked


def first_setting(settings: Mapping[str, Axis]) -> Setting:
    """Return the first value of each option, with which the spec of a sweep's training is built.

    >>> first_setting({"rank": Values(values=[4, 8]), "lr": Range(low=1e-4, high=1e-3, log=True)})
    {'rank': 4, 'lr': 0.0001}
    """
    return {name: axis.values[0] if isinstance(axis, Values) else _end(axis) for name, axis in settings.items()}


def with_setting(spec: TrainingSpec, setting: Setting) -> TrainingSpec:
    """Return a training with other values of some options. Raises ValueError if they don't go together."""
    try:
        return TrainingSpec.model_validate(spec.model_dump() | setting)
    except ValidationError as error:
        raise ValueError(
            f"with {_shown(setting)}: {explain_validation(list(error.errors()), TrainingSpec)[0]}"
        ) from None


def require_distinct(spec: TrainingSpec, settings: Iterable[Setting]) -> None:
    """Raise ValueError if the options of a setting don't go together, or if two settings are the same training: with another `epochs`
    where max_steps is given, or with the alpha that a rank has anyway; or if their texts are too long to look at all of them.
    """
    seen: dict[str, Setting] = {}
    whole, characters = spec.model_dump(), 0
    for setting in settings:
        characters += sum(len(value) for value in (whole | setting).values() if isinstance(value, str))
        if characters > _MOST_CHARACTERS:
            raise ValueError(
                f"the texts of all settings have more than {_MOST_CHARACTERS:,} characters; give fewer settings or shorter targets"
            )
        varied = with_setting(spec, setting)
        known = digest_of(varied.recorded() | {"max_length": varied.max_length})
        if known in seen:
            raise ValueError(f"{_shown(seen[known])} is the same training as {_shown(setting)}; leave one of them out")
        seen[known] = setting


def _shown(setting: Setting) -> str:
    return ", ".join(f"{name} {json.dumps(value, ensure_ascii=False)}" for name, value in setting.items())


def _named(name: str, message: str) -> str:
    return message if message.startswith((f"{name}: ", f"{name} ")) else f"{name}: {message}"


def _axis(name: str, given: Any) -> Axis | JsonScalar:
    kind = plain_type(TrainingSpec.model_fields[name].annotation)
    if isinstance(given, str):
        given = parse_axis_text(given, separator=separator_of(name), ranges=kind in (int, float))
    if isinstance(given, Values):
        given = given.values
    if isinstance(given, Mapping) and "low" in given:
        if isinstance(count := given.get("count"), int):
            require_count(count)
        # YAML reads 1e-4 as text.
        ends = {key: _typed(name, float, end) for key, end in given.items() if key in ("low", "high")}
        given = Range(**{**given, **ends})
    if isinstance(given, (RangeText, Range)):
        return _range(name, kind, given)
    if isinstance(given, (list, tuple, range)):
        require_few(len(given))
        return _distinct([_value(name, kind, one) for one in given])
    return _value(name, kind, given)


def _distinct(values: list[JsonScalar]) -> Values:
    seen: set[JsonScalar] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{str(value)[:80]} is given twice; leave one")
        seen.add(value)
    return Values(values=values)


def _range(name: str, kind: Any, given: RangeText | Range) -> Range:
    if kind not in (int, float):
        can_be = range_of(TrainingSpec.model_fields[name])
        raise ValueError(
            f"there is no range of it, since it is {can_be}; give values, separated by {separator_of(name)}"
        )
    low, high = _value(name, kind, given.low), _value(name, kind, given.high)
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    return Range(low=low, high=high, log=given.log, whole=kind is int, count=given.count)


def _value(name: str, kind: Any, given: Any) -> JsonScalar:
    """Return a value as the option has it. Raises ValueError as the option does."""
    wanted = None if given == _LEFT_OUT and _may_be_left_out(name) else _typed(name, kind, given)
    try:
        spec = _OneOption.model_validate({name: wanted}, context=BY_HAND)
    except ValidationError as error:
        message, _ = explain_validation(list(error.errors()), TrainingSpec)
        raise ValueError(message if "; " in message else f"{message}; give another value") from None
    value: JsonScalar = getattr(spec, name)
    return float(value) if kind is float and value is not None else value


def _may_be_left_out(name: str) -> bool:
    field = TrainingSpec.model_fields[name]
    return field.default is None and field.annotation is not plain_type(field.annotation)


def _typed(name: str, kind: Any, given: Any) -> Any:
    """Return a text, or a boolean of YAML, as the type that an option has; other values as they are."""
    if kind in (int, float):
        if isinstance(given, str):
            given = _number(name, given)
        return int(given) if kind is int and isinstance(given, float) and given.is_integer() else given
    if kind is bool and isinstance(given, str):
        return {"true": True, "false": False}.get(given.lower(), given)
    if isinstance(given, bool) and get_origin(kind) is Literal and "on" in get_args(kind):
        # YAML reads on and off, without quotes, as true and false.
        return "on" if given else "off"
    return given


def _number(name: str, text: str) -> int | float:
    if len(text) > _MOST_DIGITS or not _NUMBER.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a number; give {range_of(TrainingSpec.model_fields[name])}")
    return int(text) if text.lstrip("+-").isdecimal() else float(text)


def _end(axis: Range) -> int | float:
    return int(axis.low) if axis.whole else axis.low
