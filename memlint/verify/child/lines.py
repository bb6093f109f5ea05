"""Looks at the watched lines: what their values keep alive, which graphs they record, what becomes of gradients."""

from __future__ import annotations

import ast
import functools
import types
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from memlint.findings import Watch
from memlint.trace.events import MemoryEvent, Phase
from memlint.verify.child.by_products import by_product_bytes
from memlint.verify.child.followers import FOLLOWERS
from memlint.verify.child.following import Follower
from memlint.verify.child.local_names import local_names
from memlint.verify.child.progress import Progress, TrackedOptimizer, gradient_bytes, parameters_of
from memlint.verify.child.reachable import Reach, length, reach, storage_keys
from memlint.verify.child.stray import StrayGradients
from memlint.verify.observations import GradientsSeen, GraphSeen, LineSeen, Sample
from memlint.verify.plan import Budget, WatchedLine

_EVERY = 64
"""After this many executions, a line is looked at ..."""
_SELDOM = 16
"""... one time in so many: walking over what has grown takes ever longer."""
_MAX_HOOKED_NODES = 2_000


class Memory(Protocol):
    """Who knows where live memory was allocated."""

    phase: Phase | None

    def allocation_of(self, storage: torch.UntypedStorage) -> MemoryEvent | None:
        """The event that allocated a storage."""

    def mark(self) -> int:
        """This moment."""

    def most_since(self, mark: int) -> int:
        """How many bytes more than at ``mark`` were allocated since, at most."""

    def freed_since(self, mark: int) -> int:
        """How many bytes were freed since ``mark``."""


@dataclass
class Situation:
    """What the observers of one run share."""

    progress: Progress
    memory: Memory
    budget: Budget
    active: list[LineObserver] = field(default_factory=list)
    """Those whose line is running, or whose interest goes on after it; the innermost last."""


class LineObserver:
    """One watched line."""

    def __init__(self, line: WatchedLine, situation: Callable[[], Situation | None]) -> None:
        self.line = line
        self.seen = LineSeen()
        self._situation = situation
        """None until torch is there."""
        self._watch = Watch(line.watch)
        self._loops = 0
        self._before: GradientsSeen | None = None
        self._holder_optimizers: set[int] = set()
        self._pending: list[tuple[GraphSeen, list[weakref.ref[torch.Tensor]]]] = []
        self._named: list[weakref.ref[torch.UntypedStorage]] = []
        """What was named when the line last ran, until a backward is over."""
        self._wrapper: weakref.ref[torch.nn.parallel.DistributedDataParallel] | None = None
        self._stray = StrayGradients()
        self._follower: Follower | None = None
        self._expects_argument = False
        """Whether the value that is watched is what the next forward pass returns."""

    def follow(self, memory: Memory) -> None:
        """Begin to follow what the line does, if its watch wants that; torch is there."""
        kind = FOLLOWERS.get(self._watch)
        if kind is not None:
            self._follower = kind(self.line, self.seen, _evaluated, memory)
            self._follower.install()

    def follow_forward(self, module: torch.nn.Module, output: object) -> None:
        """A forward pass of a whole model has ended, whether or not the line was running."""
        if self._follower is not None:
            self._follower.forward_done(module, output)

    # What the tracer tells

    def begin(self, frame: types.FrameType) -> None:
        """The line is about to run."""
        self.seen.executions += 1
        situation = self._situation()
        if situation is None:
            return
        if self.seen.executions == 1:
            situation.progress.news()
        if not self.seen.steps or self.seen.steps[-1] != situation.progress.step:
            self.seen.steps.append(situation.progress.step)
        if self not in situation.active:
            situation.active.append(self)
        if self._follower is not None:
            self._follower.begin()
        elif self._watch in _GRADIENT_WATCHES:
            self._before = self._gradients(frame, situation)
        elif self._watch is Watch.STRAY_GRADIENTS:
            # Before the line gives the name to something else.
            self._look_at_argument(frame, situation)

    def end(self, frame: types.FrameType) -> None:
        """The line has run."""
        situation = self._situation()
        if situation is None:
            return
        if self._watch is not Watch.LATER_GRAPHS and self in situation.active:
            situation.active.remove(self)
        self.seen.grad_enabled = torch.is_grad_enabled()
        if self._follower is not None:
            self._follower.end(frame)
        elif self._watch in _SAMPLED_WATCHES:
            self._look_at_root(frame, situation)
        elif self._watch is Watch.OUTPUT_AFTER_BACKWARD:
            self._expect_freed(frame, situation)
        elif self._watch is Watch.RETAINED_GRAPH:
            self._look_at_retained(frame, situation)
        elif self._watch in _WRAPPER_WATCHES:
            self._look_at_wrapper(frame)
        elif self._watch in _GRADIENT_WATCHES and self._before is not None:
            self._before.after = self._gradients(frame, situation).before
            self.seen.gradients.append(self._before)
            self._before = None

    def left_loop(self) -> None:
        """The loop around the line has ended."""
        self._loops += 1

    def left_function(self) -> None:
        """The function of the line has ended."""
        situation = self._situation()
        if situation is not None and self in situation.active:
            situation.active.remove(self)

    # What the modules tell

    def forward_done(self, module: torch.nn.Module, output: object) -> None:
        """A forward pass of a whole model has ended while the line was running."""
        situation = self._situation()
        self.seen.forwards += 1
        if situation is None or not self._is_due(self.seen.forwards):
            return
        if self._watch in _FORWARD_WATCHES:
            self._look_at_graph(module, output, situation)
        elif self._watch in _OUTPUT_WATCHES:
            found = by_product_bytes(self._watch, output)
            if found is not None:
                self.seen.by_products.append(found)
        elif self._expects_argument:
            self._expects_argument = False
            self._expect_stray(output, situation)

    # Looking

    def _look_at_graph(self, module: torch.nn.Module, output: object, situation: Situation) -> None:
        weights = storage_keys(module.parameters())
        found = reach(output, leave_out=weights)
        graph = GraphSeen(
            self.seen.executions, situation.progress.step, len(found.nodes), found.saved_bytes, found.device_bytes
        )
        self.seen.graphs.append(graph)
        if not found.nodes:
            return
        self._note_where(found.storages.values(), situation)
        self._expect_backward([each.grad_fn for each in _outputs(output)], graph, found)

    def _look_at_root(self, frame: types.FrameType, situation: Situation) -> None:
        if not self._is_due(self.seen.executions):
            return
        for root in self.line.roots:
            known, value = _evaluated(root, frame)
            if known and not isinstance(value, types.ModuleType):
                self.seen.root = root
                self._sample(value, situation)
                return

    def _sample(self, value: object, situation: Situation) -> None:
        found = reach(value)
        items, limit = length(value)
        self.seen.samples.append(
            Sample(
                execution=self.seen.executions,
                step=situation.progress.step,
                epoch=self._loops + situation.progress.epoch,
                kind=type(value).__name__,
                items=items,
                limit=limit,
                tensors=found.tensors,
                device_bytes=found.device_bytes,
                viewed_bytes=sum(found.views[key] for key in found.held),
                saved_bytes=found.saved_bytes,
                nodes=len(found.nodes),
            )
        )
        self._note_where(found.storages.values(), situation)

    def _look_at_argument(self, frame: types.FrameType, situation: Situation) -> None:
        if not self._is_due(self.seen.executions):
            return
        for root in self.line.roots:
            known, value = _evaluated(root, frame)
            if known:
                self.seen.root = root
                self._expect_stray(value, situation)
                return
        self._expects_argument = True

    def _expect_stray(self, value: object, situation: Situation) -> None:
        found = reach(value)
        graph = GraphSeen(self.seen.executions, situation.progress.step, len(found.nodes), found.saved_bytes)
        self.seen.graphs.append(graph)
        if found.nodes:
            self._note_where(found.storages.values(), situation)
            self._stray.expect(graph, _outputs(value), found.leaves)

    def _expect_freed(self, frame: types.FrameType, situation: Situation) -> None:
        for root in self.line.roots:
            known, value = _evaluated(root, frame)
            if known:
                found = reach(value)
                self.seen.root = root
                self._named = [weakref.ref(found.storages[key]) for key in found.held]
                self._note_where((found.storages[key] for key in found.held), situation)
                return

    def backward_done(self) -> None:
        """Note what a backward pass has left of the named tensors, and in parameters."""
        self._stray.backward_done()
        if self._named:
            alive = (storage for each in self._named if (storage := each()) is not None)
            self.seen.after_backward.append(sum(storage.nbytes() for storage in alive))
            self._named = []

    def _look_at_wrapper(self, frame: types.FrameType) -> None:
        for root in self.line.roots:
            known, value = _evaluated(root, frame)
            if known and isinstance(value, torch.nn.parallel.DistributedDataParallel):
                self.seen.root = root
                self._wrapper = weakref.ref(value)
                if self._watch is Watch.OUTPUT_COPIES:
                    self._compare_outputs(value)
                return

    def _compare_outputs(self, wrapper: torch.nn.parallel.DistributedDataParallel) -> None:
        """Note for each forward pass what the wrapper returns beside what the model has returned to it."""
        own: set[int] = set()

        def inner(_: torch.nn.Module, __: object, output: object) -> None:
            own.clear()
            own.update(each.untyped_storage().data_ptr() for each in _outputs(output))

        def outer(_: torch.nn.Module, __: object, output: object) -> None:
            copies = [each for each in _outputs(output) if each.untyped_storage().data_ptr() not in own]
            self.seen.output_copies.append(sum(each.nbytes for each in copies))

        wrapper.module.register_forward_hook(inner)
        wrapper.register_forward_hook(outer)

    def gradients_begin(self, optimizer: TrackedOptimizer) -> None:
        """A backward is about to add to the gradients of an optimizer."""
        self._stray.gradients_begin(optimizer)

    def step_done(self, progress: Progress, optimizer: TrackedOptimizer) -> None:
        """An optimizer has used the gradients that there were."""
        self.settle(progress)
        self._stray.step_done(optimizer)
        wrapper = self._wrapper() if self._wrapper is not None else None
        if wrapper is not None and self._watch is Watch.GRADIENT_BUCKETS:
            self.seen.beside_buckets.append(_own_gradient_bytes(wrapper))

    def _look_at_retained(self, frame: types.FrameType, situation: Situation) -> None:
        for root in self.line.roots:
            known, value = _evaluated(root, frame)
            if known and isinstance(value, torch.Tensor):
                found = reach(value)
                self.seen.root = root
                saved = found.saved_bytes if found.saving else 0
                graph = GraphSeen(self.seen.executions, situation.progress.step, len(found.nodes), saved)
                self.seen.graphs.append(graph)
                if found.saving:
                    self._note_where(found.storages.values(), situation)
                    self._expect_backward(found.saving[:_MAX_HOOKED_NODES], graph, found)
                return

    def _expect_backward(self, nodes: Iterable[Any], graph: GraphSeen, found: Reach) -> None:
        leaves = [weakref.ref(leaf) for leaf in found.leaves]
        self._pending.append((graph, leaves))

        def runs(*_: object) -> None:
            graph.differentiated = True

        for node in nodes:
            if node is not None:
                node.register_prehook(runs)

    def _gradients(self, frame: types.FrameType, situation: Situation) -> GradientsSeen:
        holder = self._holder(frame)
        tracked = situation.progress.optimizers_of(holder)
        self._holder_optimizers |= {situation.progress.optimizers.index(each) for each in tracked}
        own = isinstance(holder, torch.nn.Module) or bool(list(parameters_of(holder)))
        parameters = _parameters(holder) if own else (each for some in tracked for each in some.parameters())
        return GradientsSeen(
            self.seen.executions,
            situation.progress.step,
            before=gradient_bytes(iter(parameters)),
            after=0,
            after_forward=any(each.forward_since_step for each in tracked),
            after_backward=any(each.backward_since_step for each in tracked),
        )

    def _holder(self, frame: types.FrameType) -> object:
        for root in self.line.roots:
            known, value = _evaluated(root, frame)
            if known:
                self.seen.root = root
                return value
        return None

    def _note_where(self, storages: Iterable[torch.UntypedStorage], situation: Situation) -> None:
        self.seen.where = {}
        for storage in storages:
            event = situation.memory.allocation_of(storage)
            if event is not None and event.stack is not None and event.stack.user is not None:
                place = str(event.stack.user)
                self.seen.where[place] = self.seen.where.get(place, 0) + storage.nbytes()

    @staticmethod
    def _is_due(count: int) -> bool:
        return count <= _EVERY or count % _SELDOM == 0

    def settle(self, progress: Progress) -> None:
        """Say of each graph that a backward has run over whether its gradients are of use to anybody."""
        for graph, references in self._pending:
            if graph.differentiated:
                leaves = (leaf for reference in references if (leaf := reference()) is not None)
                # What is no parameter was differentiated for its own sake, as in adversarial examples.
                graph.trains = any(not isinstance(leaf, torch.nn.Parameter) or progress.trains(leaf) for leaf in leaves)
        self._pending = [pending for pending in self._pending if not pending[0].differentiated]

    @property
    def holder_optimizers(self) -> list[int]:
        """The places of the optimizers that the line is about."""
        return sorted(self._holder_optimizers)


_GRADIENT_WATCHES = frozenset(
    {Watch.GRADIENTS_ADDED_TO, Watch.GRADIENTS_ZEROED, Watch.GRADIENTS_IN_FORWARD, Watch.GRADIENTS_DISCARDED}
)
_WRAPPER_WATCHES = frozenset({Watch.GRADIENT_BUCKETS, Watch.OUTPUT_COPIES})
_FORWARD_WATCHES = frozenset({Watch.FORWARD_GRAPH, Watch.LATER_GRAPHS})
_OUTPUT_WATCHES = frozenset({Watch.KEY_VALUE_CACHE, Watch.LAYER_OUTPUTS})
_SAMPLED_WATCHES = frozenset({Watch.REACHABLE, Watch.FILLED, Watch.SUMMED_GRAPHS, Watch.REGROWN})


class Lines:
    """All watched lines of a run."""

    def __init__(self, lines: Iterable[WatchedLine], budget: Budget) -> None:
        self.situation: Situation | None = None
        self.observers = [LineObserver(line, lambda: self.situation) for line in lines]
        self._budget = budget

    def follow(self) -> None:
        """Begin with what is to be followed."""
        if self.situation is not None:
            for each in self.observers:
                each.follow(self.situation.memory)

    def forward_done(self, module: torch.nn.Module, output: object) -> None:
        """Tell those whose line is running."""
        if self.situation is not None:
            for each in list(self.situation.active):
                each.forward_done(module, output)
            for each in self.observers:
                each.follow_forward(module, output)

    def step_done(self, optimizer: TrackedOptimizer) -> None:
        """Tell those who wait for the end of a graph."""
        if self.situation is not None:
            for each in self.observers:
                each.step_done(self.situation.progress, optimizer)

    def gradients_begin(self, optimizer: TrackedOptimizer) -> None:
        """Tell those who wait for what becomes of gradients."""
        for each in self.observers:
            each.gradients_begin(optimizer)

    def backward_done(self) -> None:
        """Tell those who wait for the end of a backward pass."""
        for each in self.observers:
            each.backward_done()

    @property
    def is_satisfied(self) -> bool:
        """Whether every line has run in as many steps as there are to be, or as often."""
        return all(each.seen.executions >= self._budget.steps for each in self.observers)


_PLAIN = (
    ast.Expression,
    ast.Name,
    ast.Attribute,
    ast.Subscript,
    ast.Constant,
    ast.UnaryOp,
    ast.USub,
    ast.Load,
)


@functools.cache
def _compiled(expression: str) -> types.CodeType | None:
    """Code for an expression that does nothing but look."""
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except SyntaxError:
        return None
    if not all(isinstance(node, _PLAIN) for node in ast.walk(tree)):
        return None
    return compile(tree, "<memlint>", "eval")


def _evaluated(expression: str, frame: types.FrameType) -> tuple[bool, object]:
    """Whether ``expression`` has a value in ``frame``, and the value."""
    code = _compiled(expression)
    if code is None:
        return False, None
    try:
        return True, eval(code, frame.f_globals, local_names(frame))
    except Exception:  # noqa: BLE001 - a name that is not bound yet, an index that is not there, a property that fails
        return False, None


def _parameters(holder: object) -> Iterable[torch.nn.Parameter]:
    return holder.parameters() if isinstance(holder, torch.nn.Module) else parameters_of(holder)


def _own_gradient_bytes(wrapper: torch.nn.parallel.DistributedDataParallel) -> int:
    """Bytes of the gradients that are no views of the buckets: their storages hold nothing else."""
    gradients = [each.grad for each in wrapper.parameters() if each.grad is not None]
    if wrapper.gradient_as_bucket_view and len(gradients) == 1:
        return 0
    return sum(each.nbytes for each in gradients if each.untyped_storage().nbytes() == each.nbytes)


def _outputs(output: object) -> list[torch.Tensor]:
    """The tensors in what a forward pass has returned."""
    if isinstance(output, torch.Tensor):
        return [output]
    if isinstance(output, dict):
        return [each for value in output.values() for each in _outputs(value)]
    if isinstance(output, (list, tuple)):
        return [each for value in output for each in _outputs(value)]
    return []
