"""MEM102."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Claim, Confidence, Finding, Severity
from memlint.model.accumulations import Accumulation, accumulations, concatenates, is_sum
from memlint.model.attachment import certainty, keeps_graph
from memlint.model.containers import is_consumed, is_emptied_in, length_limit
from memlint.model.detaching import attached_members, detach_fixes
from memlint.model.downstream import Reach, reaches_gradient
from memlint.model.holding import holding
from memlint.model.keepings import kept_by
from memlint.model.knowledge.torch import GRAPH_WORDS
from memlint.model.program import Program
from memlint.model.records import forgotten_entries
from memlint.model.retention import is_made_anew, is_replaced_before, retention_confidence
from memlint.model.source_text import code
from memlint.model.spans import Span
from memlint.model.stashes import Stash, collects_step_outputs, gathered, is_built_for_callers, slot_stashes, stashes
from memlint.model.values import Call, Occurrence, Parameter, Value
from memlint.rule import Rule


class AttachedTensorStashed(Rule):
    """A tensor is put into a container with its autograd graph and outlives the iteration.

    ## What it does
    Finds tensors that carry a graph and go into a list, dict, set, deque or queue that is older than the iteration (or
    belongs to the object): `preds.append(out)`, `losses += [loss]`, `history["logits"].append(out)`, and calls of a
    buffer's `push(out)` when the buffer keeps what it is given.

    Also finds entries of a record (a dict of values to log) that carry their graph while their neighbours are detached
    by hand.

    ## Why is this bad?
    The container keeps the graph of every iteration. Without a backward over it, that is every activation of the
    forward pass; after a backward, the tensor itself and its autograd nodes. `.cpu()` does not help: the copy keeps the
    graph, and with it the device tensors.

    ## Example
    ```python
    for x, y in loader:
        out = model(x)
        preds.append(out.cpu())
    ```

    ## Use instead
    ```python
        preds.append(out.detach().cpu())
    ```

    ## Fix safety
    Safe: `.detach()` keeps value, type and device. It is not offered for what is differentiated later. For a dict of
    outputs the fix is unsafe: a copy of the dict is kept, whose tensors are detached, and not the dict itself.

    ## When to ignore
    When what is collected is differentiated later (policy gradients, several losses and one backward); memlint sees
    that when the backward is within the project.

    ## References
    - [PyTorch FAQ: don't accumulate history across your training loop](https://docs.pytorch.org/docs/stable/notes/faq.html)
    - [packnet-sfm#51](https://github.com/TRI-ML/packnet-sfm/pull/51),
      [pdearena#4](https://github.com/pdearena/pdearena/pull/4)
    """

    code = "MEM102"
    name = "attached-tensor-stashed"
    severity = Severity.ERROR
    gate = GRAPH_WORDS
    fixers = ("call_method", "replace_expression")
    positive = (
        """
import torch
from torch import nn
class Decoders(nn.Module):
    def __init__(self):
        super().__init__()
        self.selector = nn.Linear(3, 3)
        self.decoders = nn.ModuleList([nn.Linear(3, 8), nn.Linear(3, 8)])
    def forward(self, batch):
        scores = self.selector(batch)
        waves = torch.zeros(len(batch), 8)
        for i in range(len(batch)):
            waves[i] = self.decoders[scores[i].argmax()](batch[i])  # MEM102?
        return waves, scores
""",
        """
import torch
import torch.nn.functional as F
from rewards import get_reward
def train(accelerator, model, optimizer, loader: torch.utils.data.DataLoader, steps):
    losses, margins = torch.zeros(steps), torch.zeros(steps)
    for index, data in enumerate(loader):
        _, reward, _ = get_reward(model, data)
        chosen, rejected = reward[:4], reward[4:]
        loss = -F.logsigmoid(chosen - rejected).mean()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses[index % steps] = loss  # MEM102: 33
        margins[index % steps] = (chosen - rejected).mean()  # MEM102: 34
    return losses.mean().item(), margins.mean().item()
""",
        """
import torch
from torch import nn
def predict(model: nn.Module, samples):
    kept = []
    for piece in samples.split(128):
        kept.append(model(piece))  # MEM102
    return torch.cat(kept).argmax(1)
""",
        """
import torch
from torch import nn

def predict(loader):
    model = nn.Linear(3, 3)
    preds, copies = [], []
    history = {"logits": []}
    for x in loader:
        out = model(x)
        preds.append(out)  # MEM102: 22
        copies.append(out.cpu())  # MEM102: 23
        history["logits"].append(out)  # MEM102: 34
    torch.cat(preds).detach().numpy()
""",
        """
def train(model, loader, opt, crit):
    losses = []
    for x, y in loader:
        loss = crit(model(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        losses += [loss]  # MEM102: 20
    return losses
""",
        """
from torch import nn

class Buffer:
    def __init__(self):
        self.data = []

    def push(self, state, log_prob):
        self.data.append((state, log_prob))

def collect(env, steps):
    policy = nn.Linear(3, 3)
    buffer = Buffer()
    for _ in range(steps):
        state = env.state()
        log_prob = policy(state)
        buffer.push(state, log_prob)  # MEM102: 28
""",
        """
from collections import deque
from torch import nn

def train(loader, opt):
    model = nn.Linear(3, 3)
    recent = deque(maxlen=100)
    for x, y in loader:
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        recent.append(loss)  # MEM102
""",
        """
from transformers import Trainer

class Mine(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False):
        outputs = model(**inputs)
        self._preds.append(outputs.logits)  # MEM102
        return outputs.loss
""",
        """
from torch import nn

def train(loader, opt):
    model = nn.Linear(3, 3)
    log = []
    for step, (x, y) in enumerate(loader):
        out = model(x)
        loss = nn.functional.mse_loss(out, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        log.append({"step": step, "loss": loss, "out": out.cpu()})  # MEM102: 43 MEM102: 56
""",
        """
from torch import nn

class Evaluator:
    def __init__(self, model: nn.Module):
        self.model = model
        self.outputs = {}

    def run(self, loader):
        self.model.eval()
        for name, x in loader:
            self.outputs[name] = self.model(x).cpu()  # MEM102
""",
        """
def losses(policy, values, mask, config):
    ratio = (policy.new - policy.old).exp()
    loss = (values * ratio).mean()
    entropy = -(policy.new * mask).mean()
    stats = dict(
        loss=loss.detach(),
        entropy=entropy.detach(),
        kl=(policy.new - policy.old).mean().detach(),
        ratio=(policy.new - policy.old).exp(),  # MEM102: 15
    )
    return loss, stats
""",
        """
def train(loader, module, optimizer):
    outputs = []
    for i, batch in enumerate(loader):
        optimizer.zero_grad()
        output = module.training_step(batch, i)
        output["loss"].backward()
        optimizer.step()
        outputs.append(output)  # MEM102: 24
    return module.training_epoch_end(outputs)
""",
        """
def minimise(loss_function, tensors, optimizer, steps):
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        losses.append(loss_function(*tensors))  # MEM102: 23
        losses[-1].backward(retain_graph=True)
        optimizer.step()
    return [loss.item() for loss in losses]
""",
        """
from torch import nn

class Records:
    def __init__(self):
        self.rows = []

    def add(self, step, **values):
        self.rows.append(dict(step=step, **values))

def collect(model: nn.Module, loader):
    records = Records()
    for step, x in enumerate(loader):
        out = model(x)
        records.add(step, out=out)  # MEM102: 31
        records.add(step, **{"out": out})  # MEM102: 37
""",
    )
    negative = (
        """
import torch
from torch import nn
class Runner:
    def __init__(self, model: nn.Module, optimizer):
        self.model, self.optimizer = model, optimizer
        self.metrics = {}
    def step(self, batch):
        loss = self.model(batch).mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.metrics.update({"loss": loss})
class Adapter(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.scales = nn.Parameter(torch.ones(count))
    def forward(self, parts: list):
        for i, part in enumerate(parts):
            parts[i] = self.scales[i] * part.relu()
        return torch.cat(parts)
""",
        """
import torch
from rewards import get_reward, get_target
def train(model, optimizer, loader: torch.utils.data.DataLoader, handed_in, steps):
    rewards, targets = torch.zeros(steps), torch.zeros(steps)
    for index, data in enumerate(loader):
        reward, target = get_reward(data), get_target(data)
        loss = (reward - target).pow(2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        rewards[index % steps] = reward.mean()
        targets[index % steps] = target.mean()
    return rewards.mean().item(), targets.mean().item()
def score(weight, data, steps):
    kept = []
    for x in data:
        bound = get_reward(x)
        (weight * bound).sum().backward()
        kept.append(bound)
    return kept
""",
        """
import torch
from torch import nn

def shard(weight, sizes, rank):
    parts, offset = [], 0
    for size in sizes:
        parts.append(weight[offset + rank * size : offset + (rank + 1) * size])
        offset += size
    return torch.cat(parts).contiguous()

def shard_all(model: nn.Module, sizes, rank):
    for parameter in model.parameters():
        print(shard(parameter * 2, sizes, rank).sum().item())

def refine(model: nn.Module, latents, steps, size):
    for _ in range(steps):
        latents = latents.clone().detach().requires_grad_(True)
        updated = []
        for latent in latents:
            latent = latent.unsqueeze(0)
            loss = model(latent).square().mean()
            gradient = torch.autograd.grad(loss, [latent], retain_graph=True)[0]
            updated.append(latent - size * gradient)
        latents = torch.cat(updated)
    return latents.argmax(-1).tolist()

class Projections(nn.Module):
    def __init__(self, names):
        super().__init__()
        self.names = names
        self.layers = nn.ModuleDict({name: nn.Linear(4, 4) for name in names})

    def forward(self, x):
        out = {}
        for name in self.names:
            out[name] = self.layers[name](x[:, :4])
        return out

def show(x, names):
    projections = Projections(names)
    with torch.no_grad():
        for name, projected in projections(x).items():
            print(name, projected.argmax(-1).tolist())
""",
        """
import torch
from torch import nn

class Predictor:
    def __init__(self, model: nn.Module):
        self.model = model
        self.outputs = {}

    @torch.inference_mode()
    def stream(self, frames):
        for index, frame in enumerate(frames):
            yield self.infer(index, frame)

    def infer(self, index, frame):
        return self.model(frame)

class Tracker(Predictor):
    def infer(self, index, frame):
        out = self.model(frame)
        self.outputs[index] = out
        return out.argmax(-1)

class Backend:
    def __init__(self, engine):
        self.engine = engine

    def forward(self, frame):
        return self.engine.infer(0, frame)
""",
        """
import torch
from torch import nn

class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(4, 4)

    def forward(self, sequence):
        state, out = None, []
        for x in torch.split(sequence, 1):
            state = self.cell(x[0], state)
            out += [state]
        return torch.stack(out)

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.decoder = Decoder()

    def forward(self, sequence):
        return self.decoder(sequence)

def train(loader, optimizer):
    model = Model()
    for sequence, target in loader:
        optimizer.zero_grad()
        nn.functional.mse_loss(model(sequence), target).backward()
        optimizer.step()
""",
        """
import torch

def train(model: torch.nn.Module, loader, opt, criterion):
    norms = []
    for x, y in loader:
        criterion(model(x), y).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        opt.step()
        opt.zero_grad()
    return norms
""",
        """
import torch
import torch.nn.functional as F
from torch import nn
def entropy(logits):
    kept = []
    for piece in logits.reshape(-1, logits.shape[-1]).split(128):
        scores = F.log_softmax(piece, -1)
        kept.append(-(scores.exp() * scores).sum(-1))
    return torch.cat(kept)
def train(policy: nn.Module, loader, optimizer, report):
    for batch, advantages in loader:
        log_probabilities, entropies = [], []
        for part in batch:
            outputs = policy(part)
            log_probabilities.append(outputs.log_probs)
            entropies.append(outputs.entropy)
        report(torch.cat(entropies).mean().item(), entropy(policy(batch[0]).logits).mean().item())
        loss = -(torch.cat(log_probabilities) * advantages).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
        """
from collections import OrderedDict
from functools import partial
from typing import Callable, Optional, Union
from torch import nn
def make_stem(channels, norm: nn.Module, act: Optional[nn.Module] = None):
    stem = OrderedDict()
    for i in range(3):
        stem[f"norm{i}"] = norm(channels)
        stem[f"act{i}"] = act(inplace=i < 2)
    return nn.Sequential(stem)
def make_block(block: Union[str, nn.Module], **settings):
    if isinstance(block, (nn.Module, partial)):
        return block(**settings)
    return BLOCKS[block](**settings)
def make_stages(configurations):
    stages = []
    for configuration in configurations:
        blocks = []
        for each in configuration:
            blocks += [make_block(each.kind, **each.settings)]
        stages.append(nn.Sequential(*blocks))
    return nn.Sequential(*stages)
class Block(nn.Module):
    def __init__(self, dim, act: nn.Module, norm: nn.Module = nn.LayerNorm, depth=3):
        super().__init__()
        layers = []
        for _ in range(depth):
            layers.append(norm(dim))
            layers += [act()]
        self.layers = nn.ModuleList(layers)
        self.head = act()
""",
        """
import torch
from transformers import Trainer
class Policy(Trainer):
    def log_probabilities(self, model, ids):
        kept, entropies = [], []
        for part in ids.split(8):
            logits = model(part).logits.log_softmax(-1)
            kept.append(logits.gather(-1, part[..., None]))
            entropies.append(-(logits.exp() * logits).sum(-1))
        return torch.cat(kept), torch.cat(entropies)
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return self._compute_loss(model, inputs)
    def _compute_loss(self, model, inputs):
        log_probabilities, entropies = self.log_probabilities(model, inputs["ids"])
        loss = -(log_probabilities * inputs["advantages"]).mean()
        return loss - 0.01 * entropies.mean()
    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        with torch.no_grad():
            return self.compute_loss(model, inputs).detach(), None, None
""",
        """
def train(loader, module, optimizer):
    outputs = []
    for i, batch in enumerate(loader):
        output = module.training_step(batch, i)
        output["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        output["loss"] = output["loss"].detach()
        outputs.append(output)
    return outputs
""",
        """
def step(model, batch):
    out = model(batch)
    loss = out.mean()
    result = {"loss": loss, "scale": out.std().item(), "norm": out.norm().item()}
    result["loss"].backward()
    return {"loss": loss.detach(), "size": len(batch), "max": out.max().item(), "name": "x"}
""",
        """
import torch
from torch import nn

def reinforce(env, opt, returns):
    policy = nn.Linear(3, 3)
    log_probs = []
    for state in env:
        dist = torch.distributions.Categorical(logits=policy(state))
        log_probs.append(dist.log_prob(dist.sample()))
    (-(torch.stack(log_probs) * returns).sum()).backward()
    opt.step()
""",
        """
import torch

def train(loader, blocks, head, opt):
    for x in loader:
        feats = []
        for block in blocks:
            x = block(x)
            feats.append(x)
        head(feats).sum().backward()
        opt.step()
""",
        """
from torch import nn

def predict(loader):
    model = nn.Linear(3, 3)
    preds, sizes = [], []
    for x in loader:
        out = model(x)
        preds.append(out.detach().cpu())
        preds.append(out.argmax(-1))
        preds.append(out.topk(3).indices)
        preds.append(out.tolist())
        sizes.append(out.shape)
""",
        """
import torch
from torch import nn

class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([nn.Linear(3, 3)])
        self.up = nn.Linear(6, 3)

    def forward(self, x):
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
        return self.up(torch.cat(skips, -1))

def train(loader, opt):
    model = UNet()
    for x, y in loader:
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
""",
        """
import torch
from torch import nn

@torch.no_grad()
def predict(loader):
    model = nn.Linear(3, 3)
    return [model(x) for x in loader]

def collect(model: nn.Module, loader):
    preds = []
    with torch.inference_mode():
        for x in loader:
            preds.append(model(x))
    return preds
""",
        """
import torch
from torch import nn

class Agent:
    def __init__(self):
        self.policy = nn.Linear(3, 3)
        self.saved = []

    def act(self, state):
        dist = torch.distributions.Categorical(logits=self.policy(state))
        action = dist.sample()
        self.saved.append(dist.log_prob(action))
        return action

    def learn(self, rewards, opt):
        loss = 0
        for log_prob, reward in zip(self.saved, rewards):
            loss = loss - log_prob * reward
        loss.backward()
        opt.step()
        del self.saved[:]
""",
        """
from torch import nn

def losses_of(model: nn.Module, parts, y):
    losses = []
    for part in parts:
        losses.append(nn.functional.mse_loss(model(part), y))
    return sum(losses)

def train(model: nn.Module, loader, opt):
    for parts, y in loader:
        losses_of(model, parts, y).backward()
        opt.step()
        opt.zero_grad()
""",
        """
from torch import nn

def train(loader, opt, window):
    rnn = nn.GRUCell(4, 4)
    h, kept = None, []
    for t, (x, y) in enumerate(loader):
        h = rnn(x, h)
        kept.append(nn.functional.mse_loss(h, y))
        if (t + 1) % window == 0:
            sum(kept).backward()
            opt.step()
            opt.zero_grad()
            h = h.detach()
            kept.clear()
""",
        """
import torch
from torch import nn

class Convolution(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.layers = nn.ModuleList()
        for _ in range(count):
            self.layers.append(nn.Linear(8, 8))
        self.count = count

    def forward(self, x, edge):
        start = 0
        for m in range(self.count):
            part = x.embedding[:, start : start + 8].contiguous()
            part = self.layers[m](part, edge)
            x.embedding[:, start : start + 8] = part
            start = start + 8
        return x
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for function in program.functions:
            for stash in (*stashes(function), *slot_stashes(function), *gathered(function)):
                if not collects_step_outputs(stash) and not is_sum(stash.insertion.event):
                    yield from self._stashed(stash)
            for accumulation in accumulations(function):
                if accumulation.attribute is None and concatenates(accumulation):
                    yield from self._concatenated(accumulation)
            for call in function.calls:
                yield from self._kept_by_callee(call)
            for entry in forgotten_entries(function):
                if reaches_gradient(entry.record) is not Reach.YES:
                    yield self._finding(entry.holder, entry.record, entry.written, Confidence.LIKELY)

    def _stashed(self, stash: Stash) -> Iterator[Finding]:
        container = stash.insertion.container
        for member in attached_members(stash.occurrence):
            if isinstance(member.value, Parameter):
                continue
            if not is_made_anew(member.value, container, stash.loop):
                continue
            if stash.loop is not None and is_emptied_in(container, stash.loop):
                continue
            if is_replaced_before(member.value, stash.insertion.event):
                continue
            confidence = retention_confidence(container, member.value, stash.span, stash.loop)
            if confidence is not None:
                unsure = is_consumed(container) or is_built_for_callers(stash)
                confidence = Confidence.POSSIBLE if unsure else confidence
                yield self._finding(stash.insertion.holder, container, member, confidence)

    def _concatenated(self, accumulation: Accumulation) -> Iterator[Finding]:
        kept = accumulation.value
        for addend in accumulation.addends:
            if keeps_graph(addend.value) and is_made_anew(addend.value, kept, accumulation.loop):
                confidence = retention_confidence(kept, addend.value, accumulation.span, accumulation.loop)
                if confidence is not None:
                    yield self._finding(accumulation.holder, kept, addend, confidence)

    def _finding(self, holder: cst.CSTNode, container: Value, member: Occurrence, confidence: Confidence) -> Finding:
        held = holding(member.value)
        limit = length_limit(container)
        bounded = "" if limit is None else f", for the last {limit} of them"
        return self.finding(
            member.node,
            lambda: f"`{code(member.node)}` is kept in `{code(holder)}` with its autograd graph",
            holds=held.phrase + bounded,
            severity=held.severity if limit is None else Severity.WARNING,
            confidence=confidence,
            fixes=detach_fixes(member, container),
            claim=Claim(held.shape, held.memory, held.size, holder=holder, held=member.node),
        )

    def _kept_by_callee(self, call: Call) -> Iterator[Finding]:
        for where, keeping in kept_by(call):
            if not keeping.summed and not isinstance(where.value, Parameter):
                confidence = retention_confidence(keeping.kept, where.value, Span.CALL, call.region.loop)
                if confidence is not None:
                    least = Confidence.weakest(confidence, certainty(where.value))
                    yield self._finding(keeping.holder, keeping.kept, where, least)
