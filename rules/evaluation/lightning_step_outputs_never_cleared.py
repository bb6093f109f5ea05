from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity
from memlint.model.attachment import certainty
from memlint.model.containers import length_limit
from memlint.model.detaching import attached_members, detach_fixes, written_members
from memlint.model.footprint import Footprint, footprint, host_footprint
from memlint.model.holding import holding
from memlint.model.program import Program
from memlint.model.retention import retention_confidence
from memlint.model.source_text import code, written
from memlint.model.spans import Span
from memlint.model.stashes import Stash, collects_step_outputs, stashes
from memlint.model.step_outputs import collecting_attribute, epoch_end_of, is_emptied, kept_until_epoch_end
from memlint.model.values import Attribute, Constant, Item, Occurrence, Parameter, Value
from memlint.rule import Rule


class LightningStepOutputsNeverCleared(Rule):
    """A step of a LightningModule collects outputs in an attribute that nothing clears, or with their graph.

    ## What it does
    Finds attributes of a LightningModule to which `training_step`, `validation_step`, `test_step` or `predict_step`
    append tensors, and which no hook, method or other code of the project clears or replaces; and what is appended in
    `training_step` with its autograd graph, or returned from it beside the loss where the class has the
    `training_epoch_end(outputs)` of Lightning 1.

    ## Why is this bad?
    Lightning 2 removed `training_epoch_end(outputs)` and its kin. Their replacement is an attribute that the steps
    append to and a hook reads at the end of the epoch; if that hook does not clear it, the outputs of all epochs stay,
    on the device or, after `.cpu()`, in host memory (a warning). With the old hook Lightning keeps the outputs of an
    epoch itself, and from 1.6 on it detaches the loss only.
    Appended with its graph, an auxiliary output of `training_step` keeps the activations of its step (1.0 MiB for each
    step in a small model, measured); the loss that the step returns keeps its autograd nodes in host memory.

    ## Example
    ```python
    def validation_step(self, batch, index):
        self.outputs.append(self(batch))
    def on_validation_epoch_end(self):
        self.log("score", score(torch.cat(self.outputs)))
    ```

    ## Use instead
    ```python
    def on_validation_epoch_end(self):
        self.log("score", score(torch.cat(self.outputs)))
        self.outputs.clear()
    ```

    ## Fix safety
    `.detach()` is safe: value, type and device stay. Clearing at the end of the epoch is unsafe, since code that
    memlint does not see may read the attribute later. So is keeping a copy of a dict whose tensors are detached.

    ## When to ignore
    When code outside of the project clears the attribute.

    ## References
    - [Lightning#16520](https://github.com/Lightning-AI/pytorch-lightning/pull/16520) (the removal),
      [discussion 17182](https://github.com/Lightning-AI/pytorch-lightning/discussions/17182)
    - [Lightning#8453](https://github.com/Lightning-AI/pytorch-lightning/issues/8453),
      [Lightning#5735](https://github.com/Lightning-AI/pytorch-lightning/issues/5735)
    - [pdearena#4](https://github.com/pdearena/pdearena/pull/4) (`training_epoch_end`: 7.6 to 23 GB in 4,800 steps)
    """

    code = "MEM607"
    name = "lightning-step-outputs-never-cleared"
    severity = Severity.ERROR
    gate = frozenset({"training_step", "validation_step", "test_step", "predict_step"})
    fixers = ("call_method", "insert_at_end", "replace_expression")
    positive = (
        """
import torch
import pytorch_lightning as pl
class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 2)
    def training_step(self, batch, index):
        out = self.net(batch["x"])
        loss = torch.nn.functional.mse_loss(out, batch["y"])
        parts = (out - batch["y"]).abs().mean()
        return {
            "loss": loss,
            "parts": parts,  # MEM607: 22
            "count": len(batch["x"]),
            "detached": parts.detach(),
        }
    def training_epoch_end(self, outputs):
        self.log("parts", torch.stack([each["parts"] for each in outputs]).mean())
""",
        """
import torch
import lightning as L
class Net(L.LightningModule):
    def __init__(self, net: torch.nn.Module):
        super().__init__()
        self.net = net
        self.outputs = []
        self.arrays = []
        self.scores = []
    def validation_step(self, batch, index):
        out = self.net(batch)
        self.outputs.append(out.cpu())  # MEM607: 9
        self.arrays.append({"logits": out.detach().cpu().float().numpy()})  # MEM607: 9
        self.scores.append(out.mean().item())
    def on_validation_epoch_end(self):
        self.log("score", torch.cat(self.outputs).mean() + len(self.arrays) + sum(self.scores))
""",
        """
import torch
import lightning as L
class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 2)
        self.outputs = []
    def validation_step(self, batch, index):
        out = self.net(batch["x"])
        self.outputs.append(out)  # MEM607: 9
    def on_validation_epoch_end(self):
        self.log("mean", torch.cat(self.outputs).mean())
""",
        """
import torch
import pytorch_lightning as pl
class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 2)
        self.train_outputs = []
    def training_step(self, batch, index):
        out = self.net(batch["x"])
        loss = torch.nn.functional.cross_entropy(out, batch["y"])
        self.train_outputs.append({"loss": loss, "aux": self.net(batch["z"]).norm()})  # MEM607: 44 MEM607: 57
        return loss
    def on_train_epoch_end(self):
        self.log("train", torch.stack([each["loss"] for each in self.train_outputs]).mean())
        self.train_outputs.clear()
""",
        """
import torch
from lightning.pytorch import LightningModule
class Net(LightningModule):
    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model
        self.collected = {"val": [], "test": []}
    def shared(self, batch):
        logits = self.model(**batch).logits
        return {"logits": logits, "labels": batch["labels"]}
    def validation_step(self, batch, index):
        self.collected["val"] += [self.shared(batch)]  # MEM607: 9
    def test_step(self, batch, index, dataloader_idx=0):
        if index:
            self.collected["test"].append(self.shared(batch)["logits"].cpu())  # MEM607: 13
    def on_validation_epoch_end(self):
        if self.trainer.sanity_checking:
            return
        print(len(self.collected["val"]))
""",
        """
import torch
import lightning.pytorch as pl
class Base(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.predictions = list()
        self.history = []
    def on_fit_start(self):
        self.predictions = []
class Net(Base):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(2, 2)
    def predict_step(self, batch, index):
        try:
            scores = self.head(batch)
        except RuntimeError:
            return None
        self.predictions.append(scores.softmax(-1))  # MEM607: 9
        return scores
    def training_step(self, batch, index):
        loss = self.head(batch).mean()
        self.history.append(loss)  # MEM607: 9 MEM607: 29
        return loss
    def on_train_epoch_end(self):
        if len(self.history) > 10:
            print(sum(self.history))
        return None
""",
    )
    negative = (
        """
import torch
import pytorch_lightning as pl
class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 2)
    def training_step(self, batch, index):
        out = self.net(batch["x"])
        return {"loss": out.mean(), "log": {"largest": out.max()}, "parts": out.detach().abs().mean()}
    def training_epoch_end(self, outputs):
        self.log("parts", torch.stack([each["parts"] for each in outputs]).mean())
class Plain(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 2)
    def training_step(self, batch, index):
        out = self.net(batch["x"])
        return {"loss": out.mean(), "out": out}
""",
        """
import torch
import lightning as L
class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 2)
        self.outputs, self.labels, self.last, self.numbers = [], [], [], []
        self.by_loader = {}
    def validation_step(self, batch, index, dataloader_idx=0):
        out = self.net(batch["x"])
        self.outputs.append(out)
        self.labels.append(batch["y"])
        self.last.append(out)
        self.numbers.append(out.mean().item())
        self.by_loader.setdefault(dataloader_idx, []).append(out)
        losses = []
        losses.append(out)
        self.log("loss", torch.stack(losses).mean())
    def on_validation_epoch_start(self):
        self.last = []
    def on_validation_epoch_end(self):
        self.log("mean", torch.cat(self.outputs).mean())
        for collected in (self.outputs, self.labels):
            collected.clear()
        self.reset()
    def reset(self):
        self.by_loader = {}
""",
        """
import collections, torch
import pytorch_lightning as pl
class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 2)
        self.recent = collections.deque(maxlen=16)
        self.outputs = []
        self.losses = []
    def training_step(self, batch, index):
        loss = self.net(batch).mean()
        self.losses.append(loss.detach())
        self.recent.append(loss.detach())
        return {"loss": loss, "pred": self.net(batch).detach()}
    def test_step(self, batch, index):
        self.outputs.append(self.net(batch).argmax(-1))
        if len(self.outputs) > 8:
            self.outputs.pop(0)
    def on_train_epoch_end(self):
        print(torch.stack(self.losses).mean())
        del self.losses[:]
""",
        """
import torch
import lightning as L
class Queue:
    def __init__(self, size):
        self.items, self.size = [], size
    def append(self, item):
        self.items = [*self.items[-self.size :], item]
class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 2)
        self.media = Queue(4)
    def validation_step(self, batch, index):
        self.media.append(self.net(batch))
""",
        """
import torch
class Engine:
    def __init__(self, net):
        self.net = net
        self.outputs = []
    def validation_step(self, batch):
        self.outputs.append(self.net(batch))
""",
        """
import torch
import lightning as L
class Collector(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 2)
        self.val_outputs = []
        self.test_outputs = []
    def validation_step(self, batch, index):
        self.val_outputs.append(self.net(batch))
    def on_validation_epoch_end(self):
        self.finish("val")
    def finish(self, stage):
        print(len(getattr(self, f"{stage}_outputs")))
        setattr(self, f"{stage}_outputs", [])
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for function in program.functions:
            for stash in stashes(function):
                collector = collecting_attribute(stash.insertion.container) if collects_step_outputs(stash) else None
                if collector is not None:
                    yield from self._never_cleared(stash, collector)
                    yield from self._attached(stash)
            for entry in kept_until_epoch_end(function):
                for member in attached_members(entry):
                    yield self._kept(member, "by Lightning for `training_epoch_end`", certainty(member.value))

    def _attached(self, stash: Stash) -> Iterator[Finding]:
        container, holder = stash.insertion.container, stash.insertion.holder
        for member in attached_members(stash.occurrence):
            if not isinstance(member.value, Parameter):
                confidence = retention_confidence(container, member.value, Span.CALL, None)
                if confidence is not None:
                    yield self._kept(member, f"in `{code(holder)}`", confidence, container, holder)

    def _kept(
        self,
        member: Occurrence,
        where: str,
        confidence: Confidence,
        container: Value | None = None,
        holder: cst.CSTNode | None = None,
    ) -> Finding:
        held = holding(member.value, per="step")
        return self.finding(
            member.node,
            f"`{code(member.node)}` is kept {where} with its autograd graph",
            holds=held.phrase,
            confidence=confidence,
            severity=held.severity,
            fixes=detach_fixes(member, container),
            claim=Claim(held.shape, held.memory, held.size, holder=holder, held=member.node),
        )

    def _never_cleared(self, stash: Stash, collector: Attribute) -> Iterator[Finding]:
        members = written_members(stash.occurrence)
        on_device = max(footprint(member.value) for member in members)
        size = max(on_device, *(host_footprint(member.value) for member in members))
        memory = "host" if on_device is Footprint.NONE else "device"
        emptied = is_emptied(collector)
        if emptied or size is Footprint.NONE or length_limit(stash.insertion.container) is not None:
            return
        known = emptied is False and size is not Footprint.UNKNOWN
        holder = stash.insertion.holder
        yield self.finding(
            holder,
            f"`{code(holder)}` grows in every epoch: nothing clears it",
            holds="what the steps of all epochs append" + (", in host memory" if memory == "host" else ""),
            confidence=Confidence.CERTAIN if known else Confidence.POSSIBLE,
            severity=None if on_device >= Footprint.REDUCED else Severity.WARNING,
            fixes=_clearing(stash),
            claim=Claim(ClaimShape.GROWS, memory, "numel * itemsize", holder=holder, held=stash.insertion.node),
        )


def _clearing(stash: Stash) -> tuple[Fix, ...]:
    """The fix that clears the collector at the end of the epoch, if the class has the hook."""
    hook = epoch_end_of(stash.insertion.event.region.function)
    container = stash.insertion.container
    if hook is None or not isinstance(hook.node, cst.FunctionDef) or _is_one_of_many(container):
        return ()
    statement = f"{written(stash.insertion.holder)}.clear()"
    return (
        Fix(
            "insert_at_end",
            f"Clear it at the end of `{hook.name}`",
            Applicability.UNSAFE,
            {"function": hook.node},
            {"code": statement},
        ),
    )


def _is_one_of_many(container: object) -> bool:
    """Whether it is an item at an index that only the step knows: ``self.outputs[key]``."""
    return isinstance(container, Item) and not all(isinstance(index, Constant) for index in container.index)
