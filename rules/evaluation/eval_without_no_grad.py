from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Claim, ClaimShape, Confidence, Finding, Related, Severity
from memlint.model.aliases import instance_class, qualified_names, sources
from memlint.model.attachment import certainty
from memlint.model.calls import passed_arguments
from memlint.model.contexts import is_meant_without_gradients
from memlint.model.effects import Effect, function_effects, region_effects
from memlint.model.forwards import (
    Mode,
    called_module,
    forwards,
    in_training_step,
    is_named_for_evaluation,
    is_repeated,
    module_mode,
    wasted,
)
from memlint.model.hooks import runs_for_detached_hooks
from memlint.model.knowledge import torch
from memlint.model.loops import iterates_over_data
from memlint.model.no_grad import enable_grad_only, no_grad_fixes
from memlint.model.partial_runs import PartialRun, run_without_gradients
from memlint.model.program import Program
from memlint.model.scopes import Function
from memlint.model.source_text import code
from memlint.model.values import Call, Item, Loop, Parameter, Part, Region, Store, Value
from memlint.rule import Rule


class EvalWithoutNoGrad(Rule):
    """A model is evaluated with gradients enabled, so that every forward pass saves its activations for no backward.

    ## What it does
    Finds forward passes that record a graph which nothing differentiates, outside the steps of training: validation
    and test loops, prediction, sampling, generation. It follows the outputs through names, containers, attributes,
    functions and files of the project. `with torch.no_grad()` and `torch.inference_mode()` count, in the function, as
    decorators, in every caller, and where a framework enters them (Lightning's `validation_step`, Keras's `test_step`).
    The Trainer of transformers does not: its own `prediction_step` enters `no_grad`, but one that overrides it has to
    do that itself (read in transformers 4.57 and 5.23).
    A forward pass that trains in some runs only, as under `if train: loss.backward()` in a function that is also called
    with `train=False`, or in a loop over `["train", "val"]`, is reported unless gradients are disabled in the others.
    What follows `torch.no_grad()` as a statement of its own is left to MEM602, whose fix serves here as well.

    ## Why is this bad?
    `model.eval()` changes what dropout and batch normalisation do; it does not stop autograd. Each forward pass then
    saves its activations as in training. Since a name such as `out` is bound anew only after the next forward pass, two
    graphs are alive at the peak: 9.5 MiB in a small model that needs 2.0 MiB under `no_grad` (weights left out). That
    is why training fits and validation runs out of memory with the same batch size.

    ## Example
    ```python
    def evaluate(model, loader):
        model.eval()
        for x, y in loader:
            out = model(x)
            correct += (out.argmax(1) == y).sum().item()
    ```

    ## Use instead
    ```python
    def evaluate(model, loader):
        model.eval()
        for x, y in loader:
            with torch.no_grad():
                out = model(x)
            correct += (out.argmax(1) == y).sum().item()
    ```

    ## Fix safety
    Putting the forward passes under `with torch.no_grad():` is safe where all that the wrapped statements compute is
    known not to be differentiated; it is unsafe where results go to callers or code out of sight. Decorating the
    function is unsafe. `inference_mode` is never suggested: its tensors cannot take part in a later backward.

    ## When to ignore
    When code that memlint does not see differentiates the outputs, such as an attack or an attribution method.

    ## References
    - [Performance tuning guide: disable gradient calculation for validation or inference](https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html)
    - [semseg#60](https://github.com/hszhao/semseg/issues/60), [skorch#218](https://github.com/skorch-dev/skorch/issues/218),
      [robosat#109](https://github.com/mapbox/robosat/pull/109), [dgl#745](https://github.com/dmlc/dgl/issues/745)
    """

    code = "MEM601"
    name = "eval-without-no-grad"
    severity = Severity.WARNING
    gate = frozenset(
        {"torch", "eval", "model", "forward", "lightning", "transformers", "accelerate", "Module", "keras"}
    )
    fixers = ("wrap_in_with", "add_decorator")
    positive = (
        """
import torch
from torchvision import models
class Embedder:
    def __init__(self):
        self.model = models.resnet18(pretrained=True)
        self.layer = self.model.avgpool
        self.model.eval()
    def embed(self, image):
        embedding = torch.zeros(1, 512, 1, 1)
        def copy(module, inputs, output):
            embedding.copy_(output.data)
        handle = self.layer.register_forward_hook(copy)
        self.model(image)  # MEM601
        handle.remove()
        return embedding
""",
        """
import torch
from elmo import Elmo
class Embedder:
    def __init__(self, options, weights, device):
        self.elmo = Elmo(options, weights)
        if device >= 0:
            self.elmo = self.elmo.cuda(device=device)
    def embed(self, sentences):
        found = []
        for ids in sentences:
            found.append(self.elmo(ids)["activations"].detach().cpu().numpy())  # MEM601: 26
        return found
""",
        """
from facenet import InceptionResnet
def embed(frames, resnet: InceptionResnet):
    found = []
    for frame in frames:
        found.append(resnet(frame).argmax(-1))  # MEM601: 22
    return found
if __name__ == "__main__":
    net = InceptionResnet(pretrained="faces").eval()
    print(embed(["a.jpg"], net))
""",
        """
import torch
from recognition import Model
class Recogniser(Model):
    def forward(self, signal):
        scores = self.decoder(self.encoder(signal))
        return scores, scores.argmax(-1)
    def transcribe(self, files):
        self.eval()
        found = []
        for signal in self.loader(files):
            _, best = self.forward(signal)  # MEM601: 23
            found += self.words(best)
        return found
""",
        """
def synthesise(vocoder, mel, length):
    vocoder.eval()
    wave = vocoder.incremental_forward(mel, length)  # MEM601: 12
    return wave.view(-1).cpu().data.numpy()
""",
        """
import torch
from torch import nn

class WithHead(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.model(x))

def export(model: nn.Module, im):
    for p in model.parameters():
        p.requires_grad = False
    model.eval()
    y = WithHead(model)(im)  # MEM601
    return y.shape
""",
        """
import functools
from torch import nn
def timed(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        print("start")
        return function(*args, **kwargs)
    return wrapper
def named(name):
    def decorate(function):
        return timed(function)
    return decorate
@timed
def evaluate(model: nn.Module, loader):
    for x in loader:
        print(model(x).argmax(1))  # MEM601
@named("predict")
def predict(model: nn.Module, loader):
    for x in loader:
        print(model(x).argmax(1))  # MEM601
""",
        """
import torch
def evaluate(model, loader, verbose):
    model.eval()
    for x in loader:
        print(model(x).argmax(1))  # MEM601: 15
    torch.no_grad()
    if verbose:
        torch.enable_grad()
def predict(model, loader):
    torch.set_grad_enabled(True)
    model.eval()
    torch.enable_grad()
    return [model(x).argmax(1) for x in loader]  # MEM601
""",
        """
import torch
def evaluate(model, loader, crit):
    total, correct = 0.0, 0
    model.eval()
    for x, y in loader:
        out = model(x)  # MEM601: 15
        total += crit(out, y).item(); correct += (out.argmax(1) == y).sum().item()
    return total, correct
""",
        """
import torch
from torch import nn
def main(loader, valid_loader):
    model = nn.Linear(4, 2)
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(3):
        model.train()
        for x, y in loader:
            opt.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            opt.step()
        model.eval()
        hits = 0
        for x, y in valid_loader:
            with torch.autocast("cuda"):
                hits += (model(x).argmax(1) == y).sum().item()  # MEM601
        print(epoch, hits)
""",
        """
import torch
def compute_loss(model, batch):
    out = model(batch["x"])
    return torch.nn.functional.mse_loss(out, batch["y"])
def train(model, loader, opt):
    model.train()
    for batch in loader:
        opt.zero_grad()
        compute_loss(model, batch).backward()
        opt.step()
def validate(model, loader):
    model.eval()
    losses = []
    for batch in loader:
        loss = compute_loss(model, batch)  # MEM601: 16
        losses.append(loss.item())
    return sum(losses) / len(losses)
""",
        """
import torch
class Trainer:
    def __init__(self, model, loader):
        self.model = model
        self.loader = loader
        self.optimizer = torch.optim.AdamW(self.model.parameters())
    def fit(self):
        for epoch in range(10):
            self.model.train()
            for x, y in self.loader:
                self.optimizer.zero_grad()
                self.model(x, y).loss.backward()
                self.optimizer.step()
            if epoch % 2 == 0:
                self.evaluate()
    def evaluate(self):
        self.model.eval()
        scores = []
        for x, y in self.loader:
            if y is None:
                continue
            output = self.model(x, y)  # MEM601
            scores.append({"loss": output.loss.item(), "logits": output.logits.detach().cpu()})
        return scores
""",
        """
from torchvision.utils import save_image
import torch
generator = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh())
def sample_image(batches_done):
    z = torch.randn(25, 8)
    images = generator(z)  # MEM601: 14
    save_image(images.data, f"images/{batches_done}.png", nrow=5)
""",
        """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
class Worker:
    def __init__(self, name):
        self.tokenizer, self.model = load(name)
    def stream(self, prompt):
        model, tokens, cache = self.model, self.tokenizer(prompt).input_ids, None
        for _ in range(256):
            if cache is None:
                out = model(torch.as_tensor([tokens]), use_cache=True)  # MEM601
            else:
                out = model(torch.as_tensor([tokens[-1:]]), use_cache=True, past_key_values=cache)
            cache = out.past_key_values
            tokens.append(int(out.logits[0, -1].argmax()))
            yield self.tokenizer.decode(tokens)
def load(name):
    model = AutoModelForCausalLM.from_pretrained(name)
    return AutoTokenizer.from_pretrained(name), model.cuda()
""",
        """
import torch
class Classifier:
    def __init__(self, path):
        self.model = torch.jit.load(path)
    def predict_proba(self, x):
        self.model.eval()
        return self.model(x).softmax(-1)  # MEM601
""",
        """
import functools, torch
def run(model, scale, x):
    return model(x * scale)
def evaluate(model: torch.nn.Module, loader):
    model.eval()
    step = functools.partial(run, model, 2.0)
    hits = 0
    for x, y in loader:
        hits += int((step(x).argmax(1) == y).sum())
    return hits
def evaluate_nested(model: torch.nn.Module, loader):
    model.eval()
    def score(batch):
        return model(batch["x"])  # MEM601
    return [score(batch).argmax(-1).tolist() for batch in loader]
""",
        """
import torch
def predict(model, loader):
    model.eval()
    if (first := model(next(iter(loader)))).isnan().any():  # MEM601
        raise ValueError("the model is broken")
    return [model(x).argmax(1).cpu() for x in loader]
""",
        """
import torch
from torch import nn
model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
async def serve(queue):
    model.eval()
    while True:
        request = await queue.get()
        try:
            answer = model(torch.tensor(request["x"]))  # MEM601
        except RuntimeError:
            await queue.fail(request)
            continue
        await queue.reply(request, answer.tolist())
""",
        """
import torch
import lightning as L
class AutoEncoder(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = torch.nn.Linear(8, 2), torch.nn.Linear(2, 8)
    def training_step(self, batch, index):
        return ((self.decoder(self.encoder(batch)) - batch) ** 2).mean()
    def on_train_epoch_end(self):
        for z in self.grid:
            image = self.decoder(z)  # MEM601
            self.logger.experiment.add_image("sample", image.view(1, 2, 4))
""",
        """
import torch
def score(model: torch.nn.Module, loader):
    for batch in loader:
        match batch:
            case {"image": image}:
                features, _ = model(image)  # MEM601
            case (text, _):
                features = model(text)[0]
        yield features.norm(dim=-1).tolist()
""",
        """
import torch
from torch import nn
class Validator:
    def __init__(self, network: nn.Module):
        self.network = network
    def prepare(self):
        self.network.eval()
    def infer(self, batch):
        return self.network(batch)
    def train_on(self, batch, optimizer):
        self.network.train()
        self.infer(batch).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    def validate_on(self, batch):
        self.prepare()
        prediction = self.infer(batch)  # MEM601
        return {"prediction": prediction, "loss": prediction.mean()}
""",
        """
import torch
from transformers import Trainer
class Custom(Trainer):
    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        model.eval()
        logits = model(**inputs).logits  # MEM601
        return None, logits.argmax(-1), inputs["labels"]
""",
        """
import torch
def run_epoch(model, loader, crit, optimizer=None):
    training = optimizer is not None
    model.train(training)
    total = 0.0
    for x, y in loader:
        loss = crit(model(x), y)  # MEM601: 21
        total += loss.item()
        if not training:
            continue
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return total
def main(model: torch.nn.Module, loader, valid_loader, crit):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run_epoch(model, loader, crit, optimizer)
    print(run_epoch(model, valid_loader, crit))
""",
        """
import torch
def train(model: torch.nn.Module, loaders, crit, optimizer):
    for phase in ["train", "val"]:
        model.train(mode=phase == "train")
        for x, y in loaders[phase]:
            out = model(x)  # MEM601
            loss = crit(out, y)
            if phase == "train":
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            print(phase, loss.item())
""",
        """
import torch
def evaluate(encoder, decoder, loader):
    decoder.eval()
    if encoder is not None:
        encoder.eval()
    for images, captions in loader:
        if encoder is not None:
            images = encoder(images)  # MEM601: 22
        scores, alphas = decoder(images, captions)
        penalty = ((1.0 - alphas.sum(dim=1)) ** 2).mean()
        print(scores.argmax(-1).tolist(), "%.3f" % penalty.item())
""",
        """
import torch
from ignite.engine import Engine
net = torch.nn.Linear(3, 3)
optimizer = torch.optim.SGD(net.parameters(), 0.1)
def train_step(engine, batch):
    optimizer.zero_grad()
    loss = net(batch).sum()
    loss.backward()
    optimizer.step()
    return loss.item()
def validation_step(engine, batch):
    net.eval()
    return net(batch)  # MEM601: 12
trainer, evaluator = Engine(train_step), Engine(process_function=validation_step)
""",
    )
    negative = (
        """
def probe(network, x):
    network.eval()
    handle = network.register_forward_hook(print)
    old = network.replace_forward(x)
    handle.remove()
    return old.name
""",
        """
import torch
from torch import nn
class Detector(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, stride=2)
        def run(x):
            return self.forward(x)
        self.body.eval()
        self.strides = [size / x.shape[-1] for x in run(torch.zeros(1, 3, size, size))]
    def forward(self, x):
        return [self.body(x)]
def build(sizes):
    return [Detector(size) for size in sizes]
""",
        """
import torch
from torch import nn

class Transposed(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).transpose(-1, -2)

def export(model: nn.Module, im):
    for p in model.parameters():
        p.requires_grad = False
    model.eval()
    y = Transposed(model)(im)
    return y.shape
""",
        """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        return self.layer(x)

if __name__ == "__main__":
    model = Net()
    model.eval()
    x = torch.rand(1, 3, 513, 513)
    print(model(x).size())
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
import functools
import torch
from torch import nn
RECENT = torch.__version__ > "1.9"
def smart_inference_mode(mode=True):
    def decorate(function):
        if not mode:
            if RECENT:
                @functools.wraps(function)
                def disable(*args, **kwargs):
                    with torch.inference_mode(False), torch.no_grad():
                        return function(*args, **kwargs)
                return disable
            return torch.no_grad()(function)
        if RECENT and torch.is_inference_mode_enabled():
            return function
        else:
            return (torch.inference_mode if RECENT else torch.no_grad)()(function)
    return decorate
def evaluating(function):
    return torch.no_grad()(function)
def optional(function):
    def wrapper(*args, grad=False):
        if grad:
            return function(*args)
        with torch.no_grad():
            return function(*args)
    return wrapper
@smart_inference_mode()
def evaluate(model: nn.Module, loader):
    for x in loader:
        print(model(x).argmax(1))
@evaluating
def predict(model: nn.Module, loader):
    for x in loader:
        print(model(x).argmax(1))
@optional
def measure(model: nn.Module, loader):
    for x in loader:
        print(model(x).argmax(1))
""",
        """
import torch
from torch import nn
from ultralytics import YOLO
class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Linear(3, 3)
    def __call__(self, source):
        return self.setup()(source)
    def setup(self):
        return load_predictor(self.model)
def show(frames):
    detector, yolo = Detector().eval(), YOLO("yolo.pt").eval()
    older = torch.hub.load("ultralytics/yolov5", "yolov5s").eval()
    for frame in frames:
        older = older.to(frame.device)
        print(detector(frame)[0].plot(), yolo(frame)[0].boxes, older(frame).pandas())
""",
        """
import torch
from contextlib import nullcontext
def evaluate(model, loader):
    model.eval()
    torch.no_grad()
    for x in loader:
        print(model(x).argmax(1))
def measure(model, loader, autograd):
    model.eval()
    nullcontext() if autograd else torch.no_grad()
    for x in loader:
        print(model(x).argmax(1))
""",
        """
import torch
@torch.no_grad()
def evaluate(model, loader):
    model.eval()
    return [model(x).argmax(1) for x in loader]
@torch.inference_mode
def predict(model, x):
    model.eval()
    return model(x)
def grid(model, loader):
    model.eval()
    with torch.no_grad():
        for x in loader:
            print(model(x).argmax(1))
    torch.set_grad_enabled(False)
    for x in loader:
        print(model(x).argmax(1))
""",
        """
import torch
def evaluate(model, loader):
    model.eval()
    return sum(forward(model, x).sum().item() for x in loader)
def forward(model, x):
    return model(x)
def main(model, loader):
    with torch.no_grad():
        evaluate(model, loader)
    with torch.inference_mode():
        print(evaluate(model, loader))
""",
        """
import contextlib, torch
@contextlib.contextmanager
def evaluating(model):
    model.eval()
    with torch.no_grad():
        yield
    model.train()
def evaluate(model, loader):
    with evaluating(model):
        return [model(x).argmax(1) for x in loader]
""",
        """
import torch
import lightning as L
from transformers import Trainer
import keras
class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(2, 2)
    def validation_step(self, batch, index):
        self.log("loss", self.net(batch).mean())
    def predict_step(self, batch, index):
        return self.net(batch).argmax(-1)
class Custom(Trainer):
    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        with torch.no_grad():
            return model(**inputs).logits.argmax(-1), None, None
class Old(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = torch.nn.Linear(2, 2)
    def test_step(self, data):
        return {"mean": self.dense(data).mean().item()}
""",
        """
import torch
def predict_forces(model, positions):
    model.eval()
    positions.requires_grad_()
    energy = model(positions)
    return -torch.autograd.grad(energy.sum(), positions)[0]
def attack(model, x, y, crit):
    model.eval()
    x = x.clone().requires_grad_()
    loss = crit(model(x), y)
    loss.backward()
    return x + 0.1 * x.grad.sign()
""",
        """
import torch
def evaluate(model: torch.nn.Module, loader):
    model.eval()
    for p in model.parameters():
        p.requires_grad_(False)
    return [model(x).argmax(1) for x in loader]
""",
        """
from transformers import AutoModelForCausalLM
def answer(name, prompts):
    model = AutoModelForCausalLM.from_pretrained(name)
    model.eval()
    return [model.generate(prompt, max_new_tokens=8) for prompt in prompts]
""",
        """
import torch
def run_epoch(model, loader, crit, optimizer=None):
    training = optimizer is not None
    model.train(training)
    for x, y in loader:
        with torch.set_grad_enabled(training):
            loss = crit(model(x), y)
        if training:
            loss.backward(); optimizer.step(); optimizer.zero_grad()
        print(loss.item())
""",
        """
import torch
def step(model: torch.nn.Module, batch, optimizer, train, scaler=None):
    loss = model(batch).mean()
    if train:
        optimizer.zero_grad()
        if scaler is not None:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
        else:
            loss.backward()
            optimizer.step()
    return loss
def main(model: torch.nn.Module, loader, valid_loader, optimizer):
    for batch in loader:
        step(model, batch, optimizer, train=True)
    loss = step(model, next(iter(loader)), optimizer, train=False)
    loss.backward()
    with torch.no_grad():
        for batch in valid_loader:
            print(step(model, batch, optimizer, train=False).item())
""",
        """
import torch
from torch.distributions import Categorical
class Policy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 2)
        self.saved_log_probs = []
    def forward(self, x):
        return self.net(x).softmax(-1)
policy = Policy()
optimizer = torch.optim.Adam(policy.parameters())
def select_action(state):
    m = Categorical(policy(state))
    action = m.sample()
    policy.saved_log_probs.append(m.log_prob(action))
    return action.item()
def finish_episode(returns):
    losses = [-log_prob * r for log_prob, r in zip(policy.saved_log_probs, returns)]
    optimizer.zero_grad()
    torch.stack(losses).sum().backward()
    optimizer.step()
    del policy.saved_log_probs[:]
def main(env):
    for episode in range(1000):
        state = env.reset()
        for t in range(100):
            state = env.step(select_action(state))
        finish_episode(env.returns())
""",
        """
import torch
from timm.utils import NativeScaler
def train_one_epoch(model, loader, crit, optimizer):
    loss_scaler = NativeScaler()
    model.train()
    for x, y in loader:
        loss = crit(model(x), y)
        optimizer.zero_grad()
        loss_scaler(loss, optimizer, clip_grad=1.0, parameters=model.parameters())
        print(loss.item())
""",
        """
import torch
import torch.distributed.autograd as dist_autograd
from torch.distributed.optim import DistributedOptimizer
def run(model, batches, crit, optimizer):
    for x, y in batches:
        with dist_autograd.context() as context_id:
            loss = crit(model(x), y)
            dist_autograd.backward(context_id, [loss])
            optimizer.step(context_id)
""",
        """
import torch
def train(model, x, y, crit):
    optimizer = torch.optim.LBFGS(model.parameters())
    output = None
    def closure():
        optimizer.zero_grad()
        loss = crit(output, y)
        loss.backward()
        return loss
    for _ in range(10):
        output = model(x)
        optimizer.step(closure)
""",
        """
import torch
class Content(torch.nn.Module):
    def __init__(self, target):
        super().__init__()
        self.target = target.detach()
    def forward(self, x):
        self.loss = torch.nn.functional.mse_loss(x, self.target)
        return x
def stylize(model: torch.nn.Module, losses, image, steps):
    image.requires_grad_(True)
    optimizer = torch.optim.Adam([image])
    for _ in range(steps):
        optimizer.zero_grad()
        model(image)
        score = sum(each.loss for each in losses)
        score.backward()
        optimizer.step()
""",
        """
import torch
from torch import nn
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
        self.shape = None
    @classmethod
    def build(cls, count):
        return [cls() for _ in range(count)]
    def forward(self, x):
        skip = self.a(x)
        self.shape = skip.shape
        return self.b(skip)
act = nn.Softmax(dim=1)
for x in torch.randn(10, 3, 3):
    print(act(x))
if __name__ == "__main__":
    print(Block()(torch.zeros(2, 2)).shape)
""",
        """
import torch
class Engine:
    def __init__(self, model: torch.nn.Module, strategy):
        self.model, self.strategy = model, strategy
    def loss(self, batch):
        return self.model(batch).mean()
    def step(self, batch):
        self.strategy.run(self.loss(batch))
    def fit(self, loader):
        for batch in loader:
            self.step(batch)
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for function in program.functions:
            for calls in _evaluations(function):
                yield self._finding(calls)
            for call, run in _partial_evaluations(function):
                yield self._in_some_runs(call, run)

    def _finding(self, calls: dict[Call, Confidence]) -> Finding:
        call, *others = calls
        confidence = max(calls.values(), key=lambda confidence: confidence.rank)
        return self.finding(
            call.node,
            lambda: (
                f"`{code(call.node)}` evaluates with gradients enabled: it records a graph that nothing differentiates"
            ),
            holds=_held(call),
            confidence=confidence,
            fixes=no_grad_fixes(list(calls), safe=Confidence.POSSIBLE not in calls.values()),
            claim=Claim(ClaimShape.PRESENT, "device", "A", held=call.node),
            related=tuple(Related(other.node, "this forward pass records a graph as well") for other in others),
        )

    def _in_some_runs(self, call: Call, run: PartialRun) -> Finding:
        here = run.cause.function.module is call.function.module
        return self.finding(
            call.node,
            f"`{code(call.node)}` records a graph even where no backward follows, as `{run.condition}` is false",
            holds=_held(call),
            confidence=Confidence.LIKELY,
            fixes=(enable_grad_only(call, run.condition),),
            claim=Claim(ClaimShape.PRESENT, "device", "A", held=call.node),
            related=(Related(run.cause.node, "here it is run for evaluation"),) if here else (),
        )


def _evaluations(function: Function) -> Iterator[dict[Call, Confidence]]:
    """The forward passes that evaluate with gradients enabled, those together that one ``no_grad`` would serve."""
    groups: dict[object, dict[Call, Confidence]] = {}
    for call in forwards(function):
        confidence = _confidence(call)
        if confidence is not None:
            groups.setdefault(_stretch(call), {})[call] = confidence
    yield from groups.values()


def _partial_evaluations(function: Function) -> Iterator[tuple[Call, PartialRun]]:
    """The forward passes that train in some runs of ``function`` and evaluate in others: the first of each step."""
    found: dict[Region, tuple[Call, PartialRun]] = {}
    for call in forwards(function):
        run = run_without_gradients(call) if certainty(call) is not Confidence.POSSIBLE else None
        if run is not None and is_repeated(call) is not False and not function.module.is_test:
            found.setdefault(run.branch, (call, run))
    yield from found.values()


def _confidence(call: Call) -> Confidence | None:
    """How sure it is that ``call`` evaluates a model with gradients enabled."""
    confidence = wasted(call)
    if confidence is Confidence.POSSIBLE and runs_for_detached_hooks(call):
        confidence = certainty(call)
    if confidence is None or in_training_step(call) or is_meant_without_gradients(call):
        return None
    evaluates = module_mode(call) is Mode.EVALUATION
    if confidence is Confidence.POSSIBLE:
        hinted = _is_meant_to_evaluate(call, evaluates) and not call.function.module.is_test
        return Confidence.LIKELY if hinted and certainty(call) is not Confidence.POSSIBLE else confidence
    repeated = is_repeated(call)
    constructs = any(each.name == "__init__" for each in (call.function, *call.function.enclosing()))
    if constructs and _is_made_up(call):
        return Confidence.POSSIBLE  # A model tries itself out, to learn its strides or the size of its features.
    if repeated:
        return confidence
    # What runs once, outside of any evaluation, holds little.
    meant = (evaluates or repeated is None) and not (call.function.parent is None and _is_made_up(call))
    return Confidence.LIKELY if meant else Confidence.POSSIBLE


def _is_made_up(call: Call) -> bool:
    """Whether a model is tried out on made-up numbers: ``print(model(torch.rand(1, 3)).size())``."""
    given = [made for value in call.positional() for made in _made(value)]
    made_up = all(isinstance(each, Call) and qualified_names(each.callee) & torch.FILLED_TENSORS for each in given)
    return bool(given) and made_up


def _made(given: Value) -> Iterator[Value]:
    """Where what a call is given comes from, through the parameters of a function within this one."""
    for source in sources(given):
        passed = passed_arguments(source) if isinstance(source, Parameter) else None
        yield from (each for value in passed for each in sources(value)) if passed else (source,)


def _is_meant_to_evaluate(call: Call, evaluates: bool) -> bool:
    """Whether those who get the outputs of ``call`` out of sight will not differentiate them, as far as can be told.

    The function trains by itself, and not here; or it has a name for evaluation and switches to it, or it goes through
    a data set, while others of its file train; or a module with a method of such a name runs itself there repeatedly.
    """
    function = call.function
    if function_effects(function) & Effect.BACKWARD:
        return evaluates and call.region.loop is not None
    if not is_named_for_evaluation(function):
        return False
    over_data = any(iterates_over_data(loop) or _takes_elements(call, loop) for loop in call.region.loops())
    return evaluates or (over_data and _is_trained_beside(function)) or _generates(call)


def _generates(call: Call) -> bool:
    """Whether a module runs itself step after step, in a method that is no forward: ``generate`` with a beam search."""
    module = called_module(call)
    if module is None or instance_class(module) is None:
        return False
    return call.region.loop is not None or call.function.owner is None


def _takes_elements(call: Call, loop: Loop) -> bool:
    """Whether ``call`` is given what ``loop`` goes through, or a part of it."""
    return any(_whole(value) is loop.element for value in call.positional() if loop.element is not None)


def _whole(value: Value) -> Value:
    while isinstance(value, (Part, Item)):
        value = value.base
    return value


def _is_trained_beside(function: Function) -> bool:
    others = (other for other in function.module.functions if other is not function and other.parent is not None)
    return any(function_effects(other) & Effect.BACKWARD for other in others)


def _stretch(call: Call) -> Region | Call:
    """The code around ``call`` that evaluates: the function, the outermost loop without a backward, or ``call``."""
    function = call.function
    if function.parent is not None and not function_effects(function) & Effect.BACKWARD:
        return function.body
    loops = [loop for loop in call.region.loops() if not region_effects(loop) & Effect.BACKWARD]
    return loops[-1] if loops else call


def _held(call: Call) -> str:
    if call.region.loop is not None and any(isinstance(use, Store) for use in call.uses):
        return "the activations of two forward passes at the peak: one graph is freed only after the next is built"
    return "the activations of the forward pass, until its output is dropped"
