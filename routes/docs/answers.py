"""What the documentation says of a call beyond what can be read from its code."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from routes.http.views import AnyView, mark


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer of a view, as `answers` describes it."""

    example: Any = None
    plus: tuple[str, ...] = ()
    sometimes: Mapping[str, Any] = field(default_factory=dict)
    media: Mapping[str, str] = field(default_factory=dict)
    headers: Iterable[str] = ()


def answers(
    status: int, example: Any = None, *, refuses: Iterable[Exception] = (), sends: Any = None, **more: Any
) -> Callable[[AnyView], AnyView]:
    """Describe for the documentation what the method answers; it changes nothing in the call itself.

    The `example` is a model, described as its `serialize_only` and `plus` say, or JSON with models in it; `sometimes`
    has fields that do not always come with it; `media` has examples by media type. `refuses` are errors as they may be
    raised, beyond those of guard and parser. `sends` is an example of the body, or a model that has its fields; if it
    is left out, what is answered has them.
    """

    def describe(view: AnyView) -> AnyView:
        return mark(
            view,
            answers={status: Answer(example=example, **more), **getattr(view, "answers", {})},
            refuses=(*refuses, *getattr(view, "refuses", ())),
            sends=sends or example,
        )

    return describe
