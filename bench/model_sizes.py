"""Counts parameters of models from their source, and compares with the real modules.

    python bench/model_sizes.py [--mirrors DIR] [--only TEXT]

Needs torch, torchvision, timm, transformers and diffusers; nothing is downloaded. With git mirrors (``owner+name/repo``
under DIR), definitions of public repositories count, too. A model counts as exact, unknown (memlint says so), or wrong.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import click
import torch
from architectures import count, torchvision_models
from mirrors import Mirrors

from memlint.model.sizes.evaluate import Evaluator, TooMuch
from memlint.model.sizes.hugging_face import module_of_diffusers, source_of
from memlint.model.sizes.objects import ModuleObject
from memlint.model.sizes.reading import Reader
from memlint.parsing import deep_recursion

_STEPS = 20_000_000
_TIMM = """
    mlp_mixer:MlpMixer vision_transformer:VisionTransformer convnext:ConvNeXt swin_transformer:SwinTransformer
    crossvit:CrossVit cait:Cait coat:CoaT convit:ConVit deit:VisionTransformerDistilled levit:Levit
    pvt_v2:PyramidVisionTransformerV2
    tnt:TNT twins:Twins visformer:Visformer xcit:Xcit volo:VOLO beit:Beit poolformer:MetaFormer edgenext:EdgeNeXt
    densenet:DenseNet vgg:VGG dla:DLA inception_v4:InceptionV4 xception:Xception nasnet:NASNetALarge
""".split()
"""Classes of timm that can be made without arguments, by module."""


_TRANSFORMERS = """
    GPT2LMHeadModel(GPT2Config(n_layer=3, n_embd=96, n_head=3, vocab_size=1000, n_positions=64))
    GPT2ForSequenceClassification(GPT2Config(num_labels=5))
    BertForSequenceClassification(BertConfig(hidden_size=128, num_attention_heads=2, num_labels=4))
    BertForTokenClassification(BertConfig())
    BertForPreTraining(BertConfig())
    RobertaForMaskedLM(RobertaConfig())
    RobertaForSequenceClassification(RobertaConfig(num_labels=3))
    DistilBertForMaskedLM(DistilBertConfig())
    DistilBertForSequenceClassification(DistilBertConfig())
    ElectraForMaskedLM(ElectraConfig())
    AlbertForMaskedLM(AlbertConfig())
    DebertaV2ForSequenceClassification(DebertaV2Config())
    LlamaForCausalLM(LlamaConfig(hidden_size=256, num_key_value_heads=2, tie_word_embeddings=True))
    LlamaForCausalLM(LlamaConfig())
    MistralForCausalLM(MistralConfig(num_hidden_layers=2))
    Qwen2ForCausalLM(Qwen2Config(num_hidden_layers=2))
    Qwen3ForCausalLM(Qwen3Config(num_hidden_layers=2))
    GemmaForCausalLM(GemmaConfig(num_hidden_layers=2))
    Gemma2ForCausalLM(Gemma2Config(num_hidden_layers=2))
    PhiForCausalLM(PhiConfig())
    Phi3ForCausalLM(Phi3Config(num_hidden_layers=2))
    GPTNeoXForCausalLM(GPTNeoXConfig(num_hidden_layers=2))
    GPTNeoForCausalLM(GPTNeoConfig())
    GPTJForCausalLM(GPTJConfig(n_layer=2))
    OPTForCausalLM(OPTConfig())
    OPTForCausalLM(OPTConfig(word_embed_proj_dim=256))
    BloomForCausalLM(BloomConfig(n_layer=3))
    T5ForConditionalGeneration(T5Config(d_model=128, d_ff=256, num_layers=3, feed_forward_proj='gated-gelu'))
    BartForConditionalGeneration(BartConfig(encoder_layers=2, decoder_layers=2))
    MixtralForCausalLM(MixtralConfig(num_hidden_layers=1))
    ViTForImageClassification(ViTConfig(num_hidden_layers=3, num_labels=10))
    DeiTForImageClassification(DeiTConfig())
    Dinov2Model(Dinov2Config())
    SwinForImageClassification(SwinConfig())
    ConvNextForImageClassification(ConvNextConfig())
    ResNetForImageClassification(ResNetConfig())
    CLIPModel(CLIPConfig())
    WhisperForConditionalGeneration(WhisperConfig())
    Wav2Vec2ForCTC(Wav2Vec2Config())
    SegformerForSemanticSegmentation(SegformerConfig())
    MambaForCausalLM(MambaConfig(num_hidden_layers=2))
    XLNetLMHeadModel(XLNetConfig(n_layer=2))
    FalconForCausalLM(FalconConfig(num_hidden_layers=2))
    Starcoder2ForCausalLM(Starcoder2Config(num_hidden_layers=2))
    OlmoForCausalLM(OlmoConfig(num_hidden_layers=2))
    ModernBertForMaskedLM(ModernBertConfig())
    LongformerForMaskedLM(LongformerConfig())
    MPNetForMaskedLM(MPNetConfig())
    BlipForConditionalGeneration(BlipConfig())
    TrOCRForCausalLM(TrOCRConfig())
    DetrForObjectDetection(DetrConfig())
    PegasusForConditionalGeneration(PegasusConfig(encoder_layers=1, decoder_layers=1))
    MarianMTModel(MarianConfig(encoder_layers=1, decoder_layers=1))
    MBartForConditionalGeneration(MBartConfig(encoder_layers=1, decoder_layers=1))
    VideoMAEForPreTraining(VideoMAEConfig())
""".strip().splitlines()
"""Models of transformers, most of them in the default configuration of their kind."""
_DIFFUSERS = """
    UNet2DModel UNet2DConditionModel UNet1DModel AutoencoderKL VQModel PriorTransformer DiTTransformer2DModel
    ControlNetModel T2IAdapter PixArtTransformer2DModel FluxTransformer2DModel SD3Transformer2DModel
""".split()
"""Models of diffusers that can be made without arguments."""


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


def library_cases() -> Iterator[tuple[str, str, Any]]:
    """The same for models of transformers and diffusers, which are read from the source of the libraries."""
    transformers, diffusers = importlib.import_module("transformers"), importlib.import_module("diffusers")
    for each in map(str.strip, _TRANSFORMERS):
        names = ", ".join(dict.fromkeys(re.findall(r"\b[A-Z][A-Za-z0-9]+(?=\()", each)))
        made = partial(eval, each, {name: getattr(transformers, name) for name in names.split(", ")})
        yield f"transformers {each}", f"from transformers import {names}\nmodel = {each}", made
    for cls in _DIFFUSERS:
        # The table knows them without arguments.
        source = f"from {module_of_diffusers(cls)} import {cls}\nmodel = {cls}()"
        yield f"diffusers {cls}", source, getattr(diffusers, cls)


_READ_FROM = re.compile(r"(?:from|import) (\w+)")
_READ = frozenset({"torchvision", "timm", *(module for _, _, module in _DEFINED)})


def locate(_origin: Path, name: str) -> Path | None:
    """The file of a module of the libraries."""
    if name.startswith("diffusers."):
        return source_of(name)
    for root in map(Path, sys.path):
        for candidate in (root / f"{name.replace('.', '/')}.py", root / name.replace(".", "/") / "__init__.py"):
            if name.split(".", maxsplit=1)[0] in _READ and candidate.is_file():
                return candidate
    return None


def _nowhere(_origin: Path, _name: str) -> Path | None:
    return None


@cache
def _evaluator(_library: str) -> Evaluator:
    """One for all models of a library, which is read once."""
    return Evaluator(locate, lambda each: each.read_text("utf-8"))


def evaluated(source: str) -> ModuleObject | None:
    """The model that ``source`` makes, read without importing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "program.py")
        path.write_text(source, "utf-8")
        with suppress(TooMuch), deep_recursion():
            if source.startswith("from transformers"):
                reader = Reader(_nowhere, lambda each: each.read_text("utf-8"))
                namespace = reader.evaluator.file(path)
            else:
                found = _READ_FROM.match(source)
                evaluator = _evaluator(found[1] if found is not None else "")
                evaluator.steps_left = _STEPS
                namespace = evaluator.file(path)
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
    repositories = repository_cases(mirrors) if mirrors is not None else ()
    for name, source, make in chain(cases(), library_cases(), repositories):
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
