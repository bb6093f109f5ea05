"""MEM502."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Related, Severity, Watch
from memlint.model.checkpointing import (
    checkpoints,
    cuts_gradients,
    enabling_calls,
    ignored_options,
    inactive_in_evaluation_mode,
    leaves_form_open,
    needless_input_gradients,
    trained_without,
    untrained_adapter,
)
from memlint.model.late_binding import rebound_in_segments
from memlint.model.pins import is_at_least
from memlint.model.program import Program
from memlint.model.source_text import code
from memlint.model.values import Call, operand_occurrences
from memlint.rule import Rule

_HOLDS = "what autograd saves in every block, as without checkpointing"


class CheckpointingInactiveOrBroken(Rule):
    """Activation checkpointing is asked for, but is off, keeps parameters from training, or may change its form.

    ## What it does
    Finds

    - an option such as `--gradient_checkpointing` that the program declares and nothing reads (of argparse or click, or
      a field of a class that `HfArgumentParser`, tyro and their like fill);
    - models of transformers with checkpointing that are trained in evaluation mode, in which `from_pretrained` returns
      them: their layers checkpoint only while `training` is set;
    - `use_reentrant=True` where no input requires a gradient: images or token ids that go into the first block, or
      adapters of peft on a frozen model;
    - several pretrained models that are trained, of which only some are told to checkpoint;
    - a function given to `checkpoint` in a loop that reads a variable of the loop, such as
      `checkpoint(lambda h: block(h), x)`: the backward runs it again when the variable has its last value;
    - `enable_input_require_grads()` beside `use_reentrant=False`;
    - `checkpoint(f, x)` without `use_reentrant`, unless the project pins a torch before 1.11, which lacks it.

    ## Why is this bad?
    Checkpointing that does not take place saves nothing: all of A is alive at the peak. The reentrant form runs the
    forward without gradients, and records a single node if one of its inputs requires a gradient; if none does, what
    comes out requires none, and the parameters inside are never trained. A function that reads the variable of a loop
    reads it again in the backward: of three blocks run by `lambda h: block(h)` the last one got the gradients of its
    own, and the other two none or zeros (measured, in both forms). Input gradients that only the reentrant form
    needs make autograd save the activations of all frozen layers: 9.0 MiB in place of 2.0 MiB in a frozen network
    (measured with torch 2.13 on a CPU). Without `use_reentrant` torch warns and takes the reentrant form, which is to
    change. `use_cache=True` needs no change: models of transformers switch the cache off themselves while they
    checkpoint.

    ## Example
    ```python
    x = checkpoint(block, x)
    ```

    ## Use instead
    ```python
    x = checkpoint(block, x, use_reentrant=False)
    ```

    ## Fix safety
    `use_reentrant=False` gives the same numbers; the fix is safe where the project asks for torch 2.1 or later, and
    unsafe otherwise, since older versions lack parts of that form. There is no fix for the others: give `checkpoint`
    the block itself, or bind it by `lambda h, block=block: block(h)`, which changes what is trained.

    ## When to ignore
    When the project hands the option on in a way that memlint does not see.

    ## References
    - [torch.utils.checkpoint](https://docs.pytorch.org/docs/stable/checkpoint.html)
    - [transformers#21381](https://github.com/huggingface/transformers/issues/21381),
      [transformers#23170](https://github.com/huggingface/transformers/issues/23170),
      [transformers#26221](https://github.com/huggingface/transformers/issues/26221),
      [peft#1142](https://github.com/huggingface/peft/issues/1142)
    """

    code = "MEM502"
    name = "checkpointing-inactive-or-broken"
    severity = Severity.WARNING
    gate = frozenset(
        {
            "checkpoint",
            "checkpoint_sequential",
            "gradient_checkpointing_enable",
            "activation_checkpointing_enable",
            "enable_gradient_checkpointing",
            "add_argument",
            "click",
            "gradient_checkpointing",
            "use_gradient_checkpointing",
            "activation_checkpointing",
            "use_activation_checkpointing",
            "checkpoint_activations",
            "grad_checkpointing",
        }
    )
    fixers = ("add_argument",)
    positive = (
        """
from accelerate import Accelerator
from diffusers import UNet2DConditionModel
def main(args, cls, loader, optimizer):
    accelerator = Accelerator()
    text_encoder = cls.from_pretrained(args.path, subfolder="text_encoder")
    unet = UNet2DConditionModel.from_pretrained(args.path, subfolder="unet")
    if args.checkpoint:
        unet.enable_gradient_checkpointing()  # MEM502: 9
    unet, text_encoder, optimizer = accelerator.prepare(unet, text_encoder, optimizer)
    unet.train()
    if args.train_text_encoder:
        text_encoder.train()
    for batch in loader:
        accelerator.backward(unet(batch["x"], batch["t"], text_encoder(batch["ids"])[0]).sample.mean())
        optimizer.step()
        optimizer.zero_grad()
""",
        """
from torch import nn
from torch.utils.checkpoint import checkpoint
class Net(nn.Module):
    def forward(self, x, mask):
        for block in self.blocks:
            x = checkpoint(lambda h: block(h, mask), x, use_reentrant=False)  # MEM502: 17
        for i, block in enumerate(self.others):
            def run(h):
                return block(h, mask)
            x = checkpoint(run, x, use_reentrant=False)  # MEM502
        function = getattr(self, "_gradient_checkpointing_func", None) or checkpoint
        for block in self.tail:
            x = function(lambda *given: block(*given), x, mask)  # MEM502
        return x
""",
        """
from dataclasses import dataclass
from transformers import HfArgumentParser as Parser
class OurParser(Parser):
    pass
@dataclass
class Options:
    name: str = "gpt2"
    gradient_checkpointing: bool = False  # MEM502: 5
(options,) = OurParser(Options).parse_args_into_dataclasses()
print(options.name)
""",
        """
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
class Net(nn.Module):
    def forward(self, x):
        for block in self.blocks:
            x = checkpoint(block, x)  # MEM502: 17
        return checkpoint_sequential(self.tail, 4, x)  # MEM502
""",
        """
import argparse
def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gradient_checkpointing", action="store_true")  # MEM502
    parser.add_argument("--lr", type=float, default=1e-4)
    return parser.parse_args()
def main():
    args = parse()
    print(args.lr)
""",
        """
from dataclasses import dataclass, field
from transformers import HfArgumentParser
@dataclass
class Arguments:
    lr: float = 1e-4
    gradient_checkpointing: bool = field(default=True, metadata={"help": "save memory"})  # MEM502: 5
def main():
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    print(args)
    run(args.lr)
""",
        """
import click
@click.command()
@click.option("--use-checkpoint/--no-checkpoint", default=False)
@click.option("--gradient-checkpointing", is_flag=True)  # MEM502
@click.option("--lr", default=0.1)
def main(use_checkpoint, gradient_checkpointing, lr):
    print(lr, use_checkpoint)
""",
        """
import torch
from transformers import AutoModelForCausalLM
def main(loader):
    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model.gradient_checkpointing_enable()  # MEM502
    optimizer = torch.optim.AdamW(model.parameters())
    for batch in loader:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import torch
from transformers import AutoModelForCausalLM
def main(loader, config):
    model = AutoModelForCausalLM.from_config(config)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # MEM502
    optimizer = torch.optim.AdamW(model.parameters())
    model.eval()
    for batch in loader:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 7), nn.ReLU(), nn.Conv2d(64, 64, 3))
        self.trunk = nn.Sequential(nn.Conv2d(64, 128, 3), nn.ReLU(), nn.Conv2d(128, 128, 3))
    def forward(self, images):
        x = checkpoint(self.stem, images, use_reentrant=True)  # MEM502: 13
        return self.trunk(x).mean()
def main(loader):
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for x, _ in loader:
        net(x).backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
def build():
    model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), LoraConfig())
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})  # MEM502
    return model
""",
        """
from transformers import AutoModelForCausalLM
def build(config):
    model = AutoModelForCausalLM.from_config(config)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()  # MEM502
    return model
""",
    )
    negative = (
        """
from diffusers import AutoencoderKL, T2IAdapter, UNet2DConditionModel
from transformers import CLIPTextModel
def main(args):
    text_encoder = CLIPTextModel.from_pretrained(args.path, subfolder="text_encoder")
    unet = UNet2DConditionModel.from_pretrained(args.path, subfolder="unet")
    vae = AutoencoderKL.from_pretrained(args.path, subfolder="vae")
    adapter = T2IAdapter.from_pretrained(args.adapter)
    vae.eval()
    adapter.train()
    if args.checkpoint:
        unet.enable_gradient_checkpointing()
        text_encoder.gradient_checkpointing_enable()
    unet.train()
    text_encoder.train()
    return unet, text_encoder, vae, adapter
""",
        """
from functools import partial
from torch import nn
from torch.utils.checkpoint import checkpoint
def module_function(module):
    def run(*inputs):
        return module(*inputs)
    return run
class Net(nn.Module):
    def forward(self, x, mask):
        for block in self.blocks:
            x = checkpoint(lambda h, block=block: block(h, mask), x, use_reentrant=False)
            x = checkpoint(module_function(block), x, use_reentrant=False)
            x = checkpoint(partial(block, mask=mask), x, use_reentrant=False)
            width = mask.shape[-1]
            x = checkpoint(lambda h: h.reshape(-1, width), x, use_reentrant=False)
        block = self.last
        return checkpoint(lambda h: block(h, mask), x, use_reentrant=False)
def train(model, loader, optimizer):
    for x, y in loader:
        loss = checkpoint(lambda h: (model(h) - y).square().mean(), x, use_reentrant=False)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
from dataclasses import asdict, dataclass
import tyro
from transformers import HfArgumentParser, TrainingArguments
from project import build
@dataclass
class ForTrainer(TrainingArguments):
    gradient_checkpointing: bool = True
@dataclass
class HandedOn:
    gradient_checkpointing: bool = True
@dataclass
class Unpacked:
    gradient_checkpointing: bool = True
@dataclass
class Configuration:
    gradient_checkpointing: bool = True
def main():
    trainer, handed = HfArgumentParser((ForTrainer, HandedOn)).parse_args_into_dataclasses()
    return build(handed), dict(**asdict(tyro.cli(Unpacked)))
""",
        """
from functools import partial
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
run = partial(checkpoint, use_reentrant=False)
class Net(nn.Module):
    def forward(self, x, **options):
        x = checkpoint(self.first, x, use_reentrant=False)
        x = run(self.second, x)
        x = checkpoint(self.third, x, **options)
        with torch.no_grad():
            y = checkpoint(self.fourth, x)
        return x + y
""",
        """
import click
from train import run
@click.command()
@click.option("--gradient-checkpointing", is_flag=True)
@click.option("--activation-checkpointing", is_flag=True)
def main(gradient_checkpointing, **options):
    def start():
        run(checkpointing=gradient_checkpointing, **options)
    start()
""",
        """
import deepspeed
def forward(self, x):
    return deepspeed.checkpointing.checkpoint(self.block, x)
""",
        """
import argparse
from transformers import AutoModelForCausalLM
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--checkpointing_steps", type=int, default=500)
    args = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained("gpt2")
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return model
""",
        """
import torch
from transformers import AutoModelForCausalLM
def main(loader):
    model = AutoModelForCausalLM.from_pretrained("gpt2", use_cache=True)
    model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW(model.parameters())
    model.eval()
    model.train()
    for batch in loader:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
def main(data):
    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model.gradient_checkpointing_enable()
    Trainer(model, TrainingArguments("out"), train_dataset=data).train()
""",
        """
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
def build():
    model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), LoraConfig())
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    return model
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        yield from self._checkpoints(program)
        yield from self._models(program)
        partly = trained_without(program)
        if partly is not None:
            enabling, training = partly
            other = code(operand_occurrences(training)[0].node)
            yield self.finding(
                enabling.node,
                f"`{other}` is trained as well, and nothing switches checkpointing on in it",
                holds="what autograd saves in every block of the other model",
                severity=Severity.NOTE,
                confidence=Confidence.LIKELY,
                claim=_inactive(training.node),
                related=(Related(training.node, "it is trained here"),),
            )
        for call, name in rebound_in_segments(program):
            yield self.finding(
                call.node,
                f"The backward computes each segment with the last `{name}` of the loop: the others get no gradient",
                holds="nothing: what the other iterations used gets no gradient, or a wrong one",
                severity=Severity.ERROR,
                confidence=Confidence.LIKELY,
                claim=_claim(call.node, "a gradient that is missing takes no memory"),
            )
        for name, node in ignored_options(program):
            yield self.finding(
                node,
                f"The option `{name}` is declared, and nothing reads it",
                holds=_HOLDS,
                confidence=Confidence.LIKELY,
                claim=_inactive(node),
            )

    def _checkpoints(self, program: Program) -> Iterator[Finding]:
        for call in checkpoints(program):
            cut = cuts_gradients(call)
            if cut is not None:
                yield self.finding(
                    call.node,
                    f"No input of `{code(call.node.func)}` requires a gradient: its parameters get none either",
                    holds="nothing: the parameters inside get no gradient",
                    severity=Severity.ERROR,
                    confidence=cut,
                    fixes=(_fix(call),) if leaves_form_open(call) else (),
                    claim=_claim(call.node, "a gradient that is missing takes no memory"),
                )
            elif leaves_form_open(call):
                yield self.finding(
                    call.node,
                    f"`{code(call.node.func)}` does not say `use_reentrant`: torch warns, and takes the older form",
                    holds="what the reentrant form keeps: its inputs, and all of its outputs until the backward",
                    severity=Severity.NOTE,
                    confidence=Confidence.CERTAIN,
                    fixes=(_fix(call),),
                    claim=_claim(call.node, "the two forms save the same, and differ in what they can be used for"),
                )

    def _models(self, program: Program) -> Iterator[Finding]:
        for call in enabling_calls(program):
            found = inactive_in_evaluation_mode(call)
            if found is not None:
                yield self.finding(
                    call.node,
                    f"`{code(found[0].node.func)}` is trained in evaluation mode, where its layers do not checkpoint",
                    holds=_HOLDS,
                    confidence=found[1],
                    claim=_inactive(call.node),
                )
            adapter = untrained_adapter(call)
            if adapter is not None:
                yield self.finding(
                    call.node,
                    "No input of the frozen model requires a gradient: with reentrant checkpoints, no adapter gets one",
                    holds="nothing: the adapters get no gradient",
                    severity=Severity.ERROR,
                    confidence=adapter,
                    claim=_claim(call.node, "a gradient that is missing takes no memory"),
                )
        for call in program.calls("enable_input_require_grads"):
            if needless_input_gradients(call) is not None:
                yield self.finding(
                    call.node,
                    "`use_reentrant=False` needs no inputs that require gradients; with them frozen layers save theirs",
                    holds="the activations of frozen layers before the first trained one",
                    severity=Severity.NOTE,
                    confidence=Confidence.LIKELY,
                    claim=_claim(call.node, "only a run without the call shows what it costs"),
                )


def _fix(call: Call) -> Fix:
    safe = is_at_least(call.function.module, "torch", "2.1")
    return Fix(
        "add_argument",
        "Say `use_reentrant=False`",
        Applicability.SAFE if safe else Applicability.UNSAFE,
        {"call": call.node},
        {"code": "use_reentrant=False"},
    )


def _inactive(node: cst.CSTNode) -> Claim:
    return Claim(ClaimShape.SPIKE, "device", "A - A / L", held=node, watch=Watch.BLOCK_ACTIVATIONS)


def _claim(node: cst.CSTNode, why: str) -> Claim:
    return Claim(ClaimShape.SPIKE, "device", "A - A / L", held=node, unobservable=why)
