"""Options of a command grouped into dataclasses: a parameter per group, an option per field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command for Typer whose dataclass parameters are expanded into options.

    Fields are annotated like Typer parameters (``Annotated`` with ``typer.Option``).
    """
    groups: dict[str, Any] = {}
    parameters = []
    # Not get_type_hints, which puts Annotated into Optional on Python 3.10 if None is the default.
    for parameter in signature(command, eval_str=True).parameters.values():
        group = parameter.annotation
        if not is_dataclass(group):
            parameters.append(parameter)
            continue
        groups[parameter.name] = group
        types = get_type_hints(group, include_extras=True)
        parameters += [
            Parameter(
                field.name,
                Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=types[field.name],
            )
            for field in fields(group)
        ]

    @wraps(command)
    def run(*arguments: Any, **values: Any) -> None:  # noqa: ANN401
        grouped = {
            name: group(
                **{field.name: values.pop(field.name, field.default) for field in fields(group)}
            )
            for name, group in groups.items()
        }
        command(*arguments, **values, **grouped)

    # Typer reads it instead of the parameters of ``run``.
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return run
