"""Well-known architectures: the models and configurations that their names make, from :mod:`memlint.architectures`."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

from memlint.architectures import checkpoints, table
from memlint.model.sizes import layers
from memlint.model.sizes.objects import PLAIN, External, Instance, ModuleObject, Parameter, Place, Unknown


@cache
def _classes() -> dict[str, tuple[dict[str, Any], int]]:
    """Entry and parameters by the name of a model class of transformers."""
    found: dict[str, tuple[dict[str, Any], int]] = {}
    for name, entry in table().items():
        if name.startswith("transformers."):
            found[entry["class"]] = (entry, entry["params"])
            for cls, count in entry.get("heads_of", {}).values():
                found[cls] = (entry, count)
    return found


@cache
def _configurations() -> dict[str, dict[str, Any]]:
    return {entry["config"]: entry for entry in table().values() if "config" in entry}


def known_model(name: str, arguments: list[Any], keywords: dict[str, Any], place: Place) -> ModuleObject | None:
    """The model that a call of ``name`` makes, if it is a well-known architecture."""
    if name.startswith("torchvision.models."):
        return _torchvision(name, arguments, keywords, place)
    if name in {"timm.create_model", "timm.models.create_model", "timm.models.factory.create_model"}:
        return _timm(arguments, keywords, place)
    if name.startswith("transformers."):
        return _transformers(name, arguments, keywords, place)
    if name.startswith("diffusers."):
        entry = table().get(f"diffusers.{name.rpartition('.')[2]}")
        if entry is not None and not arguments and not keywords:
            return _model(name, entry, entry["params"], place)
    return None


def _torchvision(name: str, arguments: list[Any], keywords: dict[str, Any], place: Place) -> ModuleObject | None:
    last = name.rpartition(".")[2]
    if last == "get_model" and arguments and isinstance(arguments[0], str):
        last = arguments[0]
    entry = table().get(f"torchvision.models.{last}")
    if entry is None:
        return None
    model = _model(name, entry, entry["params"], place)
    extra = set(keywords) - {"weights", "pretrained", "progress", "num_classes"}
    if extra:
        model.doubt = f"argument {min(extra)}"
    _classes_changed(model, entry, keywords)
    return model


def _timm(arguments: list[Any], keywords: dict[str, Any], place: Place) -> ModuleObject | None:
    name = arguments[0] if arguments else keywords.get("model_name")
    if not isinstance(name, str):
        return None
    entry = table().get(f"timm.{name.rpartition('/')[2].partition('.')[0]}")
    if entry is None:
        return None
    model = _model(f"timm.{name}", entry, entry["params"], place)
    rates = {"drop_rate", "drop_path_rate", "drop_block_rate", "attn_drop_rate", "checkpoint_path", "scriptable"}
    extra = set(keywords) - {"pretrained", "num_classes", "model_name", "drop", "img_size"} - rates
    if extra or ("img_size" in keywords and "vit" in name):
        model.doubt = f"argument {min(extra or {'img_size'})}"
    _classes_changed(model, entry, keywords)
    return model


def _classes_changed(model: ModuleObject, entry: dict[str, Any], keywords: dict[str, Any]) -> None:
    classes = keywords.get("num_classes", 1000)
    if classes == 1000:
        return
    if isinstance(classes, bool) or not isinstance(classes, int) or "head" not in entry:
        model.doubt = "number of classes"
        return
    head = _head_of(model, entry)
    if head is not None:
        layers.build(head, "torch.nn.Linear", [entry["head"][1], classes], {})
        if classes == 0:
            head.attributes.clear()


def _model(name: str, entry: dict[str, Any], count: int, place: Place) -> ModuleObject:
    """A model of that many parameters; its classifier is a module of its own where that is known."""
    model = ModuleObject(External(name), place=place, entry=entry)
    path = str(entry["head"][0]).split(".") if "head" in entry else []
    head = 0
    if path:
        classifier = layers.make("torch.nn.Linear", [entry["head"][1], entry["head"][2]], {})
        head = classifier.count()
        _attach(model, path, classifier)
    model.attributes["body of the model"] = Parameter(count - head)
    return model


def _attach(model: ModuleObject, path: list[str], value: ModuleObject) -> None:
    for name, after in itertools.pairwise(path):
        inner = ModuleObject(External("torch.nn.Sequential" if after.isdigit() else "torch.nn.Module"))
        _put(model, name, inner)
        model = inner
    _put(model, path[-1], value)


def _put(model: ModuleObject, name: str, value: ModuleObject) -> None:
    if name.isdigit():
        model.items = [PLAIN] * int(name) + [value]
    else:
        model.attributes[name] = value


def _head_of(model: ModuleObject, entry: dict[str, Any]) -> ModuleObject | None:
    module: Any = model
    for name in str(entry["head"][0]).split("."):
        module = module.items[int(name)] if name.isdigit() else module.attributes.get(name)
    return module if isinstance(module, ModuleObject) else None


def _transformers(name: str, arguments: list[Any], keywords: dict[str, Any], place: Place) -> ModuleObject | None:
    parts = name.split(".")
    if parts[-1] == "from_pretrained":
        return _from_pretrained(parts[-2], arguments, keywords, place)
    if parts[-1] == "from_config":
        return _from_configuration(parts[-2], arguments, place)
    if parts[-1] in _classes() and arguments and isinstance(arguments[0], Instance):
        return _from_configuration(parts[-1], arguments, place)
    return None


def _from_pretrained(cls: str, arguments: list[Any], keywords: dict[str, Any], place: Place) -> ModuleObject | None:
    checkpoint = arguments[0] if arguments else keywords.get("pretrained_model_name_or_path")
    if cls.endswith(("Tokenizer", "TokenizerFast", "Processor", "Config", "FeatureExtractor")):
        return None
    entry = checkpoints().get(checkpoint) if isinstance(checkpoint, str) else None
    if entry is None:
        return None
    model = _of_class(cls, entry, place)
    dtype = keywords.get("dtype", keywords.get("torch_dtype"))
    if isinstance(dtype, External):
        model.attributes["dtype of parameters"] = dtype
    elif dtype is not None and dtype != "float32":
        model.attributes["dtype of parameters"] = Unknown("dtype", plain=True)
    return model


def _from_configuration(cls: str, arguments: list[Any], place: Place) -> ModuleObject | None:
    config = arguments[0] if arguments else None
    if not isinstance(config, Instance) or "entry of the configuration" not in config.attributes:
        return None
    entry = config.attributes["entry of the configuration"]
    model = _of_class(cls, entry, place)
    model.doubt = model.doubt or config.doubt
    return model


def _of_class(cls: str, entry: dict[str, Any], place: Place) -> ModuleObject:
    """The model of a class of transformers, or of ``AutoModelFor...``, in that configuration."""
    heads = entry.get("heads_of", {})
    counts = {entry["class"]: entry["params"], **dict(heads.values())}
    if cls == "AutoModel":
        count = entry["params"]
    elif cls.startswith("AutoModelFor"):
        count = heads.get(cls.removeprefix("AutoModelFor"), (None, None))[1]
    else:
        count = counts.get(cls)
    model = _model(f"transformers.{cls}", entry, count if count is not None else entry["params"], place)
    if count is None:
        model.doubt = f"the head of {cls}"
    return model


def known_configuration(name: str, arguments: list[Any], keywords: dict[str, Any]) -> Instance | None:
    """The configuration of transformers that a call of ``name`` makes, if it is known."""
    parts = name.split(".")
    if parts[0] != "transformers":
        return None
    if parts[-1] == "from_pretrained" and parts[-2].endswith("Config"):
        checkpoint = arguments[0] if arguments else None
        entry = checkpoints().get(checkpoint) if isinstance(checkpoint, str) else None
    else:
        entry = _configurations().get(parts[-1])
    if entry is None:
        return None
    config = Instance(External(name), {"entry of the configuration": entry}, open=True)
    config.attributes.update(keywords)
    if arguments[1:] or any(key not in _SIZELESS for key in keywords):
        config.doubt = f"argument {next((key for key in keywords if key not in _SIZELESS), '')}"
    return config


_SIZELESS = frozenset(
    """
    use_cache attention_dropout hidden_dropout_prob attention_probs_dropout_prob resid_pdrop embd_pdrop attn_pdrop
    bos_token_id eos_token_id pad_token_id output_hidden_states output_attentions torch_dtype dtype dropout
    attn_implementation initializer_range layer_norm_eps gradient_checkpointing trust_remote_code
    """.split()
)
"""Fields of configurations that change no parameter."""
