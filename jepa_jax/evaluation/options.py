"""Options of protocols, from texts such as "knn.neighbours=10,20" on the command line."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jepa_jax.errors import UserError, did_you_mean
from jepa_jax.evaluation.task import Protocol

TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def choose(
    names: Sequence[str], settings: Sequence[str], known: Mapping[str, Protocol]
) -> list[tuple[Protocol, Any]]:
    """Protocols by name, each with its options.

    Args:
      settings: PROTOCOL.OPTION=VALUE; several values of one option are separated by commas.

    Raises:
      UserError: for whatever is unknown or has no such value; names the nearest.
    """
    for name in names:
        if name not in known:
            raise UserError(
                f"--protocol={name} is none of {', '.join(sorted(known))}"
                f"{did_you_mean(name, known)}"
            )
    given = {name: {} for name in names}
    for setting in settings:
        key, equals, text = setting.partition("=")
        name, dot, option = key.partition(".")
        if not (equals and dot):
            raise UserError(f"--set={setting}: write it as --set=knn.neighbours=10,20")
        if name not in given:
            raise UserError(
                f"--set={setting}: --protocol names {', '.join(given)}, not {name}"
                f"{did_you_mean(name, given)}"
            )
        options = {field.name: field.default for field in dataclasses.fields(known[name].options)}
        if option not in options:
            raise UserError(
                f"--set={setting}: {name} has no option {option!r}, only {', '.join(options)}"
                f"{did_you_mean(option, options)}"
            )
        given[name][option] = _value(setting, text, options[option])
    return [(known[name], _options(known[name], given[name])) for name in names]


def _options(protocol: Protocol, given: dict[str, Any]) -> Any:
    try:
        return protocol.options(**given)
    except UserError as error:
        raise UserError(f"--set={protocol.name}.{error}") from None


def _value(setting: str, text: str, default: Any) -> Any:
    if isinstance(default, tuple):
        return tuple(_one(setting, part, default[0]) for part in text.split(",") if part)
    return _one(setting, text, default)


def _one(setting: str, text: str, example: Any) -> Any:
    try:
        value = TRUTH[text.lower()] if isinstance(example, bool) else type(example)(text)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError
        return value
    except (KeyError, ValueError):
        kinds = {bool: "true or false", int: "a whole number", float: "a number"}
        raise UserError(f"--set={setting}: {text!r} is not {kinds[type(example)]}") from None
