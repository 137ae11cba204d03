"""What a caller says of a sweep, divided: which options vary and over what, which have one value, and which are the sweep's.

>>> found = divided({"rank": "1,2,4", "lr": "1e-4", "seeds": 3})
>>> found.settings, found.fixed, found.fields.seeds
({'rank': Values(values=[1, 2, 4])}, {'keep': 'best', 'lr': 0.0001}, 3)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdk.errors import InvalidInput, InvalidName
from sdk.given_values import build
from sdk.names import check_name
from sdk.schemas.codes import plain_type
from sdk.schemas.held_out import HoldoutFields, no_held_out
from sdk.schemas.job_requests import BaseChoice, TrainingRequest
from sdk.schemas.option_types import options_of
from sdk.schemas.sweep_axes import Axis, Range, Values
from sdk.schemas.sweeps import COMMANDS, HELD_OUT_LOSS, SweepFields, SweepRequest
from sdk.schemas.training import TrainingSpec
from sdk.schemas.varied_options import first_setting, parse_axis, separator_of, why_fixed
from sdk.submitting.job_options import parse_duration
from sdk.validation import check_held_out

#: What a list of values has where one of them is a list of names, or a table of modules.
_NESTED = (list, tuple, Mapping)
#: Options of a training that are others in a sweep if they are left out.
_DEFAULTS = {name: option.swept for name, option in options_of(TrainingSpec).items() if option.swept is not None}


@dataclass(frozen=True)
class SweepOptions:
    """The options of a sweep."""

    #: Options of a training that all members have, by name.
    fixed: dict[str, Any]
    settings: dict[str, Axis]
    fields: SweepFields

    @property
    def of_training(self) -> dict[str, Any]:
        """The options of the first training, of which those that vary are replaced in others."""
        return {**self.fixed, **first_setting(self.settings)}

    def ahead(self, adapter: str, *, eval_data: object) -> SweepRequest:
        """Return the request as far as it is known before rows are read and sent, to be checked.

        Raises InvalidInput for settings that can't be, or without held-out rows.
        """
        spec = build(TrainingSpec, **self.of_training)
        self.require_held_out(eval_data=eval_data)
        check_held_out(spec, eval_data=eval_data)
        rows = "0" * 64
        held_out = None if eval_data is None else rows
        training = TrainingRequest(adapter=adapter, base=BaseChoice(id="-"), data=rows, eval_data=held_out, spec=spec)
        return self.request(training)

    def require_held_out(self, *, eval_data: object) -> None:
        """Raise InvalidInput if there are no held-out rows to compare members by."""
        split = {name: value for name, value in self.fixed.items() if name in HoldoutFields.model_fields}
        if eval_data is None and build(HoldoutFields, **split).hold_out is None:
            raise InvalidInput(no_held_out(["a sweep"]), param="eval_data")

    def request(self, training: TrainingRequest) -> SweepRequest:
        """Return the request of a sweep of such trainings. Raises InvalidInput."""
        return build(SweepRequest, training=training, settings=self.settings, **dict(self.fields))


def divided(options: Mapping[str, Any], *, max_time: float | str | None = None) -> SweepOptions:
    """Divide options as people write them: texts, values or lists. Raises InvalidInput that names the option."""
    of_sweep = {name: value for name, value in options.items() if name in SweepFields.model_fields}
    if max_time is not None:
        of_sweep["max_time_s"] = parse_duration(max_time, param="max_time")
    fields = build(SweepFields, **of_sweep)
    fixed: dict[str, Any] = dict(_DEFAULTS)
    settings: dict[str, Axis] = {}
    for name, value in options.items():
        if name in of_sweep or value is None:
            continue
        read = _read(name, value, by_loss=fields.choose == HELD_OUT_LOSS)
        if isinstance(read, Values | Range):
            settings[name] = read
        else:
            fixed[name] = read
    if not settings:
        raise InvalidInput(
            "nothing varies, so there is nothing to compare; give an option several values, such as --rank 1,2,4, or use train",
            param="settings",
        )
    return SweepOptions(fixed, settings, fields)


def _read(name: str, value: Any, *, by_loss: bool) -> Any:
    """Return the axis of an option, or its one value. Raises InvalidInput."""
    why = why_fixed(name, by_loss=by_loss)
    if why is not None and (name not in options_of(TrainingSpec) or _is_text(name)):
        # Of what can't vary, a text is one value, whatever signs it has, and so is a list that is written for one.
        if name not in TrainingSpec.model_fields:
            raise InvalidInput(why, param=name)
        return value
    if name in TrainingSpec.model_fields and _is_text(name):
        _require_told_apart(name, value)
    try:
        read = parse_axis(name, value)
    except ValueError as error:
        raise InvalidInput(str(error), param=name) from None
    if why is not None and isinstance(read, Values | Range):
        raise InvalidInput(why, param=name)
    return read


def _require_told_apart(name: str, value: Any) -> None:
    """Raise InvalidInput for a list that is one value of a training's option, and several of a sweep's."""
    if not isinstance(value, list | tuple) or len(value) < 2 or any(isinstance(one, _NESTED) for one in value):
        return
    one, several = ", ".join(map(str, value)), separator_of(name).join(map(str, value))
    raise InvalidInput(
        f"{name}: a training takes this list as one value, and a sweep as {len(value)}; write [[{one[:80]}]] for one value, or"
        f' "{several[:80]}" for {len(value)}',
        param=name,
    )


def _is_text(name: str) -> bool:
    return plain_type(TrainingSpec.model_fields[name].annotation) is str


def check_swept(adapter: str) -> str:
    """Return the name of an adapter that a sweep can be of. Raises InvalidName for another, or that of a command."""
    if adapter in COMMANDS:
        raise InvalidName(
            f"{adapter!a} is a command, adapterctl sweep {adapter}, so no adapter of that name can be swept; give another name, or one "
            f"with a namespace, such as team/{adapter}",
            param="adapter",
        )
    return check_name(adapter)
