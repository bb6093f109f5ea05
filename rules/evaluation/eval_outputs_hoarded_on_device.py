from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity
from memlint.model.attachment import keeps_graph
from memlint.model.devices import may_use_accelerator
from memlint.model.downstream import Reach, reaches_gradient
from memlint.model.footprint import (
    Footprint,
    footprint,
    host_footprint,
    is_compared_on_device,
    is_joined_from_outputs,
    is_moved_to_host,
    is_partly_on_host,
)
from memlint.model.hoarding import Hoard, hoards
from memlint.model.kinds import Role, role
from memlint.model.program import Program
from memlint.model.source_text import code
from memlint.rule import Rule


class EvalOutputsHoardedOnDevice(Rule):
    """The outputs of all batches of an evaluation are collected on the device.

    ## What it does
    Finds outputs of a model (logits, probabilities, features) that are collected batch after batch of a loader without
    being moved to host memory: in a list or dict, a comprehension, or an object of the project that keeps what it is
    given (a tensor that grows by `torch.cat` under `no_grad` is MEM812); in loops outside of training, in the `*_step`
    hooks of a LightningModule and in the `on_*_batch_end` hooks of its callbacks. A loop goes through a loader if it
    was made as one, or if what it yields is moved to a device. What is small (losses, class indices) is left alone.

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
class Latents:
    def __init__(self, module: torch.nn.Module):
        self.module = module.cuda()
    @torch.inference_mode()
    def latents(self, sources):
        self.module.eval()
        found = []
        for source in sources:
            latent = []
            for tensors in source:
                latent.append(self.module.sample(tensors))  # MEM604: 31
            found.append(torch.cat(latent).cpu().numpy())
        return found
""",
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
from collections import defaultdict
def move(batch, device):
    return {name: value.to(device) for name, value in batch.items()}
@torch.no_grad()
def collect(model: torch.nn.Module, batches, device):
    outputs = defaultdict(list)
    for batch in batches:
        for name, value in model(**move(batch, device)).items():
            outputs[name].append(value)  # MEM604: 34
    return {name: torch.cat(values).cpu() for name, values in outputs.items()}
@torch.no_grad()
def by_key(model: torch.nn.Module, batches):
    found = {}
    for keys, images in batches:
        rows = model(images.cuda()).sigmoid()
        for key, row in zip(keys, rows):
            found[key] = row  # MEM604
    return found
@torch.no_grad()
def in_one_row(model: torch.nn.Module, loader: torch.utils.data.DataLoader):
    return torch.cat([model(x.cuda()) for x in loader])  # MEM604: 23
def grown(model: torch.nn.Module, loader: torch.utils.data.DataLoader):
    everything = torch.empty(0, 8).cuda()
    for x in loader:
        features = model(x.cuda()).detach()
        everything = torch.cat([everything, features])  # MEM604: 45
    return everything
""",
        """
import torch
class Meter:
    def __init__(self):
        self.scores, self.seen = [], 0
    def update(self, scores, count):
        self.scores.append(scores.detach())
        self.seen += count
class Tester:
    def __init__(self, model: torch.nn.Module):
        self.model = model.cuda()
        self.kept = []
    def one(self, x):
        self.kept.append(self.model(x.cuda()))  # MEM604: 26
    @torch.no_grad()
    def run(self, loader: torch.utils.data.DataLoader):
        meter = Meter()
        for x, y in loader:
            meter.update(self.model(x.cuda()), len(y))  # MEM604: 26
            self.one(x)
        return meter
""",
        """
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
class Collect(BasePredictionWriter):
    def __init__(self, mode):
        super().__init__(write_interval="epoch")
        self.mode = mode
        self.predictions = []
    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        kept = outputs if self.mode == "raw" else pl_module.to_prediction(outputs)
        self.predictions.append(kept)  # MEM604: 33
    def on_predict_epoch_end(self, trainer, pl_module):
        self.result = torch.cat(self.predictions)
        self.predictions = []
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
        """
import torch
class Process:
    def __init__(self, model: torch.nn.Module):
        self.model = model.cuda()
    def take(self, iterator):
        return [x.cuda() for x in next(iterator)]
    @torch.no_grad()
    def predict(self, loader: torch.utils.data.DataLoader):
        outputs, iterator = [], iter(loader)
        for _ in range(len(loader)):
            outputs.append(self.model(*self.take(iterator)))  # MEM604: 28
        return torch.cat(outputs)
""",
        """
import torch
from torch.utils.data import DataLoader
def embed(model, pooler, data):
    vectors = []
    with torch.no_grad():
        for batch in DataLoader(data):
            hidden = model.cuda()(batch.cuda()).last_hidden_state
            pooled = pooler.pool(hidden, batch)
            vectors.append(pooled)  # MEM604: 28
    return torch.cat(vectors)
""",
        """
from collections import defaultdict
import torch
from torch.utils.data import DataLoader
def by_class(model, images, keys):
    scores = model(images)
    found = defaultdict(float)
    for i, key in enumerate(keys):
        found[key] += scores[i]  # MEM604: 23
    return found
@torch.no_grad()
def predict(model: torch.nn.Module, dataset):
    model.cuda().eval()
    result = {}
    for images, keys in DataLoader(dataset):
        result.update(by_class(model, images.cuda(), keys))
    return result
""",
    )
    negative = (
        """
import torch
class Chain:
    def __init__(self, module: torch.nn.Module):
        self.module = module.cuda()
    @torch.inference_mode()
    def draw(self, steps, state):
        drawn, moved = [], []
        for _ in range(steps):
            drawn.append(self.module.sample(state))
        for stage in [0, 1, 2]:
            drawn.append(self.module.sample(stage))
        return torch.cat(drawn).cpu()
""",
        """
import torch
from torch.utils.data import DataLoader
def score(model, metric, data):
    scores = []
    with torch.no_grad():
        for batch in DataLoader(data):
            scores.append(metric.score(model.cuda()(batch.cuda()).logits, batch))
    return sum(scores)
""",
        """
import torch
from torch import nn

class Embedder:
    def __init__(self, encoder: nn.Module, device):
        self.encoder = encoder.to(device)
        self.device = torch.device("cuda")

    @torch.no_grad()
    def embed(self, ids):
        outputs = self.encoder(ids.to(self.device), output_hidden_states=True)
        layers = outputs.hidden_states
        normalized = []
        for index in range(1, len(layers)):
            state = layers[index] - layers[index].mean(dim=-1, keepdim=True)
            normalized.append(state)
        return torch.cat(normalized, dim=-1).cpu()
""",
        """
import torch

class Pipeline:
    def __init__(self, encoder: torch.nn.Module):
        self.encoder = encoder.cuda()

    @torch.no_grad()
    def condition(self, frames: list[torch.Tensor], strengths: list[float], device):
        encoded = []
        for frame, strength in zip(frames, strengths):
            latent = self.encoder(frame.to(device))
            encoded.append((latent, strength))
        return encoded
""",
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
class Pipeline:
    def __init__(self, encoder: torch.nn.Module):
        self.encoder = encoder.cuda()
    def encode(self, image, device):
        return self.encoder(image.to(device))
    @torch.no_grad()
    def __call__(self, images, masks, device):
        embeddings, best, top = [], None, 0.0
        for image, mask in zip(images, masks):
            embeddings.append(self.encode(image, device))
        return torch.cat(embeddings), [self.encode(image, device) for image in images]
class Window:
    def __init__(self, size):
        self.size, self.last = size, []
    def update(self, scores):
        self.last.append(scores.argmax(-1).tolist())
@torch.no_grad()
def watch(model: torch.nn.Module, loader: torch.utils.data.DataLoader):
    window, state = Window(5), torch.zeros(1).cuda()
    for x in loader:
        out = model(x.cuda())
        window.update(out)
        state = torch.cat([out[:1], out[1:]])
    return window, state, [model(x.cuda()).argmax(-1) for x in loader], max(model(x.cuda()).sum() for x in loader)
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
            for hoard in hoards(function):
                confidence = _confidence(hoard)
                if confidence is not None:
                    yield self._finding(hoard, confidence)

    def _finding(self, hoard: Hoard, confidence: Confidence) -> Finding:
        kept = hoard.kept
        small = footprint(kept.value) < Footprint.FULL or is_compared_on_device(hoard.container)
        move = Fix(
            "call_method",
            lambda: f"Move `{code(kept.node)}` to host memory before it is kept",
            Applicability.UNSAFE,
            {"expression": kept.node},
            {"method": "cpu"},
        )
        return self.finding(
            kept.node,
            lambda: f"`{code(kept.node)}` stays on the device{_where(hoard)}, for every batch of the data set",
            holds="the outputs for the whole data set on the device, twice while they are concatenated",
            confidence=confidence,
            severity=Severity.NOTE if small else None,
            fixes=() if hoard.grows_in_place or role(kept.value, Role.CONTAINER) else (move,),
            claim=Claim(ClaimShape.GROWS, "device", "numel * itemsize", holder=hoard.holder, held=kept.node),
        )


def _where(hoard: Hoard) -> str:
    return f" in `{code(hoard.holder)}`" if hoard.holder is not None else ""


def _confidence(hoard: Hoard) -> Confidence | None:
    """How sure it is that what is kept is held on a device for nothing; None if it is small or needed there."""
    size = footprint(hoard.kept.value)
    if size is Footprint.UNKNOWN and is_joined_from_outputs(hoard.kept.value, hoard.container):
        size = Footprint.FULL
    if size < Footprint.REDUCED:
        return None
    reach = reaches_gradient(hoard.container)
    if reach is Reach.YES:
        return None
    unsure = keeps_graph(hoard.kept.value) and reach is Reach.UNKNOWN
    # What a forward pass collects are parts of one batch; and who moves it on a condition leaves the choice to others.
    unsure = unsure or hoard.region.function.name == "forward" or host_footprint(hoard.kept.value) > Footprint.NONE
    if unsure or not may_use_accelerator(hoard.region.function):
        return Confidence.POSSIBLE
    if is_moved_to_host(hoard.container):
        return Confidence.weakest(hoard.over_data, Confidence.CERTAIN if size is Footprint.FULL else Confidence.LIKELY)
    if size is not Footprint.FULL:
        return Confidence.POSSIBLE
    # Outputs for slices of one tensor may be needed where they are, unless others beside them are in host memory.
    return Confidence.LIKELY if hoard.from_loader or is_partly_on_host(hoard.container) else Confidence.POSSIBLE
