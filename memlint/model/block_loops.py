"""Models whose forward runs one block after the other, and keeps what each saves for the backward."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from memlint.model.aliases import attribute_values, base_names, instance_class, qualified_names, sources
from memlint.model.instances import instance_kind
from memlint.model.kinds import Role
from memlint.model.program import Program
from memlint.model.scopes import Class, Module
from memlint.model.values import Attribute, Call, Element, Item, Loop, Value

_CHECKPOINTED = re.compile(r"checkpoint|offload|activation_memory_budget|save_on_cpu|remat", re.IGNORECASE)
_TRAINED = re.compile(r"self\.training\b|[Dd]ropout|[Dd]rop_?[Pp]ath|\.backward\(")
"""What a model has that is there to be trained, and not to be run with weights from elsewhere."""
_PROSE = re.compile(r'"""(?:.*?)"""|#[^\n]*', re.DOTALL)
"""Documentation and comments, which do nothing."""
_LISTS = frozenset({"torch.nn.ModuleList", "torch.nn.Sequential", "torch.nn.ModuleDict"})


class BlockLoop(NamedTuple):
    """A loop in a method of ``owner`` that hands what a block returns to the next; ``call`` runs the block."""

    owner: Class
    loop: Loop
    call: Call


def block_loops(program: Program) -> Iterator[BlockLoop]:
    """The loops over blocks in the models of a file that are there to be trained, and checkpoint nothing."""
    if not may_train_whole(program.module):
        return
    for owner in program.classes:
        if instance_kind(owner).role is Role.MODULE and not any(
            n.endswith("PreTrainedModel") for n in base_names(owner)
        ):
            for method in owner.methods.values():
                for loop in method.lower().loops:
                    call = _block_of(loop, owner)
                    if call is not None:
                        yield BlockLoop(owner, loop, call)


def may_train_whole(module: Module) -> bool:
    """Whether a file has models that are there to be trained, and says nothing of saving less for the backward."""
    if "ModuleList" not in module.text:
        return False
    code = _PROSE.sub("", module.text)
    return not _CHECKPOINTED.search(code) and bool(_TRAINED.search(code))


def _block_of(loop: Loop, owner: Class) -> Call | None:
    """The call of a member of a list of modules whose result the next iteration reads."""
    for call in loop.function.calls:
        if call.region.loop is loop and _is_member(call.callee, loop, owner):
            carried = {id(value) for phi in loop.phis.values() for value in phi.carried}
            if any(id(source) in carried for source in _unchanged(call)) or id(call) in carried:
                return call
    return None


def _unchanged(call: Call) -> Iterator[Value]:
    """What is made of the result by adding to it."""
    yield from (use for use in call.uses if isinstance(use, Value))


def _is_member(callee: Value, loop: Loop, owner: Class) -> bool:
    """Whether ``callee`` is an element of an attribute of the model that is a list of modules."""
    listed: Value | None = None
    if isinstance(callee, Element) and callee is loop.element:
        listed = callee.iterable
    elif isinstance(callee, Item):
        listed = callee.base
    if not isinstance(listed, Attribute) or instance_class(listed.base) is None:
        return False
    return any(
        isinstance(made, Call) and _is_list(made)
        for value in attribute_values(owner, listed.name)
        for made in sources(value)
    )


def _is_list(made: Call) -> bool:
    return bool(qualified_names(made.callee) & _LISTS)
