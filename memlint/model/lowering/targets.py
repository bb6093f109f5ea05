"""What assignments, loops and deletions do to their targets."""

from __future__ import annotations

import libcst as cst

from memlint.model.lowering.environment import MISSING
from memlint.model.lowering.names import Names
from memlint.model.paths import path_key
from memlint.model.values import (
    Deletion,
    Display,
    Opaque,
    Part,
    Store,
    Value,
)


class Targets(Names):
    """A walk that binds."""

    def store(self, target: cst.CSTNode, value: Value, node: cst.CSTNode, augmented: bool = False) -> None:
        if isinstance(target, cst.Name):
            self.bind(target.value, value)
            self.function.stores.append(
                Store(node, target, self.region, self.tick(), target.value, value, augmented=augmented)
            )
        elif isinstance(target, (cst.Tuple, cst.List)):
            self.unpack(target, value, node)
        elif isinstance(target, cst.StarredElement):
            self.store(target.value, value, node)
        elif isinstance(target, cst.Attribute):
            self.store_attribute(target, value, node, augmented)
        elif isinstance(target, cst.Subscript):
            self.store_item(target, value, node, augmented)

    def store_attribute(self, target: cst.Attribute, value: Value, node: cst.CSTNode, augmented: bool) -> None:
        base = self.expression(target.value)
        name = target.attr.value
        key = path_key(target)
        if key is not None:
            self.env.names[key] = value
            self.forget_below(key)
        self.function.stores.append(
            Store(node, target, self.region, self.tick(), key, value, base, attribute=name, augmented=augmented)
        )

    def store_item(self, target: cst.Subscript, value: Value, node: cst.CSTNode, augmented: bool) -> None:
        base = self.expression(target.value)
        index = self.subscript_index(target)
        key = path_key(target)
        if key is not None:
            self.env.names[key] = value
            self.forget_below(key)
        first = index[0] if index else None
        if first is None:
            first = Opaque(target, self.region, self.tick())
        self.function.stores.append(
            Store(node, target, self.region, self.tick(), key, value, base, index=first, augmented=augmented)
        )

    def unpack(self, target: cst.Tuple | cst.List, value: Value, node: cst.CSTNode) -> None:
        elements = target.elements
        count = len(elements)
        direct = isinstance(value, Display) and not value.starred and len(value.elements) == count
        starred = False
        for index, element in enumerate(elements):
            starred = starred or isinstance(element, cst.StarredElement)
            part: Value
            if direct and not starred:
                assert isinstance(value, Display)
                part = value.elements[index]
            else:
                part = Part(element, self.region, self.tick(), value, None if starred else index, count)
            self.store(element.value, part, node)

    def comprehension_target(self, target: cst.BaseExpression, value: Value) -> None:
        if isinstance(target, cst.Name):
            self.env.names[target.value] = value
        elif isinstance(target, (cst.Tuple, cst.List)):
            for index, element in enumerate(target.elements):
                part = Part(element, self.region, self.tick(), value, index, len(target.elements))
                self.comprehension_target(element.value, part)

    def delete(self, node: cst.Del) -> None:
        targets: list[cst.BaseExpression] = (
            [element.value for element in node.target.elements]
            if isinstance(node.target, (cst.Tuple, cst.List))
            else [node.target]
        )
        for target in targets:
            key = path_key(target)
            if key is None:
                if isinstance(target, cst.Subscript):
                    self.delete_items(node, target)
                continue
            found = self.find(key)
            value = None if found is MISSING else found
            self.function.deletions.append(Deletion(node, self.region, self.tick(), key, value))
            self.env.names[key] = None

    def delete_items(self, node: cst.Del, target: cst.Subscript) -> None:
        """``del items[:]``, or at an index that is not constant."""
        base = self.expression(target.value)
        key = path_key(target.value)
        if key is not None:
            self.function.deletions.append(Deletion(node, self.region, self.tick(), f"{key}[...]", base))
