"""MEM904."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity
from memlint.model.aliases import qualified_names, sources
from memlint.model.effects import Effect, region_effects
from memlint.model.loops import is_cut_short, iterates_over_data
from memlint.model.program import Program
from memlint.model.requests import runs_unasked
from memlint.model.settings import option
from memlint.model.source_text import code
from memlint.model.values import Call, Entered, Loop, Value, With
from memlint.rule import Rule


class ProfilerWithoutSchedule(Rule):
    """A profiler records every step of a loop, and keeps all of its events in host memory.

    ## What it does
    Finds `torch.profiler.profile(...)` around a whole loop over data or training steps without a `schedule`, or with
    one that never advances because `step()` is not called. Loops that end early (`break`, `islice`, a short `range`)
    are left out. So is `profiler="pytorch"` of Lightning, which has a schedule of its own.

    ## Why is this bad?
    The profiler buffers each operation until it stops: 1.07 MB of host memory for each step of a network of 50 layers,
    48 kB in place of that with a schedule (measured, with shapes and memory recorded). Runs end by the host's
    out-of-memory killer, or in a trace that nothing can open.

    ## Example
    ```python
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for batch in loader:
            train_step(batch)
    ```

    ## Use instead
    ```python
    steps = torch.profiler.schedule(wait=1, warmup=1, active=3, repeat=1)
    with profile(activities=[ProfilerActivity.CUDA], schedule=steps) as profiler:
        for batch in loader:
            train_step(batch)
            profiler.step()
    ```

    ## Fix safety
    Unsafe: the trace then holds three steps instead of all. The fix is offered where `step()` is called already, or
    where only that call is missing.

    ## When to ignore
    When the loop is known to be short.

    ## References
    - [torch.profiler](https://docs.pytorch.org/docs/stable/profiler.html)
    - [Lightning#10717](https://github.com/Lightning-AI/pytorch-lightning/issues/10717),
      [GEAK#403](https://github.com/AMD-AGI/GEAK/pull/403) (killed at 512 GiB)
    """

    code = "MEM904"
    name = "profiler-without-schedule"
    severity = Severity.WARNING
    gate = frozenset({"profile"})
    fixers = ("add_argument", "insert_statement")
    positive = (
        """
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader
def main(data, step):
    loader = DataLoader(data)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:  # MEM904: 10
        for batch in loader:
            step(batch)
    profiler.export_chrome_trace("trace.json")
""",
        """
import torch
def train(model, loader, optimizer):
    with torch.profiler.profile(record_shapes=True) as p:  # MEM904
        for x, y in loader:
            optimizer.zero_grad()
            model(x).sum().backward()
            optimizer.step()
            p.step()
""",
        """
import torch
def train(model, loader, optimizer):
    when = torch.profiler.schedule(wait=1, warmup=1, active=3)
    with torch.profiler.profile(schedule=when) as p:  # MEM904
        for x, y in loader:
            optimizer.zero_grad()
            model(x).sum().backward()
            optimizer.step()
""",
        """
import torch
def train(model, loader, optimizer):
    profiler = torch.profiler.profile(with_stack=True)  # MEM904
    profiler.start()
    for x, y in loader:
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()
    profiler.stop()
""",
        """
import torch
def train(model, loader, optimizer, args):
    if args.profile:
        with torch.profiler.profile() as p:  # MEM904?
            for x, y in loader:
                optimizer.zero_grad()
                model(x).sum().backward()
                optimizer.step()
    else:
        for x, y in loader:
            optimizer.zero_grad()
            model(x).sum().backward()
            optimizer.step()
""",
    )
    negative = (
        """
import torch
def train(model, loader, optimizer):
    when = torch.profiler.schedule(wait=1, warmup=1, active=3)
    with torch.profiler.profile(schedule=when) as p:
        for x, y in loader:
            optimizer.zero_grad()
            model(x).sum().backward()
            optimizer.step()
            p.step()
""",
        """
import torch
from itertools import islice
def train(model, loader, optimizer):
    with torch.profiler.profile() as p:
        for i, (x, y) in enumerate(loader):
            model(x).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            if i > 10:
                break
    with torch.profiler.profile() as p:
        for x, y in islice(loader, 10):
            model(x).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    with torch.profiler.profile() as p:
        for _ in range(10):
            model(x).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
""",
        """
import torch
def look(model, x):
    with torch.profiler.profile(record_shapes=True) as p:
        model(x).sum().backward()
    print(p.key_averages().table())
    with torch.autograd.profiler.emit_nvtx():
        for layer in model.layers:
            x = layer(x)
""",
        """
import cProfile
def train(loader, step):
    with cProfile.Profile() as profile:
        for batch in loader:
            step(batch)
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for call in program.calls():
            if qualified_names(call.callee) & _PROFILERS:
                loop = _profiled_loop(call)
                if loop is not None:
                    yield from self._profiled(call, loop)

    def _profiled(self, call: Call, loop: Loop) -> Iterator[Finding]:
        schedule = option(call, "schedule")
        schedule_given = bool(schedule.others) or any(known.constant is not None for known in schedule.known)
        steps = any(_is_step_of(other, call) for other in call.function.calls)
        if schedule_given and (steps or _leaves(call)):
            return
        confidence = Confidence.LIKELY if runs_unasked(call.region) is not None else Confidence.POSSIBLE
        without = "a schedule that nothing advances" if schedule_given else "no schedule"
        yield self.finding(
            call.node,
            f"The profiler has {without}: it keeps the events of every step until it stops",
            holds="the events of all steps in host memory, about 1 MB for each step of 50 layers",
            confidence=confidence,
            fixes=tuple(_fixes(call, loop, steps, schedule_given)),
            claim=Claim(
                ClaimShape.GROWS,
                "host",
                "1 MB per step",
                held=call.node,
                unobservable="the events lie in buffers of the profiler, and recording them adds to their number",
            ),
        )


_PROFILERS = frozenset({"torch.profiler.profile", "torch.profiler.profiler.profile"})


def _profiled_loop(call: Call) -> Loop | None:
    """The loop over data or training steps that runs to its end while the profiler records."""
    for loop in call.function.loops:
        if not _is_recorded(call, loop) or is_cut_short(loop):
            continue
        if iterates_over_data(loop) is not None or region_effects(loop) & (Effect.BACKWARD | Effect.STEP):
            return loop
    return None


def _is_recorded(call: Call, loop: Loop) -> bool:
    """Whether a loop runs inside the ``with`` of the profiler, or between its ``start()`` and its end."""
    if any(isinstance(region, With) and _enters(region, call) for region in loop.ancestors()):
        return True
    starts = [other for other in call.function.calls if other.method == "start" and _is_of(other.receiver, call)]
    return any(loop.first >= start.order and loop.within(start.region) for start in starts)


def _enters(region: With, call: Call) -> bool:
    return any(call in sources(context) for context in region.contexts)


def _is_of(receiver: Value | None, call: Call) -> bool:
    found = sources(receiver) if receiver is not None else ()
    return any(s is call or (isinstance(s, Entered) and call in sources(s.context)) for s in found)


def _is_step_of(other: Call, call: Call) -> bool:
    return other.method == "step" and _is_of(other.receiver, call)


def _leaves(call: Call) -> bool:
    """Whether the profiler is handed on, to code that may call ``step()``."""
    return any(
        _is_of(argument.value, call)
        for other in call.function.calls
        if other is not call
        for argument in other.arguments
    )


def _fixes(call: Call, loop: Loop, steps: bool, schedule_given: bool) -> Iterator[Fix]:
    if steps and not schedule_given and not call.is_open and call.argument("schedule") is None:
        yield Fix(
            "add_argument",
            "Record three steps",
            Applicability.UNSAFE,
            {"call": call.node},
            {"code": f"schedule={_SCHEDULE}", "import": "torch"},
        )
    name = _name(call)
    body = loop.node.body if isinstance(loop.node, (cst.For, cst.While)) else None
    if schedule_given and name is not None and isinstance(body, cst.IndentedBlock) and body.body:
        yield Fix(
            "insert_statement",
            f"Advance the schedule after each step with `{name}.step()`",
            Applicability.UNSAFE,
            {"statement": body.body[-1]},
            {"code": f"{name}.step()"},
        )


_SCHEDULE = "torch.profiler.schedule(wait=1, warmup=1, active=3, repeat=1)"


def _name(call: Call) -> str | None:
    """The name by which the body of the ``with`` knows the profiler."""
    for store in call.function.stores:
        if isinstance(store.target, cst.Name) and _is_of(store.value, call):
            return code(store.target)
    return None
