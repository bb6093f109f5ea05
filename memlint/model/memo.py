"""Questions about the program, answered once for each subject and safe against going in circles."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import wraps
from inspect import signature
from typing import Any, Concatenate, ParamSpec, TypeVar

from memlint.model.scopes import Class, Function, Module
from memlint.model.values import Region, Value

Subject = TypeVar("Subject", bound="Value | Region | Function | Class | Module")
Answer = TypeVar("Answer")
Rest = ParamSpec("Rest")
_UNKNOWN: Any = object()
_NOTHING: Mapping[str, Any] = {}


def query(
    on_cycle: Any,
) -> Callable[[Callable[Concatenate[Subject, Rest], Answer]], Callable[Concatenate[Subject, Rest], Answer]]:
    """Remembers the answers of a function of one value, region, function, class or module.

    ``on_cycle`` is what the function answers while it is itself being asked the same question. An answer that rests on
    such a preliminary one is kept only until the question that it belongs to is answered, so that what is remembered
    does not depend on the order of the questions.
    """

    def decorate(ask: Callable[Concatenate[Subject, Rest], Answer]) -> Callable[Concatenate[Subject, Rest], Answer]:
        @wraps(ask)
        def answer(subject: Subject, /, *rest: Rest.args, **named: Rest.kwargs) -> Answer:
            memo = subject.project.memo
            key = (ask, subject, *rest)
            known = memo.answers.get(key, _UNKNOWN)
            if known is _UNKNOWN:
                known = memo.work_out(key, named, on_cycle)
            return known  # type: ignore[no-any-return]

        @wraps(ask)
        def answer_alone(subject: Subject, /) -> Answer:
            # Most questions have a subject only, and are asked a million times: this is the same, and half as dear.
            memo = subject.project.memo
            key = (ask, subject)
            known = memo.answers.get(key, _UNKNOWN)
            if known is _UNKNOWN:
                known = memo.work_out(key, _NOTHING, on_cycle)
            return known  # type: ignore[no-any-return]

        return answer_alone if len(signature(ask).parameters) == 1 else answer  # type: ignore[return-value]

    return decorate


class Memo:
    """The answers that are known, and the questions that are being asked."""

    def __init__(self) -> None:
        self.answers: dict[tuple[Any, ...], Any] = {}
        self.asking: dict[tuple[Any, ...], int] = {}
        self.preliminary: dict[tuple[Any, ...], tuple[Any, int]] = {}
        self.rests_on = sys.maxsize
        """Depth of the outermost open question that the answer being worked out rests on."""

    def work_out(self, key: tuple[Any, ...], named: Mapping[str, Any], on_cycle: Any) -> Any:
        """The answer to ``key`` when none is kept: a preliminary one inside a circle, else that of the function."""
        depth = self.asking.get(key)
        if depth is not None:
            self.rests_on = min(self.rests_on, depth)
            return on_cycle
        preliminary = self.preliminary.get(key)
        if preliminary is not None:
            self.rests_on = min(self.rests_on, preliminary[1])
            return preliminary[0]
        return self.ask(key, named)

    def ask(self, key: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        """Works out the answer to ``key``, a function with its positional arguments, and keeps it if it is final."""
        depth = len(self.asking)
        outer = self.rests_on
        before = len(self.preliminary)
        self.rests_on = sys.maxsize
        self.asking[key] = depth
        try:
            found = key[0](*key[1:], **named)
        finally:
            del self.asking[key]
            rests_on = self.rests_on
            self.rests_on = min(outer, rests_on) if rests_on < depth else outer
        if rests_on >= depth:
            self.answers[key] = found
            while len(self.preliminary) > before:
                self.preliminary.popitem()
        else:
            self.preliminary[key] = (found, rests_on)
        return found

    def clear(self) -> None:
        """Forgets everything."""
        self.answers.clear()
        self.preliminary.clear()
