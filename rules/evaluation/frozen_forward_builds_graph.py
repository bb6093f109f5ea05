from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Claim, ClaimShape, Confidence, Finding, Severity, Watch
from memlint.model.attachment import Attachment, attachment
from memlint.model.contexts import is_meant_without_gradients
from memlint.model.forwards import called_module, forwards, in_training_step, is_repeated, wasted
from memlint.model.knowledge import torch
from memlint.model.no_grad import wrap_in_no_grad
from memlint.model.program import Program
from memlint.model.source_text import code
from memlint.model.training import is_meant_for_evaluation, is_trained
from memlint.model.values import Attribute, Call, Value
from memlint.rule import Rule


class FrozenForwardBuildsGraph(Rule):
    """A model whose output is only a target, a rollout or a picture is run in a training step with gradients enabled.

    ## What it does
    Finds forward passes inside training steps that record a graph for nothing: nothing differentiates their output (a
    target network, `teacher(x).detach()`, sampling from a policy, pictures for a log), or what is differentiated ends
    in a model that no optimizer trains (a teacher, a reference model, a feature extractor on the real images).

    ## Why is this bad?
    The forward pass saves its activations as if the model were trained: 8.0 MiB live after the forward pass of a small
    teacher, 1.0 MiB under `no_grad` (measured). `.detach()` on the output frees the graph, but only after the forward
    pass has built it: the peak stays at 9.0 MiB instead of 2.0 MiB. If a backward reaches a model that is not trained,
    it allocates gradients for all its parameters as well, and nothing ever clears them.

    ## Example
    ```python
    for x, y in loader:
        t_logits = teacher(x)
        loss = distillation(student(x), t_logits)
        loss.backward()
    ```

    ## Use instead
    ```python
    for x, y in loader:
        with torch.no_grad():
            t_logits = teacher(x)
        loss = distillation(student(x), t_logits)
        loss.backward()
    ```

    ## Fix safety
    Unsafe: the values stay the same, but in an autocast region the weights that are cast under `no_grad` are cached
    and would serve a later training pass of the same model. It is not offered where a gradient flows through the model
    to its input.

    ## When to ignore
    When an optimizer that memlint does not see trains the model, or when the forward pass has side effects that need
    gradients.

    ## References
    - [ray#7238](https://github.com/ray-project/ray/pull/7238), [ray#6962](https://github.com/ray-project/ray/issues/6962)
    - [lightly-train#434](https://github.com/lightly-ai/lightly-train/pull/434),
      [overhaul-distillation#34](https://github.com/clovaai/overhaul-distillation/issues/34)
    """

    code = "MEM603"
    name = "frozen-forward-builds-graph"
    severity = Severity.WARNING
    gate = frozenset(
        {"torch", "eval", "model", "forward", "lightning", "transformers", "accelerate", "Module", "keras"}
    )
    fixers = ("wrap_in_with",)
    positive = (
        """
import torch
import torch.nn.functional as F
from torch import nn
def load(path, device):
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    net.load_state_dict(torch.load(path, map_location="cpu"))
    return net.to(device).eval()
def pair(path):
    return {"step": 0}, load(path, "cuda")
def distil(teacher, student, loader):
    optimizer = torch.optim.AdamW(student.parameters())
    for x, y in loader:
        loss = F.mse_loss(student(x), teacher(x))  # MEM603: 39
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
def main(loader):
    _, teacher = pair("teacher.pt")
    distil(teacher, nn.Linear(8, 4), loader)
""",
        """
import torch
import torch.nn.functional as F
def distill(student, loader):
    teacher = torch.hub.load("some/repo", "big", pretrained=True)
    teacher.eval()
    optimizer = torch.optim.AdamW(student.parameters())
    for x, y in loader:
        optimizer.zero_grad()
        t_logits = teacher(x)  # MEM603: 20
        loss = F.kl_div(student(x).log_softmax(-1), t_logits.softmax(-1))
        loss.backward()
        optimizer.step()
""",
        """
import torch
import torch.nn.functional as F
def distill(student, teacher, loader):
    teacher.load_state_dict(torch.load("teacher.pt"))
    optimizer = torch.optim.AdamW(student.parameters())
    for x, y in loader:
        t_logits = teacher(x).detach()  # MEM603: 20
        loss = F.mse_loss(student(x), t_logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
        """
import torch
from torch import nn
policy = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2))
optimizer = torch.optim.Adam(policy.parameters())
def train(env, buffer):
    obs = env.reset()
    for step in range(100000):
        dist = torch.distributions.Categorical(logits=policy(obs))  # MEM603: 55
        action = dist.sample()
        buffer.add(obs.tolist(), action.item(), dist.log_prob(action).item())
        obs = env.step(action.item())
        if step % 128 == 127:
            now = torch.distributions.Categorical(logits=policy(buffer.observations()))
            loss = -(now.log_prob(buffer.actions()) * buffer.returns()).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
""",
        """
import torch
import torch.nn.functional as F
class DQN:
    def __init__(self, online, target):
        self.online, self.target = online, target
        self.target.load_state_dict(self.online.state_dict())
        self.optimizer = torch.optim.Adam(self.online.parameters())
    def learn(self, batches):
        for state, action, reward, following in batches:
            best, _ = self.target(following).max(dim=1)  # MEM603: 23
            wanted = reward + 0.99 * best.detach()
            loss = F.smooth_l1_loss(self.online(state).gather(1, action), wanted.unsqueeze(1))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
""",
        """
import torch
import lightning as L
from transformers import AutoModel
class Distiller(L.LightningModule):
    def __init__(self, student):
        super().__init__()
        self.student = student
        self.teacher = AutoModel.from_pretrained("big")
    def training_step(self, batch, index):
        wanted = self.teacher(batch).last_hidden_state  # MEM603
        return torch.nn.functional.mse_loss(self.student(batch), wanted)
    def configure_optimizers(self):
        return torch.optim.AdamW(self.student.parameters(), lr=1e-4)
""",
        """
import torch
from transformers import AutoModelForCausalLM, Trainer
class Preference(Trainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.reference = AutoModelForCausalLM.from_pretrained("base")
        self.reference.eval()
    def compute_loss(self, model, inputs, return_outputs=False):
        reference = self.reference(**inputs).logits  # MEM603
        outputs = model(**inputs)
        loss = (outputs.logits - reference).square().mean()
        return (loss, outputs) if return_outputs else loss
""",
        """
import torch
from torch import nn
G, D = nn.Linear(8, 64), nn.Linear(64, 1)
opt_G, opt_D = torch.optim.Adam(G.parameters()), torch.optim.Adam(D.parameters())
fixed = torch.randn(64, 8)
for epoch in range(5):
    for i, real in enumerate(torch.randn(100, 64, 64)):
        opt_D.zero_grad()
        fake = G(torch.randn(64, 8)).detach()  # MEM603: 16
        (D(fake).mean() - D(real).mean()).backward()
        opt_D.step()
        opt_G.zero_grad()
        (-D(G(torch.randn(64, 8))).mean()).backward()
        opt_G.step()
        if i % 50 == 0:
            sample = G(fixed)  # MEM603: 22
            print(sample.data.mean())
""",
        """
import torch
def train(generator, discriminator: torch.nn.Module, loader, optimizer):
    for real in loader:
        fake = generator(real)
        loss = -discriminator(fake).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        score = {"real": discriminator(real)}  # MEM603
        print(f"{score['real'].mean():.3f}")
""",
    )
    negative = (
        """
import torch
from accelerate import Accelerator
class Engine(Accelerator):
    def setup(self):
        pass
def train(actor: torch.nn.Module, critic: torch.nn.Module, loader: torch.utils.data.DataLoader):
    engine, optimizer = Engine(), torch.optim.Adam(critic.parameters())
    actor_optimizer = torch.optim.Adam(actor.parameters())
    for states in loader:
        policy_loss = -critic(actor(states)).mean()
        engine.backward(policy_loss)
        actor_optimizer.step()
        value_loss = critic(states).mean()
        engine.backward(value_loss)
        optimizer.step()
""",
        """
import copy
import torch
from torch import nn
def deactivate(model: nn.Module):
    for param in model.parameters():
        param.requires_grad = False
class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.target = nn.Linear(2, 2)
        self.online = copy.deepcopy(self.target)
        deactivate(self.target)
def main(loader: torch.utils.data.DataLoader):
    model = Siamese()
    optimizer = torch.optim.AdamW(model.online.parameters())
    for x in loader:
        loss = (model.online(x) - model.target(x)).pow(2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import torch
from torch import nn

class Guide:
    def __init__(self, net: nn.Module, store):
        self.net = net
        self.store = store

    def refine(self, latents, target, size):
        loss = self.store.loss()
        while loss > target:
            latents = latents.clone().detach().requires_grad_(True)
            self.net(latents).sample
            self.net.zero_grad()
            loss = self.store.loss()
            latents = latents - size * torch.autograd.grad(loss, [latents])[0]
        return latents
""",
        """
import torch
import torch.nn.functional as F
from torch import nn
def build(path):
    encoder = nn.Linear(8, 8)
    encoder.load_state_dict(torch.load(path, map_location="cpu"))
    return encoder
def everything(path):
    encoder, decoder = build(path), nn.Linear(8, 8)
    return encoder, decoder, torch.optim.Adam([*encoder.parameters(), *decoder.parameters()])
def train(loader):
    encoder, decoder, optimizer = everything("encoder.pt")
    for x, y in loader:
        loss = F.mse_loss(decoder(x) + encoder(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
def join(loader):
    encoder, decoder = build("encoder.pt"), build("decoder.pt")
    optimizer = torch.optim.Adam(list(encoder.parameters()) + list(decoder.parameters()))
    for x, y in loader:
        loss = F.mse_loss(decoder(x) + encoder(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
        """
import torch
import torch.nn.functional as F
def distill(student, loader):
    teacher = torch.hub.load("some/repo", "big", pretrained=True)
    teacher.eval()
    optimizer = torch.optim.AdamW(student.parameters())
    for x, y in loader:
        optimizer.zero_grad()
        with torch.no_grad():
            t_logits = teacher(x)
        loss = F.kl_div(student(x).log_softmax(-1), t_logits.softmax(-1))
        loss.backward()
        optimizer.step()
""",
        """
import torch
import torch.nn.functional as F
def distill(student, loader):
    teacher = torch.hub.load("some/repo", "big", pretrained=True)
    teacher.requires_grad_(False)
    optimizer = torch.optim.AdamW(student.parameters())
    for x, y in loader:
        loss = F.mse_loss(student(x), teacher(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
        """
import torch
import torchvision
def train(generator, loader):
    vgg = torchvision.models.vgg16(weights="DEFAULT").features
    for parameter in vgg.parameters():
        parameter.requires_grad = False
    optimizer = torch.optim.Adam(generator.parameters())
    for low, high in loader:
        fake = generator(low)
        loss = torch.nn.functional.l1_loss(vgg(fake), vgg(high))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
        """
import torch
import torch.nn.functional as F
def mutual(one: torch.nn.Module, other: torch.nn.Module, loader):
    optimizer = torch.optim.Adam([*one.parameters(), *other.parameters()])
    other.eval()
    for x, y in loader:
        a, b = one(x), other(x)
        loss = F.kl_div(a, b.detach()) + F.kl_div(b, a.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
        """
import torch
class ActorCritic(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.value = torch.nn.Linear(4, 2), torch.nn.Linear(4, 1)
    def forward(self, x):
        return torch.distributions.Categorical(logits=self.body(x)), self.value(x)
def train(env, model: ActorCritic, optimizer):
    for update in range(1000):
        log_probs, values, rewards = [], [], []
        state = env.reset()
        for _ in range(20):
            dist, value = model(state)
            action = dist.sample()
            state, reward = env.step(action.item())
            log_probs.append(dist.log_prob(action))
            values.append(value)
            rewards.append(reward)
        loss = sum((r - v).pow(2).mean() - lp for lp, v, r in zip(log_probs, values, rewards))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
        """
import torch
from torch import nn
class Model(nn.Module):
    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
    def forward(self, x):
        return self.decoder(self.encoder(x))
def train(loader):
    encoder, decoder = nn.Linear(4, 2), nn.Linear(2, 4)
    encoder.load_state_dict(torch.load("encoder.pt"))
    model = Model(encoder, decoder)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x in loader:
        loss = (model(x) - x).pow(2).mean() + encoder(x).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
        """
import torch
from torch import nn
def gan(G: nn.Module, D: nn.Module, loader, opt_g, opt_d):
    for real in loader:
        fake = G(torch.randn(8, 8))
        opt_d.zero_grad()
        (D(fake.detach()).mean() - D(real).mean()).backward()
        opt_d.step()
        opt_g.zero_grad()
        (-D(fake).mean()).backward()
        opt_g.step()
""",
        """
import torch
from transformers import Trainer
class Weighted(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False):
        outputs = model(**inputs)
        extra = self.model(**inputs).logits.mean()
        return outputs.loss + extra
""",
        """
import torch
import lightning as L
class Autoencoder(L.LightningModule):
    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.encoder.eval()
    def training_step(self, batch, index):
        return (self.decoder(self.encoder(batch)) - batch).pow(2).mean()
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())
""",
        """
import torch
def train(model: torch.nn.Module, probe: torch.nn.Module, loader, make_optimizer):
    optimizer = make_optimizer()
    probe.eval()
    for x, y in loader:
        loss = (model(x) - probe(x)).pow(2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for function in program.functions:
            for call in forwards(function):
                if in_training_step(call) and not is_meant_without_gradients(call):
                    yield from self._in_step(call)

    def _in_step(self, call: Call) -> Iterator[Finding]:
        confidence = wasted(call)
        if confidence is not None:
            yield self._wasted(call, confidence)
            return
        module = called_module(call)
        if module is None or any(attachment(given.value) > Attachment.UNKNOWN for given in call.arguments):
            return
        if is_trained(module, call.region) is False and _trains_another(call):
            yield self._untrained(call, module)

    def _wasted(self, call: Call, confidence: Confidence) -> Finding:
        freed = _is_detached_at_once(call)
        wrapping = wrap_in_no_grad([call], safe=False)
        return self.finding(
            call.node,
            lambda: f"`{code(call.node)}` records a graph that nothing differentiates, in a step of training",
            holds="the activations of its forward pass, "
            + ("while it runs" if freed else "until its output is dropped"),
            confidence=confidence if is_repeated(call) is not False else Confidence.POSSIBLE,
            severity=Severity.NOTE if freed else None,
            fixes=(wrapping,) if wrapping is not None else (),
            claim=Claim(
                ClaimShape.SPIKE if freed else ClaimShape.PRESENT,
                "device",
                "A",
                held=call.node,
                watch=Watch.FORWARD_GRAPH,
            ),
        )

    def _untrained(self, call: Call, module: Value) -> Finding:
        wrapping = wrap_in_no_grad([call], safe=False, untrained=True)
        return self.finding(
            call.node,
            lambda: f"`{code(call.node)}` records a graph, but no optimizer trains `{code(_called(call))}`",
            holds="the activations of its forward pass until the backward, and gradients that nothing uses",
            confidence=Confidence.LIKELY if is_meant_for_evaluation(module) else Confidence.POSSIBLE,
            fixes=(wrapping,) if wrapping is not None else (),
            claim=Claim(ClaimShape.PRESENT, "device", "A + G", held=call.node),
        )


def _called(call: Call) -> cst.CSTNode:
    """The module where it is called: ``teacher`` in ``teacher(x)`` and in ``teacher.forward(x)``."""
    function = call.node.func
    by_method = call.receiver is not None and called_module(call) is call.receiver
    return function.value if by_method and isinstance(function, cst.Attribute) else function


def _trains_another(call: Call) -> bool:
    """Whether the same function runs a module that is trained: else what is trained may be hidden in this one."""
    others = (called_module(other) for other in call.function.calls if other is not call)
    return any(module is not None and is_trained(module, call.region) for module in others)


def _is_detached_at_once(call: Call) -> bool:
    """Whether all that is read of the output is detached in the same expression, so that the graph is freed at once."""
    return all(
        isinstance(use, Attribute) and (use.name in torch.DETACHING_METHODS or use.name in torch.DETACHING_ATTRIBUTES)
        for use in call.uses
    )
