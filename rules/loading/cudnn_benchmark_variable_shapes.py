"""MEM811."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity
from memlint.model.aliases import qualified_names, sources
from memlint.model.configurations import Framework, configurations
from memlint.model.program import Program
from memlint.model.scopes import Module
from memlint.model.values import Call, Constant, FunctionValue, Store
from memlint.rule import Rule


class CudnnBenchmarkVariableShapes(Rule):
    """With inputs of many sizes, cuDNN tries out its algorithms again and again, each with a large workspace.

    ## What it does
    Finds `torch.backends.cudnn.benchmark = True` and Lightning's `Trainer(benchmark=True)` in programs whose inputs
    have sizes of their own in each batch: padded sequences, multi-scale resizing, lists of images for detection. Off by
    default.

    ## Why is this bad?
    For every shape that a convolution has not seen, `benchmark` runs all algorithms, each with the workspace that it
    asks for; the peak is that of the greediest (12.8 GB in a report, 4.7 GB in the steady state), and the time is spent
    again and again. With inputs of one size it pays off.

    ## Example
    ```python
    torch.backends.cudnn.benchmark = True
    batch = pad_sequence(waveforms, batch_first=True)
    ```

    ## Use instead
    ```python
    torch.backends.cudnn.benchmark = False
    batch = pad_sequence(waveforms, batch_first=True)
    ```

    ## Fix safety
    Unsafe: other algorithms may be chosen, whose speed and rounding differ.

    ## When to ignore
    When there are few distinct sizes, as with buckets.

    ## References
    - [torch.backends.cudnn.benchmark](https://docs.pytorch.org/docs/stable/backends.html#torch.backends.cudnn.torch.backends.cudnn.benchmark)
    - [deeplab-pytorch#74](https://github.com/kazuto1011/deeplab-pytorch/issues/74),
      [pytorch#15872](https://github.com/pytorch/pytorch/issues/15872)
    """

    code = "MEM811"
    name = "cudnn-benchmark-variable-shapes"
    severity = Severity.NOTE
    default = False
    gate = frozenset({"benchmark"})
    fixers = ("replace_expression",)
    positive = (
        """
import torch
from torch.nn.utils.rnn import pad_sequence
torch.backends.cudnn.benchmark = True  # MEM811
def collate(samples):
    return pad_sequence(samples, batch_first=True)
""",
        """
import lightning as L
from torch.nn.utils.rnn import pad_sequence
def collate(samples):
    return pad_sequence(samples)
trainer = L.Trainer(benchmark=True)  # MEM811: 31
""",
        """
from torch.backends import cudnn
from torch.utils.data import DataLoader
def main(data):
    cudnn.benchmark = True  # MEM811
    return DataLoader(data, collate_fn=lambda batch: tuple(zip(*batch)))
""",
        """
import torch
torch.backends.cudnn.benchmark = True  # MEM811?
def train(loader, model):
    return [model(x) for x in loader]
""",
    )
    negative = (
        """
import torch
from torch.nn.utils.rnn import pad_sequence
torch.backends.cudnn.benchmark = False
def collate(samples):
    return pad_sequence(samples)
""",
        """
import lightning as L
import torch
from torchvision.transforms import CenterCrop
def main(args):
    torch.backends.cudnn.benchmark = args.benchmark
    return L.Trainer(benchmark=None), CenterCrop(224)
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for node in _switched_on(program):
            sure = _has_variable_sizes(program.module)
            yield self.finding(
                node,
                "cuDNN tries all of its algorithms again, with their workspaces, for each new size of the inputs",
                holds="the workspace of the greediest algorithm, each time that a size is new",
                confidence=Confidence.LIKELY if sure else Confidence.POSSIBLE,
                fixes=(
                    Fix(
                        "replace_expression",
                        "Choose algorithms without trying them",
                        Applicability.UNSAFE,
                        {"expression": node},
                        {"code": "False"},
                    ),
                ),
                claim=Claim(
                    ClaimShape.SPIKE,
                    "device",
                    "largest workspace",
                    held=node,
                    unobservable="workspaces are asked for by cuDNN, which a run without a GPU does not use",
                ),
            )


def _switched_on(program: Program) -> Iterator[cst.CSTNode]:
    for store in program.stores():
        if store.attribute == "benchmark" and _is_cudnn(store) and _is_true(store):
            yield store.value.node
    for made in configurations(program, Framework.LIGHTNING_TRAINER):
        given = made.made.argument("benchmark") if isinstance(made.made, Call) else None
        if isinstance(given, Constant) and given.constant is True:
            yield given.node


def _is_cudnn(store: Store) -> bool:
    return store.base is not None and "torch.backends.cudnn" in qualified_names(store.base)


def _is_true(store: Store) -> bool:
    return isinstance(store.value, Constant) and store.value.constant is True


_PADDING = frozenset(
    """pad_sequence pack_padded_sequence pack_sequence DataCollatorWithPadding DataCollatorForSeq2Seq ScaleJitter
    RandomShortestSize RandomResize GeneralizedRCNNTransform""".split()
)
"""Functions and classes that make, or take, batches of inputs of different sizes."""


def _has_variable_sizes(module: Module) -> bool:
    if any(module.calls_by_name.get(name) for name in _PADDING):
        return True
    loaders = (call for function in module.functions for call in function.calls if call.argument("collate_fn"))
    return any(_keeps_lists(loader) for loader in loaders)


def _keeps_lists(loader: Call) -> bool:
    """Whether batches stay lists of samples: ``collate_fn=lambda batch: tuple(zip(*batch))``."""
    collate = loader.argument("collate_fn")
    for source in sources(collate) if collate is not None else ():
        if isinstance(source, FunctionValue):
            for exit in source.target.lower().returns:
                if any(_is_transposed(each) for each in sources(exit.value)):
                    return True
    return False


def _is_transposed(value: object) -> bool:
    """``tuple(zip(*batch))``."""
    if not isinstance(value, Call) or value.name not in {"tuple", "list"}:
        return False
    inner = value.positional()
    return bool(inner) and isinstance(inner[0], Call) and inner[0].name == "zip" and inner[0].is_open
