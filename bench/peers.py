"""What other estimators that install without a GPU say of the measured runs that ``predict.py`` re-creates.

They are accelerate, DeepSpeed (``DS_BUILD_OPS=0 pip install deepspeed`` builds without CUDA), torchinfo 1.8.0 and
torch-preflight 0.5.0, as far as they can be imported. accelerate's figure is
the largest of those that ``accelerate estimate-memory`` prints for training with Adam, which knows no batch;
DeepSpeed's is what its estimators of ZeRO 2 and ZeRO 3 say of model states on one GPU without offloading, which know
neither batch nor optimizer; torchinfo's is the sum that its summary prints, for images, which knows no gradients and
no optimizer; torch-preflight is given the model as an entry point, the batch, the length or the size of the image, and
the optimizer.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent / "gpu_runs"
sys.path.insert(0, str(FOLDER))
IMAGE, LENGTH = 86, 128


def cnn(name: str) -> Any:
    """A model of torchvision, without memory."""
    runs: Any = importlib.import_module("cnn")
    made = getattr(runs.models, runs.architecture(name))
    classes = 10 if name in runs.TEN_CLASSES else 1000
    try:
        with torch.device("meta"):
            return made(num_classes=classes)
    except NotImplementedError:  # RegNet computes its widths with tensors.
        return made(num_classes=classes).to("meta")


def transformer(name: str) -> Any:
    """A model of transformers, without memory."""
    runs: Any = importlib.import_module("transformer")
    config = runs.configuration(name)
    with torch.device("meta"):
        return runs.model_class(config).from_config(config)


def model_of(run: dict[str, Any]) -> torch.nn.Module:
    """The model of a run."""
    return cnn(run["model"]) if run["family"] == "cnn" else transformer(run["model"])


def accelerate(_run: dict[str, Any], model: Any) -> float | None:
    """The largest of what ``accelerate estimate-memory`` prints."""
    peer: Any = importlib.import_module("accelerate.commands.estimate")
    size = sum(each.numel() * 4 for each in model.parameters())
    return float(max(peer.estimate_training_usage(size, "float32").values()))


def zero2(_run: dict[str, Any], model: Any) -> float | None:
    """Bytes on the GPU that DeepSpeed estimates for ZeRO 2 on one GPU."""
    peer: Any = importlib.import_module("deepspeed.runtime.zero.stage_1_and_2")
    total = sum(each.numel() for each in model.parameters())
    _, on_gpu = peer.estimate_zero2_model_states_mem_needs(total, cpu_offload=False)
    return float(on_gpu)


def zero3(_run: dict[str, Any], model: Any) -> float | None:
    """The same for ZeRO 3."""
    peer: Any = importlib.import_module("deepspeed.runtime.zero.stage3")
    total = sum(each.numel() for each in model.parameters())
    largest = max(sum(each.numel() for each in module.parameters(recurse=False)) for module in model.modules())
    _, on_gpu, _ = peer.estimate_zero3_model_states_mem_needs(
        total, largest, cpu_offload=False, cpu_offload_params=False
    )
    return float(on_gpu)


def torchinfo(run: dict[str, Any], model: Any) -> float | None:
    """Input, outputs and parameters; None for models that take no images."""
    peer: Any = importlib.import_module("torchinfo")
    if run["family"] != "cnn":
        return None
    found = peer.summary(model, input_size=(run["batch"], 3, IMAGE, IMAGE), device="meta", verbose=0)
    return float(found.total_input + found.total_output_bytes + found.total_param_bytes)


def preflight(run: dict[str, Any], _model: Any) -> float | None:
    """torch-preflight's projection; None where it has none."""
    peer: Any = importlib.import_module("torch_preflight.vram")
    types = peer.types
    kind = "cnn" if run["family"] == "cnn" else "transformer"
    known = {each.name.lower(): each for each in types.OptimizerKind}
    config = types.RunConfig(
        batch_size=run["batch"],
        precision=types.PrecisionMode("fp32"),
        optimizer=known.get(run["optimizer"].lower(), types.OptimizerKind("sgd")),
        **({"image_size": IMAGE} if kind == "cnn" else {"seq_len": LENGTH}),
    )
    profile = peer.resolve_profile(f"{Path(__file__).stem}:{kind}", config=config, model_args={"name": run["model"]})
    report = peer.estimate_config(profile, config, with_remediations=False)
    return float(report.total) if profile.resolved and report.total else None


LIBRARIES = {
    "accelerate": "accelerate",
    "DeepSpeed ZeRO 2": "deepspeed",
    "DeepSpeed ZeRO 3": "deepspeed",
    "torchinfo": "torchinfo",
    "torch-preflight": "torch_preflight",
}
PEERS: dict[str, Callable[[dict[str, Any], Any], float | None]] = {
    "accelerate": accelerate,
    "DeepSpeed ZeRO 2": zero2,
    "DeepSpeed ZeRO 3": zero3,
    "torchinfo": torchinfo,
    "torch-preflight": preflight,
}


def installed() -> list[str]:
    """The peers that can be imported here."""
    return [name for name, library in LIBRARIES.items() if find_spec(library) is not None]


def estimates(run: dict[str, Any], wanted: Iterable[str]) -> dict[str, float | None]:
    """Bytes that each of these peers says of a run; None where it has nothing to say, or fails."""
    model = model_of(run)
    found: dict[str, float | None] = {}
    for name in wanted:
        found[name] = None
        with suppress(Exception):  # What a peer cannot do is its own matter.
            found[name] = PEERS[name](run, model)
    return found
