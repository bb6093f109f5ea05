"""Configurations and models of transformers: what their base classes do, and where the library's source says the rest.

Sources: ``PreTrainedConfig`` and ``PreTrainedModel`` of transformers 5 (``configuration_utils.py``,
``modeling_utils.py``). Where the library is installed, its own constructors are read like the program's; nothing of it
is imported.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memlint.model.sizes.objects import PLAIN, ClassObject, External, Instance, ModuleObject, Parameter, Tensor, Unknown

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
_SHARED = frozenset({"transformers.pytorch_utils", "transformers.modeling_layers"})
"""Modules with layers that many models are made of."""
_SHAPE = {
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
def _root() -> Path | None:
    """The folder of the installed library."""
    try:
        spec = find_spec("transformers")
    except (ImportError, ValueError):
        return None
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def source_of(name: str) -> Path | None:
    """The file of a module of the library that says how models are made."""
    root, parts = _root(), name.split(".")
    if root is None or parts[0] != "transformers":
        return None
    is_model = len(parts) == 4 and parts[1] == "models" and parts[3].startswith(("configuration_", "modeling_"))
    path = root.joinpath(*parts[1:]).with_suffix(".py")
    return path if (is_model or name in _SHARED) and path.is_file() else None


def shape_of(config: Instance) -> dict[str, int]:
    """What a configuration says of the size of its model, as the table of architectures names it."""
    found = {}
    for field, names in _SHAPE.items():
        values = [config.attributes.get(field_name(config, name)) for name in names]
        value = next((each for each in values if isinstance(each, int)), None)
        if value is not None:
            found[field] = value
    return found


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


def built(calls: Calls, kind: str, names: tuple[str, str], fields: dict[str, Any]) -> ModuleObject | None:
    """The model that the library's source makes of a configuration with these fields, as far as it can be read.

    ``kind`` is the ``model_type``, ``names`` are the classes of the configuration and of the model. None where the
    library is not installed, or has no such class.
    """
    folder = kind.replace("-", "_")
    with calls.within(source_of):
        classes = []
        for part, name in zip(("configuration", "modeling"), names, strict=True):
            module = f"transformers.models.{folder}.{part}_{folder}"
            path = source_of(module)
            namespace = calls.file(path, module) if path is not None else None
            found = namespace.scope.variables.get(name) if namespace is not None else None
            if not isinstance(found, ClassObject):
                return None
            classes.append(found)
        config = calls.instantiate(classes[0], [], fields)
        model = calls.instantiate(classes[1], [config], {})
    if not isinstance(model, ModuleObject) or not isinstance(config, Instance):
        return None
    model.entry = {**shape_of(config), "params": model.count()}
    return model


def known_function(name: str, arguments: list[Any]) -> Any:
    """What functions of the library give that constructors call; NotImplemented for others."""
    last = name.rpartition(".")[2]
    if last == "get_activation":
        return activation(arguments[0] if arguments else Unknown("the activation"))
    if last == "is_flash_attention_requested":
        return False
    return NotImplemented


def activation(key: Any) -> Any:
    """A member of ``ACT2FN``: none of them has parameters but one."""
    return Unknown("the activation") if isinstance(key, Unknown) or key == "xielu" else Tensor(None)
