"""Options of commands that are checked as the API checks its fields."""

from collections.abc import Callable
from typing import Any

import click

from routes.http.parsing import Type


def checked(type: Type) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A click callback that converts the value by a type of the API's fields."""

    def convert(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        try:
            return type(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return convert
