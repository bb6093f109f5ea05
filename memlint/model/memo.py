"""Questions about the program, answered once for each subject and safe against going in circles."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from types import CodeType
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from memlint.model.dependencies import Basis, Leaf, resting
from memlint.model.scopes import Class, Function, Module
from memlint.model.values import NO_ANSWERS, Region, Value

Subject = TypeVar("Subject", bound="Value | Region | Function | Class | Module")
Answer = TypeVar("Answer")
Key = TypeVar("Key")
Rest = ParamSpec("Rest")
_Key = tuple[Any, Any]
"""A question and its subject."""


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
        def answer_alone(subject: Subject, /) -> Answer:
            # Most questions have a subject only, and are asked a million times: this is the same, and half as dear.
            known = subject.known.get(ask, _UNKNOWN)
            if type(known) is _Kept:
                return subject.project.memo.work_out(  # type: ignore[no-any-return]
                    known, ask, subject, ask, on_cycle
                )
            return known  # type: ignore[no-any-return]

        if _asks_of_subject_only(ask):
            return answer_alone  # type: ignore[return-value]

        @wraps(ask)
        def answer(subject: Subject, /, *rest: Rest.args, **named: Rest.kwargs) -> Answer:
            question = (ask, *rest, *named.items())
            known = subject.known.get(question, _UNKNOWN)
            if type(known) is _Kept:
                return subject.project.memo.work_out(  # type: ignore[no-any-return]
                    known, question, subject, lambda subject: ask(subject, *rest, **named), on_cycle
                )
            return known  # type: ignore[no-any-return]

        return answer

    return decorate


def _asks_of_subject_only(ask: Callable[..., Any]) -> bool:
    code: CodeType = ask.__code__
    return code.co_argcount + code.co_kwonlyargcount == 1


class Memo:
    """The answers that are known, and the questions that are being asked.

    Some answers depend on which file is checked, since that decides in which files callers are searched (see
    :meth:`Project.callers`). They are kept with the files for which they would be others, or until the next file is
    checked, so that no answer depends on what has been asked before.

    Each answer is kept together with what it rests on in other files; whoever is given it rests on the same. Answers
    that are the same whichever file is checked are kept with their subject (as ``known``): bare, if they rest on no
    other file than that of the subject.
    """

    def __init__(self) -> None:
        self._count = 0
        """How many bare answers are kept with their subjects."""
        self._kept: dict[_Key, _Kept] = {}
        """Answers that rest on other files, or that would be others for some checked files."""
        self._open: list[_Asked] = []
        """What stands for a question that is open, by how many questions are open around it."""
        self._on: set[Basis | Leaf] | None = None
        """What the answer being worked out rests on; outside of questions, the findings of the checked file."""
        self._lasting: dict[Module, list[Basis | Leaf]] = {}
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
        self._on = None

    # ------------------------------------------------------------------ dependencies

    def rests_on(self, leaf: Basis | Leaf) -> None:
        """The answer that is being worked out depends on ``leaf``."""
        if self._on is None:
            self._on = {leaf}
        else:
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
            self.rests_on(known[1])
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
        return self._on or set()

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

    def work_out(self, kept: Any, question: Any, subject: Subject, ask: Callable[[Subject], Any], on_cycle: Any) -> Any:
        """The answer to a ``question`` of ``subject``: the one that is ``kept``, a preliminary one, or anew."""
        if kept is not _UNKNOWN and not kept.others & self.searched:
            self._others |= kept.others
            if kept.rest is not None:
                self.rests_on(kept.rest)
            return kept.answer
        now = self._now
        key = (question, subject)
        known: Any = now.answers.get(key, _UNKNOWN)
        if known is _UNKNOWN:
            return self._ask(key, ask)
        if type(known) is _Asked:
            self._rests_on = min(self._rests_on, known.depth)
            return on_cycle
        if type(known) is _Preliminary:
            self._rests_on = min(self._rests_on, known.rests_on)
            self._differs |= known.differs
            self._others |= known.others
            return known.answer
        self._differs = True
        return known

    def _ask(self, key: _Key, ask: Callable[[Any], Any]) -> Any:
        """Works out the answer to ``key`` and keeps it if it is final."""
        now, depth = self._now, self._depth
        outer_rests_on, outer_differs, outer_others, outer_on = self._rests_on, self._differs, self._others, self._on
        before = len(now.preliminary)
        self._rests_on, self._differs, self._others, self._on = sys.maxsize, False, 0, None
        self._depth = depth + 1
        if depth == len(self._open):
            self._open.append(_Asked(depth))
        now.answers[key] = self._open[depth]
        try:
            found = ask(key[1])
        finally:
            self._depth = depth
            del now.answers[key]
            rests_on, differs, others = self._rests_on, self._differs, self._others
            rest = resting(self._on)
            self._rests_on = min(outer_rests_on, rests_on) if rests_on < depth else outer_rests_on
            self._differs, self._others, self._on = outer_differs or differs, outer_others | others, outer_on
            if rest is not None:
                self.rests_on(rest)
        if rests_on < depth:
            now.answers[key] = _Preliminary(found, rests_on, differs, others)
            now.preliminary.append(key)
            return found
        while len(now.preliminary) > before:
            del now.answers[now.preliminary.pop()]
        if differs or others & self.searched:
            now.answers[key] = found
        elif others or rest is not None:
            self._kept[key] = kept = _Kept(found, others, rest)
            _tell(key, kept)
        else:
            _tell(key, found)
            self._count += 1
        return found

    def resting(self) -> Iterator[Basis | Leaf]:
        """What the answers that are kept rest on."""
        return (kept.rest for kept in self._kept.values() if kept.rest is not None)

    def forget(self, modules: Collection[Module], rests: Collection[Basis | Leaf]) -> None:
        """Forgets what rests on one of ``rests``, and what was found out about ``modules``."""
        gone = [
            key
            for key, kept in self._kept.items()
            if kept.rest in rests or (key[1] if isinstance(key[1], Module) else key[1].module) in modules
        ]
        for key in gone:
            self._let_go(key)
        for module in modules:
            self._lasting.pop(module, None)
        self._here.clear()
        self._abroad.clear()

    def clear(self) -> None:
        """Forgets everything but what subjects know, which are dropped with their modules."""
        self._count = 0
        for key in list(self._kept):
            self._let_go(key)
        self._lasting.clear()
        self._here.clear()
        self._abroad.clear()

    def _let_go(self, key: _Key) -> None:
        question, subject = key
        del self._kept[key]
        subject.known.pop(question, None)

    def __len__(self) -> int:
        return self._count + sum(map(len, (self._kept, self._here.answers, self._abroad.answers)))


class _Kept(NamedTuple):
    """An answer that holds unless one of ``others``, as bits, is searched."""

    answer: Any
    others: int
    rest: Basis | Leaf | None


_UNKNOWN: Any = _Kept(None, 0, None)
"""Stands for an answer that nobody has worked out."""


def _tell(key: _Key, found: Any) -> None:
    """Gives the answer to the subject of ``key``."""
    question, subject = key
    if subject.known is NO_ANSWERS:
        subject.known = {}
    subject.known[question] = found


class _Asked:
    """Stands for the answer to a question that is open, ``depth`` questions deep."""

    __slots__ = ("depth",)

    def __init__(self, depth: int) -> None:
        self.depth = depth


class _Preliminary(NamedTuple):
    """An answer that rests on a question that is still open."""

    answer: Any
    rests_on: int
    differs: bool
    others: int


class _Answers:
    """What is known for the checked file only, and what is being asked."""

    def __init__(self) -> None:
        self.answers: dict[_Key, Any] = {}
        """Final ones, and instances of :class:`_Preliminary` and :class:`_Asked`."""
        self.preliminary: list[_Key] = []
        """Questions with preliminary answers."""

    def clear(self) -> None:
        self.answers.clear()
        self.preliminary.clear()
