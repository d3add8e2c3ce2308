"""The types of what resources take and answer, and the facts about a view that the documentation reads."""

from collections.abc import Callable
from typing import Any, TypeVar

View = Callable[..., Any]
AnyView = TypeVar("AnyView", bound=View)
Args = dict[str, Any]  # what a parser returns
JSON = dict[str, Any]
Headers = dict[str, Any]
Page = tuple[list[Any], int, Headers]


def mark(view: AnyView, **facts: Any) -> AnyView:
    """Keep facts about the view as its attributes; it changes nothing in the call itself."""
    vars(view).update(facts)
    return view
