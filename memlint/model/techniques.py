"""Which techniques that save memory the code of a file uses, or leaves to its settings.

What counts is what names are bound to: imports and what is read from them by their qualified names, methods that
libraries document, and settings, which are keywords, parameters, fields, attributes, keys and options of the command
line. A local variable, a function's name, a comment or a text of several words says nothing. Files are read by Python's
own parser, since whole programs are asked, most of whose files no rule looks at.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache
from typing import NamedTuple

from memlint.bare_trees.building import python_tree
from memlint.model.coupled_losses import couples_samples
from memlint.model.syntax import imported_names
from memlint.model.taken_in_parts import Calls, accumulates, takes_batches_apart

_KEPT = 512
"""Files whose answer is remembered."""


class Technique(Enum):
    """One way to need less memory, or what rules it out."""

    HALF_PRECISION = auto()
    """A model runs in half precision: autocast, casts, types of 16 bits."""
    LOSS_SCALING = auto()
    """A scaler of losses or a setting for mixed precision, which may be beside the training itself only."""
    CHECKPOINTING = auto()
    """Activations are computed again, or moved to the host."""
    ACCUMULATION = auto()
    """Gradients of several micro-batches are added up."""
    PARTS = auto()
    """A batch of the loader is taken apart, so that what runs is smaller."""
    AUTOMATIC_BATCH = auto()
    """The size of the batch is found by trying."""
    COUPLED_BATCH = auto()
    """A loss compares the samples of a batch with each other, so that it cannot be taken in parts."""
    SHARDING = auto()
    """Parameters, gradients or states are spread over several GPUs."""
    REDUCED_STATES = auto()
    """Parameters or states are moved to the host, or trained by adapters only."""
    QUANTISED = auto()
    """Weights are of 4 or 8 bits, and computed with in half precision."""


class _Signs(NamedTuple):
    """What shows a technique."""

    names: tuple[str, ...] = ()
    """Qualified names; what begins with one and a dot is a part of it."""
    methods: frozenset[str] = frozenset()
    """What is called on an object."""
    settings: re.Pattern[str] | None = None
    """Names of settings, in lower case."""
    values: frozenset[str] = frozenset()
    """Texts that settings have."""
    imported: re.Pattern[str] | None = None
    """The last part of what is imported from packages that memlint does not know, and classes of the project."""


_HALF_TYPES = ("float16", "half", "bfloat16", "HalfTensor", "BFloat16Tensor", "cuda.HalfTensor", "cuda.BFloat16Tensor")
_HALF_WORDS = "fp16|bf16|float16|bfloat16|autocast|mixed_precision|mixed_prec|mix_prec|half_precision"
_HALF_SETTING = rf"^(?!.*_full_eval$)(.*_)?({_HALF_WORDS})(_|$)"
_SIGNS = {
    Technique.HALF_PRECISION: _Signs(
        names=(
            *(f"torch.{name}" for name in _HALF_TYPES),
            "torch.autocast",
            "torch.amp.autocast",
            "torch.amp.autocast_mode",
            "torch.cuda.amp.autocast",
            "torch.cpu.amp.autocast",
            "apex.amp",
            "apex.fp16_utils",
            "transformer_engine",
            "mmengine.optim.AmpOptimWrapper",
        ),
        methods=frozenset({"half", "bfloat16", "autocast"}),
        settings=re.compile(_HALF_SETTING),
        values=frozenset("fp16 bf16 float16 bfloat16 16-mixed bf16-mixed 16-true bf16-true".split()),
        imported=re.compile(r"autocast|fp16|bf16|mixed_?prec", re.IGNORECASE),
    ),
    Technique.LOSS_SCALING: _Signs(
        names=(
            "torch.amp",
            "torch.cuda.amp",
            "timm.utils.NativeScaler",
        ),
        settings=re.compile(r"^((use|with|enable|no)_)?(amp|half)$|^(amp_|grad_?scaler)|_grad_scaler$"),
        imported=re.compile(r"[Gg]rad_?[Ss]caler|(^|_)amp(_|$)|(^|[a-z])Amp([A-Z]|$)|AMP"),
    ),
    Technique.CHECKPOINTING: _Signs(
        names=(
            "torch.utils.checkpoint",
            "torch.autograd.graph.save_on_cpu",
            "torch.autograd.graph.saved_tensors_hooks",
            "torch.distributed.algorithms._checkpoint",
            "torch._functorch.config.activation_memory_budget",
            "fairscale.nn.checkpoint_wrapper",
            "fairscale.nn.checkpoint",
            "deepspeed.checkpointing",
        ),
        methods=frozenset(
            "gradient_checkpointing_enable activation_checkpointing_enable enable_gradient_checkpointing "
            "set_grad_checkpointing enable_activation_checkpointing apply_activation_checkpointing".split()
        ),
        settings=re.compile(
            r"(grad|gradient|activations?|use|with)_(checkpoint|ckpt)|^use_reentrant|^checkpoint_(activations|policy)|"
            r"^checkpointing$|recompute|(^|_)remat|activations?_offload|offload(ing)?_activations?|activation_memory_budget|(^|_)ac_(mode|config)"
        ),
        imported=re.compile(
            r"checkpoint_?(sequential|wrapper)|(activation|gradient)_?checkpoint|^prepare_model_for_(kbit|int8)_training$",
            re.IGNORECASE,
        ),
    ),
    Technique.ACCUMULATION: _Signs(
        methods=frozenset({"no_sync", "accumulate"}),
        settings=re.compile(r"(^|_)accum(ulate|ulation|ulating)?(_|$)|micro_?batch|virtual_batch"),
        imported=re.compile(r"^GradientAccumulationScheduler$"),
    ),
    Technique.AUTOMATIC_BATCH: _Signs(
        names=("accelerate.utils.find_executable_batch_size", "accelerate.find_executable_batch_size"),
        methods=frozenset({"scale_batch_size"}),
        settings=re.compile(r"^auto_(find|scale)_batch_size$"),
        imported=re.compile(r"^find_executable_batch_size$"),
    ),
    Technique.COUPLED_BATCH: _Signs(
        names=("pytorch_metric_learning", "lightly.loss"),
        imported=re.compile(r"contrastive|info_?nce|triplet|supcon|clip_?loss", re.IGNORECASE),
    ),
    Technique.SHARDING: _Signs(
        names=(
            "torch.distributed.fsdp",
            "torch.distributed._composable",
            "fairscale.nn.FullyShardedDataParallel",
            "deepspeed",
        ),
        settings=re.compile(r"(^|_)(fsdp|deepspeed)(_|$)"),
        imported=re.compile(r"^(FSDP|FullyShardedDataParallel|fully_shard|FSDPStrategy|DeepSpeed(Strategy|Plugin))$"),
    ),
    Technique.REDUCED_STATES: _Signs(
        names=("peft",),
        settings=re.compile(r"(^|_)(cpu_offload|offload)(_|$)"),
        imported=re.compile(r"^(get_peft_model|LoraConfig)$"),
    ),
    Technique.QUANTISED: _Signs(
        names=("bitsandbytes.nn", "transformers.BitsAndBytesConfig", "torchao.quantization"),
        settings=re.compile(r"^(load_in_[48]bit|quantization_config)$"),
    ),
}


def techniques(text: str) -> frozenset[Technique]:
    """What a file uses or has a setting for; nothing if this Python cannot parse it."""
    return _techniques(text)


@lru_cache(_KEPT)
def _techniques(text: str) -> frozenset[Technique]:
    try:
        tree = python_tree(text)
        nodes = list(ast.walk(tree))
        uses = _Uses.of(nodes)
    except (SyntaxError, ValueError, RecursionError):
        return frozenset()
    found = {technique for technique, signs in _SIGNS.items() if _shows(uses, signs)}
    calls = Calls(nodes)
    if uses.counts_steps or accumulates(calls):
        found.add(Technique.ACCUMULATION)
    if takes_batches_apart(calls):
        found.add(Technique.PARTS)
    if couples_samples(text, tree):
        found.add(Technique.COUPLED_BATCH)
    return frozenset(found)


def _shows(uses: _Uses, signs: _Signs) -> bool:
    if not uses.methods.isdisjoint(signs.methods) or not uses.texts.isdisjoint(signs.values):
        return True
    if any(_is_part_of(name, known) for known in signs.names for name in uses.names):
        return True
    if signs.settings is not None and any(signs.settings.search(name) for name in uses.settings):
        return True
    return signs.imported is not None and any(map(signs.imported.search, uses.imported))


def _is_part_of(name: str, known: str) -> bool:
    return name == known or name.startswith(f"{known}.")


@dataclass
class _Uses:
    """What a file refers to."""

    names: set[str] = field(default_factory=set)
    """Qualified names of what it imports, and of what it reads from that."""
    methods: set[str] = field(default_factory=set)
    settings: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)
    imported: set[str] = field(default_factory=set)
    """The last parts of imported names, and the classes that the file defines."""
    counts_steps: bool = False
    """Whether an optimizer steps once in a number of iterations."""
    _bound: dict[str, str] = field(default_factory=dict)
    """What names of imports are bound to."""

    @classmethod
    def of(cls, nodes: Sequence[ast.AST]) -> _Uses:
        """What the nodes of a file refer to."""
        bound = imported_names(nodes)
        # ``import a.b`` binds ``a``.
        modules = {each.name for node in nodes if isinstance(node, ast.Import) for each in node.names}
        uses = cls(modules.union(bound.values()), imported={name.rpartition(".")[2] for name in bound.values()})
        uses._bound = bound
        for node in nodes:
            uses._read(node)
        return uses

    def _read(self, node: ast.AST) -> None:
        match node:
            case ast.Attribute():
                self._attribute(node)
            case ast.Call():
                self._call(node)
            case ast.arg(arg=name):
                self.settings.add(name.lower())
            case ast.ClassDef(name=name, body=body):
                self.imported.add(name)
                self._fields(body)
            case ast.Subscript(slice=ast.Constant(value=str(key))):
                self.settings.add(key.lower())
            case ast.Dict(keys=keys):
                self.settings |= {key.lower() for key in map(_text_of, keys) if key is not None}
            case ast.If(test=test, body=body):
                self.counts_steps = self.counts_steps or (_has_remainder(test) and _steps(body))

    def _attribute(self, node: ast.Attribute) -> None:
        qualified = self._qualified(node)
        if qualified is None:
            self.settings.add(node.attr.lower())
        else:
            self.names.add(qualified)

    def _qualified(self, node: ast.expr) -> str | None:
        if isinstance(node, ast.Name):
            return self._bound.get(node.id)
        base = self._qualified(node.value) if isinstance(node, ast.Attribute) else None
        return f"{base}.{node.attr}" if base is not None and isinstance(node, ast.Attribute) else None

    def _call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute) and self._qualified(node.func) is None:
            self.methods.add(node.func.attr)
            key = _text_of(node.args[0]) if node.func.attr in {"get", "pop", "setdefault"} and node.args else None
            self.settings |= {key.lower()} if key is not None else set()
        for keyword in node.keywords:
            if keyword.arg is not None:
                self.settings.add(keyword.arg.lower())
        for value in (*node.args, *(keyword.value for keyword in node.keywords)):
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                self._text(value.value)

    def _text(self, text: str) -> None:
        """An option of the command line, or the value of a setting."""
        if text.startswith("--"):
            self.settings.add(text.lstrip("-").replace("-", "_").lower())
        else:
            self.texts.add(text.lower())

    def _fields(self, body: list[ast.stmt]) -> None:
        for each in body:
            targets = each.targets if isinstance(each, ast.Assign) else [getattr(each, "target", None)]
            self.settings |= {target.id.lower() for target in targets if isinstance(target, ast.Name)}


def _text_of(key: ast.expr | None) -> str | None:
    return key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else None


def _has_remainder(test: ast.expr) -> bool:
    return any(isinstance(each, ast.BinOp) and isinstance(each.op, ast.Mod) for each in ast.walk(test))


def _steps(body: list[ast.stmt]) -> bool:
    """Whether a ``step()`` is called beside a ``zero_grad()``, which a scheduler has none of."""
    called = {
        each.func.attr
        for statement in body
        for each in ast.walk(statement)
        if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute)
    }
    return {"step", "zero_grad"} <= called
