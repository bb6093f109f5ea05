"""Configurations and models of transformers: what their base classes do, and where the library's source says the rest.

Sources: ``PreTrainedConfig`` and ``PreTrainedModel`` of transformers 5 (``configuration_utils.py``,
``modeling_utils.py``). Where the library is installed, its own constructors are read like the program's; nothing of it
is imported.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memlint.model.sizes.objects import (
    PLAIN,
    ClassObject,
    External,
    FunctionObject,
    Instance,
    ModuleObject,
    Parameter,
    Recipe,
    Tensor,
    Unknown,
)

if TYPE_CHECKING:
    from memlint.model.sizes.calls import Calls

_CONFIGURATIONS = ("PreTrainedConfig", "PretrainedConfig")
_MODEL = "PreTrainedModel"
_FIELDS: dict[str, Any] = {
    # Where the kind of attention chooses a class, all of them have the same parameters.
    "_attn_implementation": "eager",
    "add_cross_attention": False,
    "chunk_size_feed_forward": 0,
    "cross_attention_hidden_size": None,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "problem_type": None,
    "return_dict": True,
    "tie_word_embeddings": True,
}
"""What every configuration has, unless its class or the program says otherwise."""
_DEFAULT_LABELS = 2
LIBRARIES = ("transformers.", "diffusers.")
DIFFUSERS = "diffusers"
"""Stands for a ``model_type`` in recipes of diffusers' models, whose names are their module and class."""
_SHARED = frozenset({"transformers.pytorch_utils", "transformers.modeling_layers"})
"""Modules with layers that many models are made of."""
SHAPE_FIELDS = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "encoder_layers"),
    "width": ("hidden_size", "n_embd", "d_model", "dim"),
    "heads": ("num_attention_heads", "n_head", "num_heads", "encoder_attention_heads"),
    "kv_heads": ("num_key_value_heads",),
    "vocabulary": ("vocab_size",),
    "inner": ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "encoder_ffn_dim"),
    "positions": ("max_position_embeddings", "n_positions"),
}
"""The names of the table of architectures, and those of configurations."""


@cache
def _root(library: str) -> Path | None:
    """The folder of an installed library."""
    try:
        spec = find_spec(library)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def source_of(name: str) -> Path | None:
    """The file of a module of the libraries that says how models are made."""
    parts = name.split(".")
    root = _root(parts[0]) if name.startswith(LIBRARIES) else None
    if root is None:
        return None
    is_file = parts[0] == "diffusers" or parts[-1].startswith(("configuration_", "modeling_"))
    path = root.joinpath(*parts[1:]).with_suffix(".py")
    is_wanted = name in _SHARED or (parts[1] == "models" and is_file)
    return path if is_wanted and path.is_file() else None


def module_of_diffusers(cls: str) -> str | None:
    """The module of diffusers that defines a model."""
    root = _root("diffusers")
    return _modules_of_diffusers(root).get(cls) if root is not None else None


_CLASSES = re.compile(r"^class (\w+)\(([^)]*)\):", re.MULTILINE)
"""Names and bases, which may stand on several lines."""


@cache
def _modules_of_diffusers(root: Path) -> dict[str, str]:
    found = {}
    for path in sorted((root / "models").rglob("*.py")):
        module = ".".join(("diffusers", *path.relative_to(root).with_suffix("").parts))
        for name, bases in _CLASSES.findall(path.read_text("utf-8")):
            if "ModelMixin" in bases:
                found[name] = module
    return found


def shape_of(config: Instance) -> dict[str, int]:
    """What a configuration says of the size of its model, as the table of architectures names it."""
    found = {}
    for field, names in SHAPE_FIELDS.items():
        values = [config.attributes.get(field_name(config, name)) for name in names]
        value = next((each for each in values if isinstance(each, int)), None)
        if value is not None:
            found[field] = value
    return found


def registers_arguments(constructor: FunctionObject) -> bool:
    """Whether ``self.config`` holds the arguments of a constructor, as in every model of diffusers."""
    decorators = getattr(constructor.node, "decorator_list", [])
    return any(isinstance(each, ast.Name) and each.id == "register_to_config" for each in decorators)


def is_configuration(cls: Any) -> bool:
    """Whether a class is a configuration of transformers."""
    return isinstance(cls, ClassObject) and _has_base(cls, _CONFIGURATIONS)


def is_pretrained_model(cls: Any) -> bool:
    """Whether a class is a model of transformers."""
    return isinstance(cls, ClassObject) and _has_base(cls, (_MODEL,))


def _has_base(cls: ClassObject, names: tuple[str, ...]) -> bool:
    return any(isinstance(each, External) and each.name.rpartition(".")[2] in names for each in cls.mro())


def field_name(receiver: Instance, name: str) -> str:
    """The name under which a configuration keeps a field: many call ``hidden_size`` otherwise."""
    table = receiver.cls.find("attribute_map") if isinstance(receiver.cls, ClassObject) else None
    return table.get(name, name) if isinstance(table, dict) else name


def configure(calls: Calls, result: Instance, cls: ClassObject, keywords: dict[str, Any]) -> None:
    """Fill a configuration as the constructor does that its base class makes of the annotated fields."""
    given = {field_name(result, name): value for name, value in keywords.items()}
    fields = {name: value for each in reversed(cls.mro()) for name, value in _own_fields(each).items()}
    defaults(result, given)
    result.attributes.update({**fields, **given})
    if result.attributes.get("rope_parameters", 0) is None:
        result.attributes["rope_parameters"] = {"rope_type": "default", "rope_theta": PLAIN}
    _make_parts(calls, result, cls)
    hook = cls.find("__post_init__")
    if hook is not None:
        extra = {name: value for name, value in given.items() if name not in fields}
        calls.call(calls.attribute(result, "__post_init__"), [], extra)


def _make_parts(calls: Calls, result: Instance, cls: ClassObject) -> None:
    """Configurations inside a configuration are made of dicts, or have their defaults."""
    parts = cls.find("sub_configs_defaults") or cls.find("sub_configs")
    for name, kind in parts.items() if isinstance(parts, dict) else ():
        given = result.attributes.get(name)
        if isinstance(kind, ClassObject) and (given is None or isinstance(given, dict)):
            result.attributes[name] = calls.instantiate(kind, [], given or {})


def defaults(result: Instance, given: dict[str, Any]) -> None:
    """Give a configuration what all have and nobody set."""
    for name, value in _FIELDS.items():
        result.attributes.setdefault(name, value)
    labels = given.get("id2label")
    found = len(labels) if isinstance(labels, dict) else given.get("num_labels", _DEFAULT_LABELS)
    result.attributes.setdefault("num_labels", found)


def _own_fields(cls: Any) -> dict[str, Any]:
    if not isinstance(cls, ClassObject):
        return {}
    return {name: cls.attributes[name] for name in cls.fields if name in cls.attributes}


def change(module: ModuleObject, method: str, arguments: list[Any], keywords: dict[str, Any]) -> None:
    """What a method of ``PreTrainedModel`` does to the parameters."""
    if method == "post_init":
        tie(module)
    elif method == "resize_token_embeddings" and module.entry is not None:
        words = arguments[0] if arguments else keywords.get("new_num_tokens")
        if words != module.entry.get("vocabulary"):
            module.doubt = module.doubt or "the number of words after resize_token_embeddings"


def tie(module: ModuleObject) -> None:
    """What ``post_init`` does about parameters that two layers share."""
    of_class = module.cls.find("_tied_weights_keys") if isinstance(module.cls, ClassObject) else None
    keys = module.attributes.get("_tied_weights_keys", of_class)
    config = module.attributes.get("config")
    if not keys or not isinstance(config, Instance):
        return
    is_tied = config.attributes.get("tie_word_embeddings")
    if is_tied is False:
        return
    if is_tied is not True or not isinstance(keys, dict):
        module.doubt = module.doubt or "parameters that may be shared"
        return
    for target, source in keys.items():
        owner, _, name = str(target).rpartition(".")
        receiver, value = _reached(module, owner), _reached(module, str(source))
        if isinstance(receiver, ModuleObject) and isinstance(value, Parameter):
            receiver.attributes[name] = value
        else:
            module.doubt = module.doubt or f"{target} may be shared"


def _reached(module: ModuleObject, path: str) -> Any:
    value: Any = module
    for name in path.split(".") if path else ():
        if not isinstance(value, ModuleObject):
            return None
        is_member = name.isdigit() and int(name) < len(value.items)
        value = value.items[int(name)] if is_member else value.attributes.get(name)
    return value


def built(calls: Calls, recipe: Recipe) -> ModuleObject | None:
    """The model that a library's source makes, as far as it can be read.

    None where the library is not installed, or has no such class.
    """
    config: Any = None
    with calls.within(source_of):
        if recipe.kind == DIFFUSERS:
            model = _instantiated(calls, *recipe.names, [], recipe.fields)
        else:
            folder = recipe.kind.replace("-", "_")
            module = f"transformers.models.{folder}"
            config = _instantiated(calls, f"{module}.configuration_{folder}", recipe.names[0], [], recipe.fields)
            model = _instantiated(calls, f"{module}.modeling_{folder}", recipe.names[1], [config], {})
    if not isinstance(model, ModuleObject):
        return None
    shape = shape_of(config) if isinstance(config, Instance) else {}
    model.entry = {**shape, "params": model.count()}
    return model


def _instantiated(calls: Calls, module: str, name: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
    """An object of a class of a library; None if there is no such class or an argument could not be made."""
    path = source_of(module)
    namespace = calls.file(path, module) if path is not None else None
    found = namespace.scope.variables.get(name) if namespace is not None else None
    if not isinstance(found, ClassObject) or any(each is None for each in arguments):
        return None
    return calls.instantiate(found, arguments, keywords)


def known_function(name: str, arguments: list[Any]) -> Any:
    """What functions of the library give that constructors call; NotImplemented for others."""
    last = name.rpartition(".")[2]
    if last == "get_activation":
        return activation(arguments[0] if arguments else Unknown("the activation"))
    if last == "is_flash_attention_requested":
        return False
    if last == "is_torch_version" and arguments and isinstance(arguments[0], str):
        return arguments[0] in {">", ">="}  # As for any PyTorch of these days.
    return NotImplemented


def activation(key: Any) -> Any:
    """A member of ``ACT2FN``: none of them has parameters but one."""
    return Unknown("the activation") if isinstance(key, Unknown) or key == "xielu" else Tensor(None)
