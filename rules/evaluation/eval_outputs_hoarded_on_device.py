from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity
from memlint.model.attachment import keeps_graph
from memlint.model.containers import is_container, is_emptied_in, length_limit
from memlint.model.devices import may_use_accelerator
from memlint.model.downstream import Reach, reaches_gradient
from memlint.model.effects import Effect, region_effects
from memlint.model.footprint import (
    Footprint,
    footprint,
    is_compared_on_device,
    is_moved_to_host,
    is_partly_on_host,
)
from memlint.model.gradmode import evaluates_a_batch
from memlint.model.kinds import class_of
from memlint.model.loops import iterates_over_data, iterates_over_loader
from memlint.model.program import Program
from memlint.model.retention import Span, Stash, stashes, written_members
from memlint.model.source_text import code
from memlint.model.values import Call, Occurrence, Value
from memlint.rule import Rule


class EvalOutputsHoardedOnDevice(Rule):
    """The outputs of all batches of an evaluation are collected on the device.

    ## What it does
    Finds outputs of a model (logits, probabilities, features) that are put into a list or dict, batch after batch of a
    loader, without being moved to host memory: in loops outside of training, in the `*_step` hooks of a
    LightningModule and in the `on_*_batch_end` hooks of its callbacks. What is small (losses, class indices) is left
    alone.

    ## Why is this bad?
    There is no graph, but every batch's output stays on the device until the loop is over, and `torch.cat` then needs
    the same again: 32 MiB of outputs take 64 MiB (measured). For language models this is what fills the device during
    evaluation: 200,000 samples of 77 tokens over a vocabulary of 50,000 are 2.77 TiB
    ([transformers#10722](https://github.com/huggingface/transformers/issues/10722)).

    ## Example
    ```python
    with torch.no_grad():
        for x in loader:
            preds.append(model(x.cuda()))
    return torch.cat(preds).cpu()
    ```

    ## Use instead
    ```python
    with torch.no_grad():
        for x in loader:
            preds.append(model(x.cuda()).cpu())
    return torch.cat(preds)
    ```

    ## Fix safety
    Unsafe: `.cpu()` waits for the device in every iteration, and what is made of the list is then in host memory.

    ## When to ignore
    When all outputs together are small, or are needed on the device, as in retrieval, where all are compared with all
    (memlint reports that as a note if it sees the product).

    ## References
    - [transformers#10722](https://github.com/huggingface/transformers/issues/10722)
    """

    code = "MEM604"
    name = "eval-outputs-hoarded-on-device"
    severity = Severity.WARNING
    gate = frozenset({"append", "extend", "appendleft", "add", "insert", "put", "update", "torch", "model"})
    fixers = ("call_method",)
    positive = (
        """
import torch
from torch.utils.data import DataLoader
def predict(model: torch.nn.Module, dataset):
    model.cuda().eval()
    preds = []
    with torch.no_grad():
        for batch in DataLoader(dataset, batch_size=32):
            preds.append(model(batch.cuda()))  # MEM604: 26
    return torch.cat(preds)
""",
        """
import torch
@torch.inference_mode()
def evaluate(model: torch.nn.Module, samples, batch_size, device):
    model.eval()
    scores, labels = [], []
    for start in range(0, len(samples), batch_size):
        x, y = collate(samples[start : start + batch_size])
        logits = model(x.to(device))
        probabilities = torch.softmax(logits, dim=-1)
        scores.append(probabilities)  # MEM604: 23
        labels.extend(y.tolist())
    return torch.cat(scores).cpu().numpy(), labels
""",
        """
import torch
from accelerate import Accelerator
def gather_logits(model: torch.nn.Module, loader: torch.utils.data.DataLoader):
    accelerator = Accelerator()
    model, loader = accelerator.prepare(model, loader)
    collected = {"logits": [], "labels": []}
    for batch in loader:
        with torch.no_grad():
            outputs = model(**batch)
        logits, labels = accelerator.gather_for_metrics((outputs.logits, batch["labels"]))
        collected["logits"].append(logits)  # MEM604: 36
        collected["labels"].append(labels.cpu())
    return torch.cat(collected["logits"]).float().cpu()
""",
        """
import torch, tqdm
class Encoder(torch.nn.Module):
    def __init__(self, net: torch.nn.Module):
        super().__init__()
        self.net = net
    def forward(self, x):
        return {"features": self.net(x), "mask": None}
    def encode(self, loader: torch.utils.data.DataLoader, bar=True):
        self.eval()
        iterator = loader
        if bar:
            iterator = tqdm.tqdm(loader, desc="batches")
        found = []
        for batch in iterator:
            with torch.no_grad():
                features = self.forward(batch.to("cuda"))["features"]
                found.extend(features)  # MEM604: 30
        return [each.cpu().numpy() for each in found]
""",
        """
import torch
import lightning as L
class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 2)
        self.outputs = []
    def test_step(self, batch, index):
        x, y = batch
        self.outputs.append((self.net(x), y.cpu()))  # MEM604: 30
    def on_test_epoch_end(self):
        self.outputs.clear()
class Writer(L.pytorch.callbacks.BasePredictionWriter):
    def __init__(self):
        super().__init__(write_interval="epoch")
        self.predictions = []
    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.predictions.append(outputs)  # MEM604: 33
""",
        """
import torch
def log_probs(model: torch.nn.Module, x):
    scores = model(x).logits.log_softmax(-1)
    return scores.sum(-1), scores
def reference(model, loader: torch.utils.data.DataLoader):
    model.cuda()
    kept = []
    for x in loader:
        with torch.no_grad():
            total, scores = log_probs(model, x.cuda())
        kept.append(total)  # MEM604: 21
    return torch.cat(kept).cpu().numpy()
""",
        """
import torch
def predict(process, loader: torch.utils.data.DataLoader):
    outputs = []
    with torch.no_grad():
        for batch in loader:
            output = process.forward(batch.to("cuda"))
            if isinstance(output, torch.Tensor):
                outputs.append(output)  # MEM604: 32
            else:
                outputs.append([each.cpu() for each in output])
    return outputs
""",
    )
    negative = (
        """
import torch
from torch.utils.data import DataLoader
@torch.no_grad()
def evaluate(model: torch.nn.Module, dataset, crit, metric):
    model.cuda()
    host, classes, losses, flags, tops, numbers = [], [], [], [], [], []
    for x, y in DataLoader(dataset):
        out = model(x.cuda())
        host.append(out.cpu())
        host.append(out.to("cpu"))
        host.append(out.to(torch.device("cpu"), non_blocking=True))
        host.extend(out.detach().cpu().numpy())
        classes.append(out.argmax(dim=1))
        tops.append(torch.max(out, 1)[1])
        _, best = out.max(1)
        classes.append(best)
        flags.append(best == y.cuda())
        losses.append(torch.nn.functional.cross_entropy(out, y.cuda()))
        losses.append(out.mean())
        numbers.append(out.sum().item())
        metric.update(out, y)
    return host, classes, losses
""",
        """
import torch
from torch.utils.data import DataLoader
@torch.no_grad()
def last(model: torch.nn.Module, dataset):
    model.cuda()
    for x in DataLoader(dataset):
        features = []
        for layer in model.layers:
            x = layer(x.cuda())
            features.append(x)
        print(torch.cat(features).mean().item())
    steps = []
    for t in range(10):
        steps.append(model(torch.zeros(1, 4).cuda()))
    return torch.stack(steps)
""",
        """
import collections, torch
from torch.utils.data import DataLoader
@torch.no_grad()
def smooth(model: torch.nn.Module, dataset):
    model.cuda()
    window, chunk = collections.deque(maxlen=5), []
    for x in DataLoader(dataset):
        window.append(model(x.cuda()))
        chunk.append(model(x.cuda()))
        if len(chunk) == 8:
            print(torch.cat(chunk).mean().item())
            chunk.clear()
""",
        """
import torch
from torch.utils.data import DataLoader
def train(model: torch.nn.Module, dataset, optimizer):
    model.cuda()
    outputs = []
    for x in DataLoader(dataset):
        out = model(x.cuda())
        out.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        outputs.append(out.detach())
    return outputs
def policy_gradient(model: torch.nn.Module, dataset, optimizer):
    log_probs = []
    for x in DataLoader(dataset):
        log_probs.append(model(x.cuda()).log_softmax(-1))
    torch.cat(log_probs).mean().backward()
    optimizer.step()
""",
        """
import torch
from torch.utils.data import DataLoader
@torch.no_grad()
def predict(model: torch.nn.Module, dataset):
    preds = []
    for batch in DataLoader(dataset, batch_size=32):
        preds.append(model(batch))
    return torch.cat(preds)
""",
        """
import torch
@torch.no_grad()
def render(model: torch.nn.Module, rays, chunk):
    model.cuda()
    colours = []
    for start in range(0, rays.shape[0], chunk):
        colours.append(model(rays[start : start + chunk]))
    return torch.cat(colours)
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for function in program.functions:
            for stash in stashes(function):
                over_data = _collects_over_data(stash)
                if over_data is None:
                    continue
                for member in written_members(stash.occurrence):
                    confidence = _confidence(stash, member.value, over_data)
                    if confidence is not None:
                        yield self._finding(stash, member, confidence)

    def _finding(self, stash: Stash, member: Occurrence, confidence: Confidence) -> Finding:
        holder = stash.insertion.holder
        small = footprint(member.value) < Footprint.FULL or is_compared_on_device(stash.insertion.container)
        move = Fix(
            "call_method",
            f"Move `{code(member.node)}` to host memory before it is kept",
            Applicability.UNSAFE,
            {"expression": member.node},
            {"method": "cpu"},
        )
        return self.finding(
            member.node,
            f"`{code(member.node)}` stays on the device in `{code(holder)}`, for every batch of the data set",
            holds="the outputs for the whole data set on the device, twice while they are concatenated",
            confidence=confidence,
            severity=Severity.NOTE if small else None,
            fixes=(move,),
            claim=Claim(ClaimShape.GROWS, "device", "numel * itemsize", holder=holder, held=member.node),
        )


def _collects_over_data(stash: Stash) -> Confidence | None:
    """How sure it is that the container is filled batch by batch, outside of the steps of training."""
    event, loop = stash.insertion.event, stash.loop
    if length_limit(stash.insertion.container) is not None or not _keeps_all(stash):
        return None
    if stash.span is Span.CALL and evaluates_a_batch(event.region.function):
        return Confidence.LIKELY
    if stash.span is not Span.ITERATION or loop is None or region_effects(loop) & Effect.BACKWARD:
        return None
    return None if is_emptied_in(stash.insertion.container, loop) else iterates_over_data(loop)


def _keeps_all(stash: Stash) -> bool:
    """Whether the container keeps what it is given: metrics and writers have ``update`` and ``add`` as well."""
    event, container = stash.insertion.event, stash.insertion.container
    if class_of(container) is not None:
        return False
    return not isinstance(event, Call) or event.method in {"append", "appendleft", "extend"} or is_container(container)


def _confidence(stash: Stash, kept: Value, over_data: Confidence) -> Confidence | None:
    """How sure it is that ``kept`` is held on a device for nothing; None if it is small or needed there."""
    size = footprint(kept)
    container = stash.insertion.container
    if size < Footprint.REDUCED:
        return None
    reach = reaches_gradient(container)
    if reach is Reach.YES:
        return None
    unsure = keeps_graph(kept) and reach is Reach.UNKNOWN
    if unsure or not may_use_accelerator(stash.insertion.event.region.function):
        return Confidence.POSSIBLE
    if is_moved_to_host(container):
        return Confidence.weakest(over_data, Confidence.CERTAIN if size is Footprint.FULL else Confidence.LIKELY)
    if size is not Footprint.FULL:
        return Confidence.POSSIBLE
    # Outputs for slices of one tensor may be needed where they are, unless others beside them are in host memory.
    return Confidence.LIKELY if _is_loader(stash) or is_partly_on_host(container) else Confidence.POSSIBLE


def _is_loader(stash: Stash) -> bool:
    loop = stash.loop
    return loop is None or stash.span is Span.CALL or iterates_over_loader(loop)
