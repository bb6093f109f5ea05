"""MEM108."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Applicability, Claim, ClaimShape, Finding, Fix, Related, Severity, Watch
from memlint.model.adversarial import StrayGradient, stray_gradients
from memlint.model.program import Program
from memlint.model.source_text import code
from memlint.rule import Rule


class UndetachedFakeInDiscriminatorStep(Rule):
    """A step that trains one network differentiates the other network behind its input as well.

    ## What it does
    Finds `discriminator(fake)` in the discriminator's step where `fake` still has the graph of the generator: the
    optimizers that step after the backward train the discriminator alone, and the generator's gradients are cleared
    before its own step. Any two networks that are trained in turn count.

    ## Why is this bad?
    The backward runs through the generator: its activations stay alive until then, and it gets a gradient for every
    parameter that nothing uses. A toy GAN had 59.7 MiB alive after the step in place of 42.4 MiB, and a peak of 85.7
    MiB in place of 68.4 MiB (measured). It also takes the time of a backward pass, and where the same samples train the
    generator afterwards it forces `retain_graph=True`.

    ## Example
    ```python
    fake = generator(noise)
    loss = criterion(discriminator(real), ones) + criterion(discriminator(fake), zeros)
    loss.backward()
    optimizer_d.step()
    ```

    ## Use instead
    ```python
    fake = generator(noise)
    loss = criterion(discriminator(real), ones) + criterion(discriminator(fake.detach()), zeros)
    loss.backward()
    optimizer_d.step()
    ```

    ## Fix safety
    Unsafe: `.detach()` keeps the value, and the discriminator's gradients are the same; but nothing is left of a
    gradient that the generator was meant to get here. A generator that runs for this step alone can run under
    `torch.no_grad()` then, which MEM603 says.

    ## When to ignore
    When the gradients of the first network are read by other code before they are cleared.

    ## References
    - [pytorch/examples#116](https://github.com/pytorch/examples/issues/116),
      [Self-Attention-GAN#48](https://github.com/heykeetae/Self-Attention-GAN/issues/48),
      [msg-gan#4](https://github.com/akanimax/msg-gan-v1/issues/4)
    - [SinGAN#117](https://github.com/tamarott/SinGAN/pull/117):
      a generator that is detached in its own step learns nothing
    """

    code = "MEM108"
    name = "undetached-fake-in-discriminator-step"
    severity = Severity.WARNING
    gate = frozenset({"step"})
    fixers = ("call_method",)
    positive = (
        """
import torch
from torch import nn
def train(loader, criterion, ones, zeros):
    D, G = nn.Linear(8, 1), nn.Linear(4, 8)
    d_optimizer = torch.optim.Adam(D.parameters())
    g_optimizer = torch.optim.Adam(G.parameters())
    def reset_grad():
        d_optimizer.zero_grad()
        g_optimizer.zero_grad()
    for images in loader:
        d_loss_real = criterion(D(images), ones)
        fake_images = G(torch.randn(8, 4))
        outputs = D(fake_images)  # MEM108: 21
        d_loss = d_loss_real + criterion(outputs, zeros)
        reset_grad()
        d_loss.backward()
        d_optimizer.step()
        fake_images = G(torch.randn(8, 4))
        g_loss = criterion(D(fake_images), ones)
        reset_grad()
        g_loss.backward()
        g_optimizer.step()
""",
        """
import torch
from torch import nn
class Gan:
    def __init__(self):
        self.generator, self.critic = nn.Linear(4, 8), nn.Linear(8, 1)
        self.generator_optimizer = torch.optim.Adam(self.generator.parameters())
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters())
    def sample(self, size):
        return torch.tanh(self.generator(torch.randn(size, 4)))
    def step(self, real):
        fake = self.sample(len(real))
        self.critic_optimizer.zero_grad()
        loss = self.critic(fake.view(len(real), -1)).mean() - self.critic(real).mean()  # MEM108: 28
        loss.backward(retain_graph=True)
        self.critic_optimizer.step()
        self.generator_optimizer.zero_grad()
        (-self.critic(fake).mean()).backward()
        self.generator_optimizer.step()
""",
        """
import torch
def train(generator: torch.nn.Module, discriminator: torch.nn.Module, loader):
    optimizers = {
        "g": torch.optim.Adam(generator.parameters()),
        "d": torch.optim.Adam(discriminator.parameters()),
    }
    scaler = torch.amp.GradScaler()
    for real, noise in loader:
        with torch.autocast("cuda"):
            loss = discriminator(generator(noise)).mean() - discriminator(real).mean()  # MEM108: 34
        optimizers["d"].zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizers["d"])
        scaler.update()
        with torch.autocast("cuda"):
            loss = -discriminator(generator(noise)).mean()
        optimizers["g"].zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizers["g"])
        scaler.update()
""",
        """
import torch
from torch import nn
class Model:
    def __init__(self):
        self.netG, self.netD = nn.Linear(4, 8), nn.Linear(8, 1)
        self.optimizer_G = torch.optim.Adam(self.netG.parameters())
        self.optimizer_D = torch.optim.Adam(self.netD.parameters())
    def forward(self, batch):
        self.real = batch
        self.fake = self.netG(batch)
    def backward_D(self):
        pred_fake = self.netD(self.fake)  # MEM108: 31
        self.loss_D = pred_fake.mean() - self.netD(self.real).mean()
        self.loss_D.backward(retain_graph=True)
    def backward_G(self):
        self.loss_G = -self.netD(self.fake).mean()
        self.loss_G.backward()
    def optimize_parameters(self, batch):
        self.forward(batch)
        self.optimizer_D.zero_grad()
        self.backward_D()
        self.optimizer_D.step()
        self.optimizer_G.zero_grad()
        self.backward_G()
        self.optimizer_G.step()
""",
        """
import torch
from lightning.fabric import Fabric
from torch import nn
def train(loader):
    fabric = Fabric()
    G, D = nn.Linear(4, 8), nn.Linear(8, 1)
    G, optimizer_g = fabric.setup(G, torch.optim.Adam(G.parameters()))
    D, optimizer_d = fabric.setup(D, torch.optim.Adam(D.parameters()))
    for real in loader:
        fake = G(torch.randn(8, 4))
        optimizer_d.zero_grad()
        fabric.backward(D(fake).mean() - D(real).mean(), retain_graph=True)  # MEM108: 27
        optimizer_d.step()
        optimizer_g.zero_grad()
        fabric.backward(-D(fake).mean())
        optimizer_g.step()
""",
        """
import torch
import lightning as L
class Gan(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = torch.nn.Linear(4, 8), torch.nn.Linear(8, 1)
    def configure_optimizers(self):
        opt_g = torch.optim.Adam(self.generator.parameters())
        opt_d = torch.optim.Adam(self.discriminator.parameters())
        return [opt_g, opt_d], []
    def training_step(self, batch, batch_idx):
        opt_g, opt_d = self.optimizers()
        fake = self.generator(batch)
        loss_g = -self.discriminator(fake).mean()
        opt_g.zero_grad()
        self.manual_backward(loss_g, retain_graph=True)
        opt_g.step()
        loss_d = self.discriminator(fake).mean() - self.discriminator(batch).mean()  # MEM108
        opt_d.zero_grad()
        self.manual_backward(loss_d)
        opt_d.step()
""",
    )
    negative = (
        """
import torch
from torch import nn
def train(loader, criterion, ones, zeros):
    D, G = nn.Linear(8, 1), nn.Linear(4, 8)
    d_optimizer = torch.optim.Adam(D.parameters())
    g_optimizer = torch.optim.Adam(G.parameters())
    for images in loader:
        fake = G(torch.randn(8, 4))
        d_loss = criterion(D(images), ones) + criterion(D(fake.detach()), zeros)
        d_optimizer.zero_grad()
        d_loss.backward()
        d_optimizer.step()
        g_loss = criterion(D(fake), ones)
        g_optimizer.zero_grad()
        g_loss.backward()
        g_optimizer.step()
""",
        """
import torch
from torch import nn
def train(loader, steps):
    D, G = nn.Linear(8, 1), nn.Linear(4, 8)
    d_optimizer = torch.optim.Adam(D.parameters())
    g_optimizer = torch.optim.Adam(G.parameters())
    for images in loader:
        for _ in range(steps):
            with torch.no_grad():
                fake = G(torch.randn(8, 4))
            d_optimizer.zero_grad()
            (D(fake).mean() - D(images).mean()).backward()
            d_optimizer.step()
        g_optimizer.zero_grad()
        (-D(G(torch.randn(8, 4))).mean()).backward()
        g_optimizer.step()
""",
        """
import itertools
import torch
def train(encoder: torch.nn.Module, judge: torch.nn.Module, loader):
    optimizer = torch.optim.Adam(itertools.chain(encoder.parameters(), judge.parameters()))
    for x in loader:
        optimizer.zero_grad()
        judge(encoder(x)).mean().backward()
        optimizer.step()
def train_with_two(encoder: torch.nn.Module, judge: torch.nn.Module, loader):
    first = torch.optim.Adam(encoder.parameters())
    second = torch.optim.Adam(judge.parameters())
    for x in loader:
        first.zero_grad()
        second.zero_grad()
        judge(encoder(x)).mean().backward()
        first.step()
        second.step()
""",
        """
import torch
def requires_grad(model, flag=True):
    for p in model.parameters():
        p.requires_grad = flag
def train(generator: torch.nn.Module, discriminator: torch.nn.Module, loader):
    g_optim = torch.optim.Adam(generator.parameters())
    d_optim = torch.optim.Adam(discriminator.parameters())
    for real, noise in loader:
        requires_grad(generator, False)
        requires_grad(discriminator, True)
        fake = generator(noise)
        loss = discriminator(fake).mean() - discriminator(real).mean()
        discriminator.zero_grad()
        loss.backward()
        d_optim.step()
        requires_grad(generator, True)
        requires_grad(discriminator, False)
        loss = -discriminator(generator(noise)).mean()
        generator.zero_grad()
        loss.backward()
        g_optim.step()
""",
        """
import torch
from torch import nn
def reversed_gradient(encoder: nn.Module, judge: nn.Module, head: nn.Module, loader, criterion):
    judge_optimizer = torch.optim.Adam(judge.parameters())
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()])
    for x, y, domain in loader:
        optimizer.zero_grad()
        judge_optimizer.zero_grad()
        features = encoder(x)
        criterion(judge(features), domain).backward(retain_graph=True)
        judge_optimizer.step()
        criterion(head(features), y).backward()
        optimizer.step()
""",
        """
import torch
import lightning as L
class Gan(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = torch.nn.Linear(4, 8), torch.nn.Linear(8, 1)
    def configure_optimizers(self):
        opt_g = torch.optim.Adam(self.generator.parameters())
        opt_d = torch.optim.Adam(self.discriminator.parameters())
        return [opt_g, opt_d], []
    def training_step(self, batch, batch_idx):
        opt_g, opt_d = self.optimizers()
        self.toggle_optimizer(opt_d)
        loss_d = self.discriminator(self.generator(batch)).mean()
        opt_d.zero_grad()
        self.manual_backward(loss_d)
        opt_d.step()
        self.untoggle_optimizer(opt_d)
        opt_g.zero_grad()
        self.manual_backward(-self.discriminator(self.generator(batch)).mean())
        opt_g.step()
""",
        """
import torch
def train(generator: torch.nn.Module, critic: torch.nn.Module, loader, make):
    optimizer = make(critic)
    other = torch.optim.Adam(generator.parameters())
    for real, noise in loader:
        critic(generator(noise)).mean().backward()
        optimizer.step()
        other.zero_grad()
        (-critic(generator(noise)).mean()).backward()
        other.step()
""",
        """
import torch
def softmax_gan(generator: torch.nn.Module, critic: torch.nn.Module, loader):
    optimizer_g = torch.optim.Adam(generator.parameters())
    optimizer_c = torch.optim.Adam(critic.parameters())
    for real, noise in loader:
        on_real, on_fake = critic(real), critic(generator(noise))
        total = torch.log(torch.exp(-on_real).sum() + torch.exp(-on_fake).sum())
        optimizer_c.zero_grad()
        (on_real.mean() + total).backward(retain_graph=True)
        optimizer_c.step()
        optimizer_g.zero_grad()
        (on_fake.mean() + total).backward()
        optimizer_g.step()
""",
        """
import torch
def penalised(generator: torch.nn.Module, critic: torch.nn.Module, loader):
    optimizer_g = torch.optim.Adam(generator.parameters())
    optimizer_c = torch.optim.Adam(critic.parameters())
    for real, noise in loader:
        fake = generator(noise).detach()
        mixed = (0.5 * real + 0.5 * fake).requires_grad_(True)
        slope = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)[0]
        loss = critic(fake).mean() - critic(real).mean() + (slope.norm(2, dim=1) - 1).pow(2).mean()
        optimizer_c.zero_grad()
        loss.backward()
        optimizer_c.step()
        optimizer_g.zero_grad()
        (-critic(generator(noise)).mean()).backward()
        optimizer_g.step()
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        reported: set[int] = set()
        for function in program.functions:
            for stray in stray_gradients(function):
                if id(stray.argument) not in reported:
                    reported.add(id(stray.argument))
                    yield self._finding(stray)

    def _finding(self, stray: StrayGradient) -> Finding:
        fake, judge, source = map(code, (stray.argument.node.value, stray.judge.node.func, stray.source.node.func))
        return self.finding(
            stray.argument.node.value,
            f"`{fake}` takes the backward of `{judge}` on into `{source}`, which is not trained in this step",
            holds=f"the activations of `{source}` until the backward, and gradients for it that nothing uses",
            confidence=stray.confidence,
            fixes=(
                Fix(
                    "call_method",
                    f"Detach `{fake}`",
                    Applicability.UNSAFE,
                    {"expression": stray.argument.node},
                    {"method": "detach"},
                    reveals=frozenset({"MEM104", "MEM603"}),
                ),
            ),
            related=(Related(stray.backward.node, "the backward that goes on into it"),),
            claim=Claim(
                ClaimShape.SPIKE, "device", "A + G", held=stray.argument.node.value, watch=Watch.STRAY_GRADIENTS
            ),
        )
