"""Writes memlint/architectures.json: what well-known architectures have, as the installed libraries say.

    python bench/architectures.py [OUT]

Needs torch, transformers, timm, torchvision and diffusers. Nothing is downloaded and no weight is allocated: models are
made on the meta device from the libraries' own configurations. For image models, one training forward of one sample of
the default size is run there, and what autograd saves of it is counted (unique storages, parameters left out).
"""

from __future__ import annotations

import copy
import importlib
import inspect
import itertools
import json
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from memlint.model.sizes.hugging_face import SHAPE_FIELDS

OUT = Path(__file__).parents[1] / "memlint" / "architectures.json"
_CLASSES = 1000
"""Those of ImageNet: what nearly all image models are made for."""
_MOST_PARAMETERS = 2_000_000_000
"""Of models of timm; the few that are larger take minutes."""
_CHECKPOINT = re.compile(r"""checkpoint=["']([\w.-]+/[\w.-]+)["']""")
_BANDS = {"tiny": (0, 200), "small": (0, 200), "base": (80, 300), "large": (200, 1300), "huge": (500, 1300)}
"""Millions of parameters that a model may have whose name has such a word in it."""
_DIFFERENT = frozenset({"facebook/xmod-base", "hustvl/yolos-base", "google/mt5-small", "google/umt5-small"})
"""Checkpoints whose own configuration is not the default one, though nothing in their names says so."""
_LABELLED = ("SequenceClassification", "TokenClassification", "QuestionAnswering", "ImageClassification")
"""Heads whose last layer is as wide as the configuration has labels."""
_HEADS = ("CausalLM", "MaskedLM", "Seq2SeqLM", "SpeechSeq2Seq", *_LABELLED)


def count(model: torch.nn.Module) -> int:
    """Elements of the parameters, shared ones once."""
    return sum(each.numel() for each in model.parameters())


def saved_bytes(model: torch.nn.Module, sample: torch.Tensor) -> int:
    """Bytes that autograd saves in one forward of ``sample`` in training, parameters and buffers left out."""
    own = {id(each.untyped_storage()._cdata) for each in [*model.parameters(), *model.buffers()]}
    kept = {each.untyped_storage()._cdata for each in [*model.parameters(), *model.buffers()]}
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in kept and id(storage) not in own:
            storages[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(sample)
    return sum(each.nbytes() for each in storages.values())


def image_entry(model: torch.nn.Module, size: int, classes: int = _CLASSES) -> dict[str, Any]:
    """Parameters, the classifier, and what is saved for one image of ``size`` by ``size``."""
    entry: dict[str, Any] = {"params": count(model), "image": size}
    if classes != _CLASSES:
        entry["classes"] = classes
    heads = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module.out_features == classes
    ]
    if len(heads) == 1:
        name, module = heads[0]
        entry["head"] = [name, module.in_features, module.out_features]
    with suppress(Exception):
        entry["saved"] = saved_bytes(model.train(), torch.empty(2, 3, size, size, device="meta")) // 2
    return entry


def torchvision_entries() -> Iterator[tuple[str, dict[str, Any]]]:
    """Classification models of torchvision."""
    models = torchvision_models()
    for name in models.list_models(module=models):
        builder = models.get_model_builder(name)
        extra = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
        try:
            with torch.device("meta"):
                model = builder(**extra)
        except NotImplementedError:  # RegNet computes its widths with tensors.
            model = builder(**extra).to("meta")
        entry = image_entry(model, 299 if name.startswith("inception") else 224)
        entry["children"] = {child: count(module) for child, module in model.named_children()}
        yield f"torchvision.models.{name}", entry


def torchvision_models() -> Any:
    """``torchvision.models``, also where torchvision was built for another torch: no model here needs its operators."""
    register = torch.library.register_fake
    torch.library.register_fake = lambda *_given, **_named: lambda function: function
    try:
        return importlib.import_module("torchvision.models")
    finally:
        torch.library.register_fake = register


def torchvision_task_entries() -> Iterator[tuple[str, dict[str, Any]]]:
    """Models of torchvision that detect, segment or take videos, as they are made with and without weights."""
    models = torchvision_models()
    api = importlib.import_module("torchvision.models._api")
    classifiers = set(models.list_models(module=models))
    api.WeightsEnum.get_state_dict = lambda *_, **__: {}
    load, torch.nn.Module.load_state_dict = torch.nn.Module.load_state_dict, lambda *_, **__: None
    try:
        for name in sorted(set(models.list_models()) - classifiers):
            if not name.startswith("quantized_"):
                builder = models.get_model_builder(name)
                with suppress(Exception), torch.device("meta"):
                    entry = {"params": count(builder())}
                    with_weights = count(builder(weights="DEFAULT"))
                    if with_weights != entry["params"]:
                        entry["with_weights"] = with_weights
                    yield f"torchvision.models.{name}", entry
    finally:
        torch.nn.Module.load_state_dict = load


def timm_entries() -> Iterator[tuple[str, dict[str, Any]]]:
    """Image models of timm that come with weights."""
    timm = importlib.import_module("timm")
    names = dict.fromkeys(name.partition(".")[0] for name in timm.list_models(pretrained=True))
    for plain in names:
        with suppress(Exception), torch.device("meta"):
            model = timm.create_model(plain)
            if count(model) <= _MOST_PARAMETERS:
                yield f"timm.{plain}", image_entry(model, model.default_cfg["input_size"][-1], model.num_classes)


def transformers_entries() -> Iterator[tuple[str, dict[str, Any]]]:
    """The default configuration of each model type, and the checkpoint that its documentation names for it."""
    transformers = importlib.import_module("transformers")
    mapping = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    for kind in mapping:
        with suppress(Exception):
            config_class = mapping[kind]
            config = config_class()
            entry = transformers_entry(transformers, config)
            entry["config"] = config_class.__name__
            source = inspect.getsource(config_class)
            found = _CHECKPOINT.search(source)
            if found and is_default(found[1], entry):
                entry["checkpoint"] = found[1]
            yield f"transformers.{kind}", entry


def claimed(name: str) -> float | None:
    """Millions of parameters that a checkpoint's name claims."""
    found = re.search(r"[-_](\d+(?:\.\d+)?)([bm])(?![a-z0-9])", name.lower())
    return float(found[1]) * (1000 if found[2] == "b" else 1) if found else None


def is_default(checkpoint: str, entry: dict[str, Any]) -> bool:
    """Whether a checkpoint can have the default configuration, which its documentation calls similar.

    Many have not: ``facebook/opt-350m`` is named beside a default of 125 million parameters. So the name must
    claim the size, in figures or by a word, and the entry must have it.
    """
    largest: float = max([entry["params"], *(head[1] for head in entry.get("heads_of", {}).values())]) / 1e6
    size = claimed(checkpoint)
    if size is not None:
        return 0.85 < largest / size < 1.25
    bands = [_BANDS[word] for word in re.split(r"[-_/]", checkpoint.lower()) if word in _BANDS]
    return bool(bands) and checkpoint not in _DIFFERENT and all(low <= largest <= high for low, high in bands)


def transformers_entry(transformers: Any, config: Any) -> dict[str, Any]:
    """What is known of the models of a configuration."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    entry: dict[str, Any] = {}
    for field, names in SHAPE_FIELDS.items():
        value = next((getattr(text, name) for name in names if isinstance(getattr(text, name, None), int)), None)
        if value is not None:
            entry[field] = value
    with torch.device("meta"):
        base = transformers.AutoModel.from_config(config)
        entry["params"] = count(base)
        entry["class"] = type(base).__name__
        heads = {name: head for name in _HEADS if (head := _head_entry(transformers, name, config)) is not None}
        if heads:
            entry["heads_of"] = heads
    return entry


def _head_entry(transformers: Any, name: str, config: Any) -> list[Any] | None:
    """The class behind ``AutoModelFor<name>`` and its parameters; where labels count, those of one and their number."""
    auto = getattr(transformers, f"AutoModelFor{name}")
    with suppress(Exception):
        model = auto.from_config(config)
        name_of, parameters = type(model).__name__, count(model)
        labels = getattr(config, "num_labels", 0)
        if name in _LABELLED and labels:
            more = copy.deepcopy(config)
            more.num_labels = labels + 1
            each = count(auto.from_config(more)) - parameters
            return [name_of, parameters, each, labels] if each else [name_of, parameters]
        return [name_of, parameters]
    return None


def diffusers_entries() -> Iterator[tuple[str, dict[str, Any]]]:
    """Models of diffusers in their default configuration."""
    diffusers = importlib.import_module("diffusers")
    base = diffusers.ModelMixin
    for name in sorted(dir(diffusers)):
        with suppress(Exception):
            found = getattr(diffusers, name)
            if isinstance(found, type) and issubclass(found, base) and found is not base:
                with torch.device("meta"):
                    yield f"diffusers.{name}", {"params": count(found())}


def main() -> None:
    """Writes the table, a line for each architecture."""
    warnings.simplefilter("ignore")
    table: dict[str, Any] = {}
    versions = {}
    families = {
        "torchvision": lambda: itertools.chain(torchvision_entries(), torchvision_task_entries()),
        "timm": timm_entries,
        "transformers": transformers_entries,
        "diffusers": diffusers_entries,
    }
    for library, entries in families.items():
        found = dict(entries())
        table.update(found)
        versions[library] = importlib.import_module(library).__version__.partition("+")[0]
        print(f"{library} {versions[library]}: {len(found)} architectures", flush=True)
    lines = [f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in sorted(table.items())]
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    head = f'"versions": {json.dumps({"torch": torch.__version__.partition("+")[0], **versions})}'
    out.write_text("{\n" + ",\n".join([head, *lines]) + "\n}\n", "utf-8")


if __name__ == "__main__":
    main()
