"""Which techniques a file uses: by imports, methods and settings, and not by words."""

from __future__ import annotations

import pytest

from memlint.model.techniques import Technique, techniques

_USES = {
    Technique.HALF_PRECISION: (
        "import torch\nwith torch.autocast('cuda'):\n    pass",
        "from torch.cuda.amp import autocast as cast",
        "import torch as t\nx = y.to(t.bfloat16)",
        "model.half()",
        "Trainer(bf16=True)",
        "parser.add_argument('--fp16-run')",
        "load(path, dtype='bfloat16')",
        "class Config:\n    mixed_precision: bool = False",
        "from .precision import fp16_context",
        "engine = {'fp16': {'enabled': True}}",
    ),
    Technique.LOSS_SCALING: (
        "import torch\nscaler = torch.amp.GradScaler('cuda')",
        "from timm.utils import NativeScaler",
        "if config.use_amp:\n    pass",
        "from mmcv.runner import OptimizerHookAMP",
    ),
    Technique.CHECKPOINTING: (
        "from torch.utils.checkpoint import checkpoint",
        "import torch.utils.checkpoint as cp",
        "model.gradient_checkpointing_enable()",
        "block(x, use_reentrant=False)",
        "GRPOConfig(activation_offloading=True)",
    ),
    Technique.ACCUMULATION: (
        "if (i + 1) % n == 0:\n    optimizer.step()\n    optimizer.zero_grad()",
        "with model.no_sync():\n    pass",
        "run(gradient_accumulation_steps=4)",
        "steps = self.config['runner'].get('gradient_accumulate_steps')",
    ),
    Technique.AUTOMATIC_BATCH: ("from accelerate.utils import find_executable_batch_size",),
    Technique.COUPLED_BATCH: (
        "from losses import InfoNCELoss",
        "class ContrastiveLoss:\n    pass",
        "loss = cross_entropy(q @ k.t(), torch.arange(len(q)))",
    ),
    Technique.SHARDING: (
        "from torch.distributed.fsdp import fully_shard",
        "import deepspeed",
        "from lightning.pytorch.strategies import FSDPStrategy",
    ),
    Technique.REDUCED_STATES: (
        "from peft import LoraConfig",
        "run(cpu_offload=True)",
    ),
    Technique.QUANTISED: ("load(load_in_4bit=True)", "from transformers import BitsAndBytesConfig"),
    Technique.PARTS: ("for x in loader:\n  for p in x.split(2):\n    y = f(p)\n    y.backward()\n  optimizer.step()",),
}


@pytest.mark.parametrize(("technique", "text"), [(kind, text) for kind, texts in _USES.items() for text in texts])
def test_what_a_file_is_bound_to_shows_a_technique(technique: Technique, text: str) -> None:
    assert technique in techniques(text)


@pytest.mark.parametrize(
    "text",
    [
        "'''Neither autocast nor fp16; gradient accumulation and FSDP come later.'''",
        "half = len(rows) // 2\nprecision, recall = score(rows)",
        "from torch.utils.data import Sampler\nclass CutSampler(Sampler):\n    pass",
        "accumulated = 0.0\nfor loss in losses:\n    accumulated += loss",
        "from sklearn.metrics import precision_score\nprint('fp16 is not used here')",
        "if step % 10 == 0:\n    scheduler.step()",
        "import torch\ntorch.save(model, 'checkpoint.pt')\ncheckpoint = torch.load('checkpoint.pt')",
        "def half(x):\n    return x / 2",
        "def broken(:",
    ],
)
def test_words_and_local_names_show_none(text: str) -> None:
    assert not techniques(text)
