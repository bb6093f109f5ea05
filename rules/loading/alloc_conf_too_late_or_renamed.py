"""MEM804."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Claim, ClaimShape, Confidence, Finding, Severity
from memlint.model.aliases import qualified_names
from memlint.model.configurations import ALLOCATOR_VARIABLES, AllocatorSetting, allocator_settings
from memlint.model.devices import moves_to_accelerator
from memlint.model.program import Program
from memlint.model.values import Call
from memlint.rule import Rule

_OPTIONS = frozenset(
    """
    backend expandable_segments garbage_collection_threshold graph_capture_record_stream_reuse large_segment_size_mb
    max_non_split_rounding_mb max_split_size_mb per_process_memory_fraction pinned_max_cached_size_mb
    pinned_max_power2_size_mb pinned_max_round_threshold_mb pinned_num_register_threads pinned_reserve_segment_size_mb
    pinned_use_background_threads pinned_use_cuda_host_register pinned_use_hip_host_register
    release_lock_on_cudamalloc release_lock_on_hipmalloc roundup_bypass_threshold_mb roundup_power2_divisions
    throw_on_cudamalloc_oom use_async_allocator
    """.split()
)
"""Options of the allocator in torch 1.10 to 2.13, those for ROCm and for pinned memory included."""


class AllocConfTooLateOrRenamed(Rule):
    """Settings of the CUDA allocator that it does not read, because they come too late or have names it does not know.

    ## What it does
    Finds `PYTORCH_ALLOC_CONF` (`PYTORCH_CUDA_ALLOC_CONF`, `PYTORCH_HIP_ALLOC_CONF`) in the environment that is set
    after the same function has used the GPU, or below an import of a package that uses it (unsloth), and options in it
    that no release of PyTorch knows.

    ## Why is this bad?
    The allocator reads the variable once, when it is first used. A setting against fragmentation, such as
    `expandable_segments:True`, then does nothing, and nobody is told; set before, it took a run from 37 to 27 GB of
    reserved memory (axolotl#2183). A name that the allocator does not know raises an error at the first allocation.

    ## Example
    ```python
    model = Net().cuda()
    os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    ```

    ## Use instead
    ```python
    import os
    os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    import torch
    ```

    ## Fix safety
    There is no fix: the best place is the shell or the launcher that starts the program.

    ## When to ignore
    When the variable is meant for processes that the program starts. A variable that is set after `import torch`, but
    before anything is seen to use the GPU, is only watched by `memlint verify`.

    The older names `PYTORCH_CUDA_ALLOC_CONF` and `PYTORCH_HIP_ALLOC_CONF` are not reported as such: some releases
    warned of them, torch 2.13 reads them and says nothing.

    ## References
    - [Optimizing memory usage with PYTORCH_ALLOC_CONF](https://docs.pytorch.org/docs/stable/notes/cuda.html#optimizing-memory-usage-with-pytorch-alloc-conf)
    - [pytorch#104801](https://github.com/pytorch/pytorch/issues/104801),
      [axolotl#2183](https://github.com/axolotl-ai-cloud/axolotl/pull/2183),
      [heretic#32](https://github.com/p-e-w/heretic/pull/32)
    """

    code = "MEM804"
    name = "alloc-conf-too-late-or-renamed"
    severity = Severity.WARNING
    gate = frozenset(ALLOCATOR_VARIABLES)
    positive = (
        """
import os
import torch
model = torch.nn.Linear(4, 4).cuda()
os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"  # MEM804: 1
""",
        """
import os
import torch
def main(rank):
    torch.cuda.set_device(rank)
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "max_split_size_mb:128")  # MEM804: 5
    train(rank)
""",
        """
import os
os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segment:True"  # MEM804
import torch
""",
        """
import os
import torch
os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"  # MEM804?
model = torch.nn.Linear(4, 4).cuda()
""",
        """
import os
from unsloth import FastLanguageModel
os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"  # MEM804
""",
    )
    negative = (
        """
import os
os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
import torch
from unsloth import FastLanguageModel
""",
        """
import os
os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True,max_split_size_mb:64"
import torch
model = torch.nn.Linear(4, 4).cuda()
torch.cuda.memory._set_allocator_settings("expandable_segments:False")
""",
        """
import os
import subprocess
def launch(command):
    environment = dict(os.environ, PYTORCH_CUDA_ALLOC_CONF="expandable_segments:True")
    subprocess.run(command, env=environment)
    environment["PYTORCH_ALLOC_CONF"] = "backend:cudaMallocAsync"
    os.environ["PYTORCH_ALLOC_CONF"] = "roundup_power2_divisions:[256:1,512:2,>:4]"
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        first_import = _imports_torch(program.tree)
        for setting in allocator_settings(program):
            if setting.variable is None:
                continue
            unknown = _unknown_options(setting)
            if unknown:
                yield self._finding(setting, f"The allocator knows no option `{unknown[0]}`", Confidence.LIKELY)
            elif any(_uses_gpu(call) for call in setting.region.function.calls if call.order < setting.order):
                message = f"`{setting.variable}` is set after the GPU has been used, when nobody reads it any more"
                yield self._finding(setting, message, Confidence.LIKELY)
            elif not _is_before_import(program.tree, setting.node, _USE_GPU):
                message = f"`{setting.variable}` is set after an import that has used the GPU, and nobody reads it"
                yield self._finding(setting, message, Confidence.LIKELY)
            elif first_import and not _is_before_import(program.tree, setting.node, _BRING_TORCH):
                message = f"`{setting.variable}` is set after torch has been imported"
                yield self._finding(setting, message, Confidence.POSSIBLE)

    def _finding(self, setting: AllocatorSetting, message: str, confidence: Confidence) -> Finding:
        return self.finding(
            setting.node,
            message,
            holds="what the setting was to save: memory that is reserved and not allocated",
            confidence=confidence,
            claim=Claim(
                ClaimShape.PRESENT,
                "device",
                "reserved - allocated",
                held=setting.node,
                unobservable="only the allocator of a GPU reads it, at its first allocation",
            ),
        )


def _unknown_options(setting: AllocatorSetting) -> list[str]:
    known = setting.text.only
    if known is None or "[" in str(known.constant):
        return []
    return [name for name in setting.options or () if name not in _OPTIONS]


_HARMLESS = frozenset({"is_available", "device_count", "manual_seed", "manual_seed_all"})
"""Functions of ``torch.cuda`` that allocate nothing."""


def _uses_gpu(call: Call) -> bool:
    if moves_to_accelerator(call):
        return True
    names = (name for name in qualified_names(call.callee) if name.startswith("torch.cuda."))
    return any(name.rpartition(".")[2] not in _HARMLESS for name in names)


def _imports_torch(tree: cst.Module) -> bool:
    return any(_imports_from(statement, _BRING_TORCH) for statement in tree.body)


def _is_before_import(tree: cst.Module, node: cst.CSTNode, packages: frozenset[str]) -> bool:
    """Whether ``node`` stands on the top level, above the first import of one of ``packages``, if there is any."""
    imported = False
    for statement in tree.body:
        imported = imported or _imports_from(statement, packages)
        if isinstance(statement, cst.SimpleStatementLine) and any(_holds(part, node) for part in statement.body):
            return not imported
    return not imported


def _holds(statement: cst.CSTNode, node: cst.CSTNode) -> bool:
    return statement is node or any(_holds(child, node) for child in statement.children)


def _imports_from(statement: cst.CSTNode, packages: frozenset[str]) -> bool:
    parts = statement.body if isinstance(statement, cst.SimpleStatementLine) else ()
    for part in parts:
        if isinstance(part, cst.Import):
            roots = [alias.evaluated_name.partition(".")[0] for alias in part.names]
        elif isinstance(part, cst.ImportFrom) and part.module is not None and not part.relative:
            module: cst.BaseExpression = part.module
            while isinstance(module, cst.Attribute):
                module = module.value
            roots = [module.value] if isinstance(module, cst.Name) else []
        else:
            continue
        if packages.intersection(roots):
            return True
    return False


_BRING_TORCH = frozenset(
    "torch torchvision torchaudio transformers lightning pytorch_lightning accelerate timm".split()
)
"""Packages that import torch."""
_USE_GPU = frozenset({"unsloth", "unsloth_zoo"})
"""Packages whose import asks the GPU what it is, which starts the allocator."""
