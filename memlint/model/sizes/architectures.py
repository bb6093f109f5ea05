"""Well-known architectures: the models and configurations that their names make, from :mod:`memlint.architectures`."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

from memlint.architectures import LOADING_OPTIONS, checkpoints, diffusion_checkpoint, table
from memlint.model.sizes import layers
from memlint.model.sizes.hugging_face import DIFFUSERS, module_of_diffusers
from memlint.model.sizes.objects import (
    PLAIN,
    External,
    Instance,
    ModuleObject,
    Parameter,
    Place,
    Recipe,
    Unknown,
    is_known,
)


@cache
def _kinds() -> dict[str, str]:
    """The ``model_type`` of transformers by the name of the class of the configuration."""
    return {entry["config"]: name.partition(".")[2] for name, entry in table().items() if "config" in entry}


@cache
def _configurations() -> dict[str, dict[str, Any]]:
    return {entry["config"]: entry for entry in table().values() if "config" in entry}


Build = Callable[[Recipe], ModuleObject | None]
"""Makes a model from the source of its library, see :func:`memlint.model.sizes.hugging_face.built`."""


def known_model(
    name: str, arguments: list[Any], keywords: dict[str, Any], place: Place, build: Build | None = None
) -> ModuleObject | None:
    """The model that a call of ``name`` makes, if it is a well-known architecture, or ``build`` can read it."""
    if name.startswith("torchvision.models."):
        return _torchvision(name, arguments, keywords, place)
    if name in {"timm.create_model", "timm.models.create_model", "timm.models.factory.create_model"}:
        return _timm(arguments, keywords, place)
    if name.startswith("transformers."):
        model = _transformers(name, arguments, keywords, place)
        made = _read_from_source(model, build) if model is not None and build is not None else None
        return made or model
    if name.startswith("diffusers."):
        return _diffusers(name, arguments, keywords, place, build)
    return None


def _diffusers(
    name: str, arguments: list[Any], keywords: dict[str, Any], place: Place, build: Build | None
) -> ModuleObject | None:
    *_, owner, cls = name.split(".")
    if cls == "from_pretrained":
        return _from_pretrained_of_diffusers(owner, arguments, keywords, place)
    entry = table().get(f"diffusers.{cls}")
    if entry is None or arguments:
        return None
    if not keywords:
        return _model(name, entry, entry["params"], place)
    module = module_of_diffusers(cls)
    made = build(Recipe(DIFFUSERS, (module, cls), keywords)) if module is not None and build is not None else None
    if made is not None:
        made.place = place
    return made


def _from_pretrained_of_diffusers(
    cls: str, arguments: list[Any], keywords: dict[str, Any], place: Place
) -> ModuleObject | None:
    name = arguments[0] if arguments else keywords.get("pretrained_model_name_or_path")
    part = keywords.get("subfolder")
    if f"diffusers.{cls}" not in table():
        return None
    entry = diffusion_checkpoint(name, part) if isinstance(name, str) and isinstance(part, str) else None
    if entry is None or entry["type"] != cls:
        return ModuleObject(External(f"diffusers.{cls}"), place=place, doubt="a checkpoint of unknown configuration")
    model = _model(f"diffusers.{cls}", entry, entry["params"], place)
    others = keywords.keys() - LOADING_OPTIONS - _NO_FIELDS - {"pretrained_model_name_or_path"}
    if others:
        model.doubt = f"argument {min(others)}"
    dtype = keywords.get("torch_dtype", keywords.get("dtype"))
    if dtype is not None:
        model.attributes["dtype of parameters"] = dtype if isinstance(dtype, External) else Unknown("dtype", plain=True)
    return model


def _torchvision(name: str, arguments: list[Any], keywords: dict[str, Any], place: Place) -> ModuleObject | None:
    last = name.rpartition(".")[2]
    if last == "get_model" and arguments and isinstance(arguments[0], str):
        last = arguments[0]
    entry = table().get(f"torchvision.models.{last}")
    if entry is None:
        return None
    is_loaded = _is_loaded(arguments[1:] if last == "get_model" else arguments, keywords)
    count = entry["with_weights"] if is_loaded and "with_weights" in entry else entry["params"]
    model = _model(name, entry, count, place)
    extra = set(keywords) - {"weights", "pretrained", "progress", "num_classes", "name"}
    if extra or (is_loaded is None and "with_weights" in entry):
        model.doubt = f"argument {min(extra or {'weights'})}"
    _classes_changed(model, entry, keywords)
    return model


def _is_loaded(arguments: list[Any], keywords: dict[str, Any]) -> bool | None:
    """Whether a model of torchvision comes with weights; None if nobody knows."""
    given = [*arguments[:1], *(keywords[each] for each in ("weights", "pretrained") if each in keywords)]
    if any(isinstance(each, Unknown) for each in given):
        return None
    return any(each not in (None, False) for each in given)


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
    classes = keywords.get("num_classes", entry.get("classes", 1000))
    if "num_classes" not in keywords or ("head" in entry and classes == entry["head"][2]):
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
    classifier = layers.make("torch.nn.Linear", [entry["head"][1], entry["head"][2]], {}) if path else None
    head = classifier.count() if classifier is not None else 0
    parts = {child: ModuleObject(External(f"{name}.{child}")) for child in entry.get("children", {})}
    model.attributes.update(parts)
    if classifier is not None:
        _attach(model, path, classifier)
    for child in parts:
        rest = entry["children"][child] - (head if path and child == path[0] else 0)
        if rest:
            model.attributes[child].attributes["body of the part"] = Parameter(rest)
    rest = count - head if not parts else count - sum(entry["children"].values())
    if rest:
        model.attributes["body of the model"] = Parameter(rest)
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
    if arguments and isinstance(arguments[0], Instance) and _ENTRY in arguments[0].attributes and len(parts) == 2:
        return _from_configuration(parts[-1], arguments, place)
    return None


def _from_pretrained(cls: str, arguments: list[Any], keywords: dict[str, Any], place: Place) -> ModuleObject | None:
    checkpoint = arguments[0] if arguments else keywords.get("pretrained_model_name_or_path")
    if cls.endswith(("Tokenizer", "TokenizerFast", "Processor", "Config", "FeatureExtractor")):
        return None
    part = keywords.get("subfolder")
    if not isinstance(checkpoint, str) or not (part is None or isinstance(part, str)):
        return None
    entry = checkpoints().get(f"{checkpoint}#{part}" if part else checkpoint)
    if entry is None:
        return None
    config = keywords.get("config")
    if isinstance(config, Instance):
        fields: dict[str, Any] = {**config.attributes, **keywords}
        is_its_own = fields.get(_ENTRY) is entry
        if not is_its_own:
            return None
        model = _of_class(cls, entry, place, fields)
        model.doubt = model.doubt or config.doubt
    else:
        model = _of_class(cls, entry, place, dict(keywords))
        if isinstance(config, Unknown):
            model.doubt = model.doubt or "a configuration of unknown fields"
    dtype = keywords.get("dtype", keywords.get("torch_dtype"))
    if isinstance(dtype, External):
        model.attributes["dtype of parameters"] = dtype
    elif dtype is not None and dtype != "float32":
        model.attributes["dtype of parameters"] = Unknown("dtype", plain=True)
    return model


def _from_configuration(cls: str, arguments: list[Any], place: Place) -> ModuleObject | None:
    config = arguments[0] if arguments else None
    if not isinstance(config, Instance) or _ENTRY not in config.attributes:
        return None
    model = _of_class(cls, config.attributes[_ENTRY], place, config.attributes)
    model.doubt = model.doubt or config.doubt
    return model


def _of_class(cls: str, entry: dict[str, Any], place: Place, changed: dict[str, Any]) -> ModuleObject:
    """The model of a class of transformers, or of ``AutoModelFor...``, with these fields of the configuration set."""
    head = _head(cls, entry)
    model = _model(f"transformers.{cls}", entry, head[1] if head is not None else entry["params"], place)
    if "similar" in entry:
        model.doubt = f"a configuration similar to that of {entry['checkpoint']}"
        return model
    if head is None:
        model.doubt = f"the head of {cls}"
    else:
        _set_labels(model, head, changed, is_published="type" in entry)
    others = changed.keys() - _SIZELESS - LOADING_OPTIONS - {_ENTRY, "config", *_LABELS, *_QUANTIZED}
    odd = min((key for key in others if changed[key] != entry.get("set", {}).get(key, changed)), default=None)
    if odd is not None:
        model.doubt = model.doubt or f"argument {odd}"
    if head is None or odd is not None or (model.doubt and len(head) < 4):
        model.recipe = _recipe(cls, entry, head, {key: changed[key] for key in changed.keys() - _NO_FIELDS})
    return model


def _recipe(cls: str, entry: dict[str, Any], head: list[Any] | None, fields: dict[str, Any]) -> Recipe | None:
    kind = entry.get("type") or _kinds().get(entry.get("config", ""))
    config = table().get(f"transformers.{kind}", {}).get("config")
    model = head[0] if head is not None else cls
    if kind is None or config is None or model.startswith("Auto") or not all(map(is_known, fields.values())):
        return None
    return Recipe(kind, (config, model), {**entry.get("set", {}), **fields})


def _read_from_source(model: ModuleObject, build: Build) -> ModuleObject | None:
    recipe = model.recipe
    made = build(recipe) if recipe is not None else None
    if made is None:
        return None
    made.place = model.place
    if "dtype of parameters" in model.attributes:
        made.attributes["dtype of parameters"] = model.attributes["dtype of parameters"]
    return made


def _head(cls: str, entry: dict[str, Any]) -> list[Any] | None:
    """Class, parameters, and if labels count those of one label and their number; None if it is not known."""
    heads: dict[str, list[Any]] = entry.get("heads_of", {})
    if cls in ("AutoModel", entry["class"]):
        return [entry["class"], entry["params"]]
    if cls.startswith("AutoModelFor"):
        return heads.get(cls.removeprefix("AutoModelFor"))
    return next((head for head in heads.values() if head[0] == cls), None)


def _set_labels(model: ModuleObject, head: list[Any], changed: dict[str, Any], *, is_published: bool) -> None:
    """Make the last layer as wide as the labels that the program asks for."""
    given = [changed[name] for name in _LABELS if name in changed]
    if len(head) < 4:
        if given and any(word in head[0] for word in _LABELLED):
            model.doubt = "number of labels"
        return
    if not given:
        if is_published and "ImageClassification" in head[0]:
            # Image models were mostly published with the classes that they were trained on.
            model.doubt = "number of labels"
        return
    labels = len(given[0]) if isinstance(given[0], dict) else given[0]
    if isinstance(labels, bool) or not isinstance(labels, int):
        model.doubt = "number of labels"
        return
    model.attributes["labels"] = Parameter((labels - head[3]) * head[2])


_ENTRY = "entry of the configuration"
_NO_FIELDS = LOADING_OPTIONS | {_ENTRY, "config", "torch_dtype", "dtype", "device_map", "attn_implementation"}
_LABELS = ("num_labels", "id2label")
_LABELLED = ("Classification", "QuestionAnswering")
_QUANTIZED = ("quantization_config", "load_in_8bit", "load_in_4bit")


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
    config = Instance(External(name), {_ENTRY: entry}, open=True)
    config.attributes.update(keywords)
    if arguments[1:]:
        config.doubt = "arguments without a name"
    return config


_SIZELESS = frozenset(
    """
    use_cache attention_dropout hidden_dropout_prob attention_probs_dropout_prob resid_pdrop embd_pdrop attn_pdrop
    bos_token_id eos_token_id pad_token_id output_hidden_states output_attentions torch_dtype dtype dropout
    attn_implementation initializer_range layer_norm_eps gradient_checkpointing trust_remote_code label2id
    problem_type finetuning_task device_map return_dict
    """.split()
)
"""Fields of configurations that change no parameter."""
