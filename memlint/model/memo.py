"""Questions about the program, answered once for each subject and safe against going in circles."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from inspect import signature
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from memlint.model.dependencies import Basis, Leaf, resting
from memlint.model.scopes import Class, Function, Module
from memlint.model.values import Region, Value

Subject = TypeVar("Subject", bound="Value | Region | Function | Class | Module")
Answer = TypeVar("Answer")
Key = TypeVar("Key")
Rest = ParamSpec("Rest")
_UNKNOWN: Any = object()


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
            key = (ask, subject, *rest, *named.items())
            known = memo.answers.get(key, _UNKNOWN)
            if known is _UNKNOWN:
                known = memo.given(key)
                if known is _UNKNOWN:
                    known = memo.work_out(key, lambda: ask(subject, *rest, **named), on_cycle)
            return known  # type: ignore[no-any-return]

        @wraps(ask)
        def answer_alone(subject: Subject, /) -> Answer:
            # Most questions have a subject only, and are asked a million times: this is the same, and half as dear.
            memo = subject.project.memo
            key = (ask, subject)
            known = memo.answers.get(key, _UNKNOWN)
            if known is _UNKNOWN:
                known = memo.given(key)
                if known is _UNKNOWN:
                    known = memo.work_out(key, partial(ask, subject), on_cycle)
            return known  # type: ignore[no-any-return]

        return answer_alone if len(signature(ask).parameters) == 1 else answer  # type: ignore[return-value]

    return decorate


class Memo:
    """The answers that are known, and the questions that are being asked.

    Some answers depend on which file is checked, since that decides in which files callers are searched (see
    :meth:`Project.callers`). They are kept with the files for which they would be others, or until the next file is
    checked, so that no answer depends on what has been asked before.

    Each answer is kept together with what it rests on in other files; whoever is given it rests on the same.
    """

    def __init__(self) -> None:
        self.answers: dict[tuple[Any, ...], Any] = {}
        """Answers that are the same whichever file is checked, and that rest on no other file than their subject's."""
        self._carried: dict[tuple[Any, ...], tuple[Any, Basis | Leaf]] = {}
        """The same for those that rest on other files."""
        self._on: set[Basis | Leaf] = set()
        """What the answer being worked out rests on; outside of questions, the findings of the checked file."""
        self._lasting: dict[Module, list[Basis | Leaf]] = {}
        self._bounded: dict[tuple[Any, ...], _Bounded] = {}
        self._here, self._abroad = _Answers(), _Answers()
        self._now = self._here
        self._depth = 0
        self._rests_on = sys.maxsize
        """Depth of the outermost open question that the answer being worked out rests on."""
        self._differs = False
        """Whether the answer being worked out holds for the checked file only."""
        self._others = 0
        """The files, as bits, for which the answer being worked out would be another one."""
        self.searched = 0
        """The files, as bits, that are checked or whose functions' callers are searched in all files."""

    def start(self, file: int) -> None:
        """Begins the check of ``file``, a bit."""
        self._here.clear()
        self._abroad.clear()
        self.searched = file
        self._on = set()

    # ------------------------------------------------------------------ dependencies

    def rests_on(self, leaf: Leaf) -> None:
        """The answer that is being worked out depends on ``leaf``."""
        self._on.add(leaf)

    def once(
        self, store: dict[Key, tuple[Answer | None, Basis]], key: Key, make: Callable[[], Answer | None]
    ) -> Answer | None:
        """What ``make`` gives for ``key``, kept in ``store`` with what it rests on; None while it is being made."""
        known = store.get(key)
        if known is None:
            rest = Basis()
            store[key] = (None, rest)
            with self._aside() as on:
                made = make()
            rest.on = tuple(on)
            known = store[key] = (made, rest)
        if known[1].on != ():
            # While it is being made, nobody knows yet what it will rest on.
            self._on.add(known[1])
        return known[0]

    @contextmanager
    def lasting(self, module: Module) -> Iterator[None]:
        """What is found out inside becomes a part of ``module``: whoever looks at the module rests on it."""
        with self._aside() as on:
            yield
        if on:
            self._lasting.setdefault(module, []).extend(on)

    @contextmanager
    def _aside(self) -> Iterator[set[Basis | Leaf]]:
        """Gathers what is depended on inside."""
        before, self._on = self._on, set()
        try:
            yield self._on
        finally:
            self._on = before

    def dependencies(self) -> set[Basis | Leaf]:
        """What the findings of the checked file rest on so far."""
        return self._on

    def lasting_of(self, module: Module) -> Sequence[Basis | Leaf]:
        """What everybody rests on who looks at ``module``."""
        return self._lasting.get(module, ())

    # ------------------------------------------------------------------ questions

    @property
    def is_abroad(self) -> bool:
        """Whether another file is read in search of callers."""
        return self._now is self._abroad

    def depends_on_checked_file(self) -> None:
        """The question that is being worked out looks at what the checked file, or its callers, have."""
        self._differs = True

    def would_differ_for(self, files: int) -> None:
        """The question that is being worked out would be answered otherwise if one of ``files`` was searched."""
        self._others |= files

    @contextmanager
    def abroad(self) -> Iterator[None]:
        """Inside, another file is read in search of callers, and its own callers are not searched."""
        before, rests_on = self._now, self._rests_on
        self._now = self._abroad
        try:
            yield
        finally:
            self._now, self._rests_on = before, rests_on

    def given(self, key: tuple[Any, ...]) -> Any:
        """The answer to ``key`` that is kept with what it rests on, if there is one."""
        carried = self._carried.get(key)
        if carried is None:
            return _UNKNOWN
        self._on.add(carried[1])
        return carried[0]

    def work_out(self, key: tuple[Any, ...], ask: Callable[[], Any], on_cycle: Any) -> Any:
        """The answer to ``key`` when no general one is kept: a preliminary one inside a circle, else ``ask()``."""
        bounded = self._bounded.get(key)
        if bounded is not None and not bounded.others & self.searched:
            self._others |= bounded.others
            if bounded.rest is not None:
                self._on.add(bounded.rest)
            return bounded.answer
        now = self._now
        known = now.answers.get(key, _UNKNOWN)
        if known is not _UNKNOWN:
            self._differs = True
            return known
        depth = now.asking.get(key)
        if depth is not None:
            self._rests_on = min(self._rests_on, depth)
            return on_cycle
        preliminary = now.preliminary.get(key)
        if preliminary is not None:
            self._rests_on = min(self._rests_on, preliminary.rests_on)
            self._differs |= preliminary.differs
            self._others |= preliminary.others
            return preliminary.answer
        return self._ask(key, ask)

    def _ask(self, key: tuple[Any, ...], ask: Callable[[], Any]) -> Any:
        """Works out the answer to ``key``, a function with its arguments, and keeps it if it is final."""
        now, depth = self._now, self._depth
        outer = (self._rests_on, self._differs, self._others)
        outer_on = self._on
        before = len(now.preliminary)
        self._rests_on, self._differs, self._others, self._on = sys.maxsize, False, 0, set()
        self._depth += 1
        now.asking[key] = depth
        try:
            found = ask()
        finally:
            self._depth -= 1
            del now.asking[key]
            rests_on, differs, others = self._rests_on, self._differs, self._others
            inherited = rests_on if rests_on < depth else sys.maxsize
            self._rests_on = min(outer[0], inherited)
            self._differs, self._others = outer[1] or differs, outer[2] | others
            rest = resting(self._on)
            self._on = outer_on
            if rest is not None:
                outer_on.add(rest)
        if rests_on < depth:
            now.preliminary[key] = _Preliminary(found, rests_on, differs, others)
            return found
        while len(now.preliminary) > before:
            now.preliminary.popitem()
        if differs or others & self.searched:
            now.answers[key] = found
        elif others:
            self._bounded[key] = _Bounded(found, others, rest)
        elif rest is not None:
            self._carried[key] = (found, rest)
        else:
            self.answers[key] = found
        return found

    def clear(self) -> None:
        """Forgets everything."""
        self.answers.clear()
        self._carried.clear()
        self._lasting.clear()
        self._bounded.clear()
        self._here.clear()
        self._abroad.clear()

    def __len__(self) -> int:
        kept = (self.answers, self._carried, self._bounded, self._here.answers, self._abroad.answers)
        return sum(map(len, kept))


class _Bounded(NamedTuple):
    """An answer that holds unless one of ``others``, as bits, is searched."""

    answer: Any
    others: int
    rest: Basis | Leaf | None


class _Preliminary(NamedTuple):
    """An answer that rests on a question that is still open."""

    answer: Any
    rests_on: int
    differs: bool
    others: int


class _Answers:
    """What is known for the checked file only, and what is being asked."""

    def __init__(self) -> None:
        self.answers: dict[tuple[Any, ...], Any] = {}
        self.asking: dict[tuple[Any, ...], int] = {}
        self.preliminary: dict[tuple[Any, ...], _Preliminary] = {}

    def clear(self) -> None:
        self.answers.clear()
        self.preliminary.clear()
