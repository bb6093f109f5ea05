"""Counts parameters of models from their source, and compares with the real modules.

    python bench/model_sizes.py [--mirrors DIR] [--only TEXT]

Needs torch, torchvision and timm; nothing is downloaded. With git mirrors (``owner+name/repo`` under DIR), definitions
of public repositories count, too. A model counts as exact, unknown (memlint says so), or wrong.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import click
import torch
from architectures import count, torchvision_models
from mirrors import Mirrors

from memlint.model.sizes.evaluate import Evaluator, TooMuch
from memlint.model.sizes.objects import ModuleObject
from memlint.source import deep_recursion

_STEPS = 20_000_000
_TIMM = """
    mlp_mixer:MlpMixer vision_transformer:VisionTransformer convnext:ConvNeXt swin_transformer:SwinTransformer
    crossvit:CrossVit cait:Cait coat:CoaT convit:ConVit deit:VisionTransformerDistilled levit:Levit
    pvt_v2:PyramidVisionTransformerV2
    tnt:TNT twins:Twins visformer:Visformer xcit:Xcit volo:VOLO beit:Beit poolformer:MetaFormer edgenext:EdgeNeXt
    densenet:DenseNet vgg:VGG dla:DLA inception_v4:InceptionV4 xception:Xception nasnet:NASNetALarge
""".split()
"""Classes of timm that can be made without arguments, by module."""


_DEFINED = {
    ("karpathy/nanoGPT", "3adf61e1", "model"): ("GPT(GPTConfig())", "GPT(GPTConfig(n_layer=2, bias=False))"),
    ("milesial/Pytorch-UNet", "21d7850f", "unet"): ("UNet(3, 2)", "UNet(1, 4, bilinear=True)"),
    ("kuangliu/pytorch-cifar", "49b7aa97", "models"): (
        "VGG('VGG19')",
        "ResNet18()",
        "ResNet152()",
        "PreActResNet18()",
        "GoogLeNet()",
        "densenet_cifar()",
        "ResNeXt29_2x64d()",
        "MobileNet()",
        "MobileNetV2()",
        "DPN92()",
        "ShuffleNetG2()",
        "SENet18()",
        "ShuffleNetV2(1)",
        "EfficientNetB0()",
        "RegNetX_200MF()",
        "SimpleDLA()",
        "DLA()",
        "LeNet()",
        "PNASNetA()",
    ),
}
"""By repository, commit and module: expressions that make a model."""


def repository_cases(mirrors: Path) -> Iterator[tuple[str, str, Any]]:
    """The same as :func:`cases` for definitions of public repositories, which are imported for the truth."""
    for (repo, commit, module), expressions in _DEFINED.items():
        with tempfile.TemporaryDirectory() as name:
            for path, data in Mirrors(mirrors).python_files(repo, commit):
                (Path(name) / path).parent.mkdir(parents=True, exist_ok=True)
                (Path(name) / path).write_bytes(data)
            sys.path.insert(0, name)
            with suppress(ImportError):
                known = vars(importlib.import_module(module))
                for each in expressions:
                    made = partial(eval, each, dict(known))
                    yield f"{repo} {each}", f"from {module} import *\nmodel = {each}", made
            sys.path.remove(name)


def cases() -> Iterator[tuple[str, str, Any]]:
    """Name, source that binds ``model``, and the function that makes the real one."""
    models = torchvision_models()
    for name in models.list_models(module=models):
        if name not in {"googlenet", "inception_v3", "regnet_y_128gf"}:
            yield (
                f"torchvision {name}",
                f"import torchvision\nmodel = torchvision.models.{name}()",
                getattr(models, name),
            )
    for pair in _TIMM:
        module, cls = pair.split(":")
        with suppress(ImportError, AttributeError):
            made = getattr(importlib.import_module(f"timm.models.{module}"), cls)
            required = [
                each
                for each in inspect.signature(made).parameters.values()
                if each.default is each.empty and each.kind not in {each.VAR_KEYWORD, each.VAR_POSITIONAL}
            ]
            if not required:
                yield f"timm {cls}", f"from timm.models.{module} import {cls}\nmodel = {cls}()", made


_READ = frozenset({"torchvision", "timm", *(module for _, _, module in _DEFINED)})


def locate(_origin: Path, name: str) -> Path | None:
    """The file of a module of the two libraries."""
    for root in map(Path, sys.path):
        for candidate in (root / f"{name.replace('.', '/')}.py", root / name.replace(".", "/") / "__init__.py"):
            if name.split(".", maxsplit=1)[0] in _READ and candidate.is_file():
                return candidate
    return None


def evaluated(source: str) -> ModuleObject | None:
    """The model that ``source`` makes, read without importing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "program.py")
        path.write_text(source, "utf-8")
        with suppress(TooMuch), deep_recursion():
            namespace = Evaluator(locate, lambda each: each.read_text("utf-8"), steps=_STEPS).file(path)
            model = namespace.scope.variables.get("model") if namespace is not None else None
            return model if isinstance(model, ModuleObject) else None
    return None


def real(make: Any) -> int:
    """Parameters of the real model, without memory where the model allows that."""
    try:
        with torch.device("meta"):
            return count(make())
    except (NotImplementedError, RuntimeError):
        return count(make())


@click.command()
@click.option("--mirrors", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--only", default="", help="Only models with this in their name.")
def main(mirrors: Path | None, only: str) -> None:
    """Prints a row for each model that is not exact, and the sums."""
    warnings.simplefilter("ignore")
    seen: Counter[str] = Counter()
    start = time.process_time()
    for name, source, make in chain(cases(), repository_cases(mirrors) if mirrors is not None else ()):
        if only not in name:
            continue
        model = evaluated(source)
        if model is None or model.doubts():
            outcome, detail = "unknown", model.doubts()[0] if model is not None else "not a model"
        else:
            known, truth = model.count(), real(make)
            outcome, detail = ("exact", "") if known == truth else ("wrong", f"{known:,} for {truth:,}")
        seen[outcome] += 1
        if outcome != "exact":
            print(f"{outcome:<8} {name:<45} {detail}", flush=True)
    print(f"{sum(seen.values())} models: {dict(seen)}; {time.process_time() - start:.0f} s")


if __name__ == "__main__":
    main()
