"""What calls and attributes give, for objects of the program and for what PyTorch and Python define."""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cmp_to_key
from math import prod
from pathlib import Path
from typing import Any

from memlint.model.sizes import hugging_face, layers, natives, vectors
from memlint.model.sizes.command_line import PARSER_METHODS, PARSERS, Option, new_parser
from memlint.model.sizes.natives import Items, Missing
from memlint.model.sizes.objects import (
    EITHER,
    PLAIN,
    Bound,
    ClassObject,
    External,
    FunctionObject,
    Instance,
    Method,
    ModuleObject,
    Namespace,
    Native,
    Parameter,
    Partial,
    Place,
    SuperObject,
    Tensor,
    Unknown,
    is_known,
)
from memlint.model.sizes.setting_files import EXISTENCE, FILE, LOADERS, exists, loaded, opened

_WITHOUT_PARAMETERS = ("Mixin", "PreTrainedModel", "LightningModule", "Protocol", "ABC", "Generic", "torch.nn.Module")
"""Ends of names of bases that add no parameters."""
_OTHER_BASES = ("torch.utils.", "typing.", "abc.", "enum.", "collections.", "builtins.", "object", "argparse.")
"""Beginnings of names of bases that make no ``nn.Module``."""
_NO_MODULES = ("Trainer", "Dataset", "Callback", "Config", "Arguments", "DataModule", "Sampler", "Exception", "Error")
"""Ends of names of bases that make no ``nn.Module`` either."""
_SHAPED = frozenset("zeros ones empty rand randn full FloatTensor Tensor".split())
_WRAPPERS = frozenset(
    """
    torch.compile torch.jit.script torch.nn.DataParallel torch.nn.parallel.DistributedDataParallel
    torch.nn.parallel.DataParallel torch.nn.SyncBatchNorm.convert_sync_batchnorm torch.jit.trace
    torch.distributed.fsdp.FullyShardedDataParallel functools.wraps
    """.split()
)
"""Functions that give back what they are given, as far as parameters go."""
_REPARAMETRIZED = ("weight_norm", "spectral_norm", "prune")
_FLUENT = frozenset(
    """
    to cuda cpu train eval half float double bfloat16 apply compile requires_grad_ to_empty type share_memory
    _init_weights
    """.split()
)
_INSPECT = frozenset("parameters named_parameters modules named_modules children named_children".split())
_SETTERS = ("__setattr__", "add_module", "register_module", "register_parameter")
"""Methods of ``nn.Module`` that give it a member."""
_UNBOUND_SETTERS = frozenset(f"torch.nn.Module.{name}" for name in _SETTERS)
_CONTAINER_METHODS = frozenset(
    "append extend insert add_module register_module register_parameter register_buffer update keys values items pop "
    "clear".split()
)
_VIEWS = frozenset("register_buffer keys values items".split())
_CHANGEABLE = (natives.Items, natives.Table, natives.Pool)
_MUTATORS = frozenset("append extend insert add remove pop clear update sort reverse setdefault popitem".split())
_BUILTIN_TYPES = (str, list, tuple, dict, set, frozenset, int, float, range)
_CONVERTERS = frozenset("numpy tolist item cpu".split())


class Calls(ABC):
    """The part of the evaluator that calls. It knows the functions by qualified name."""

    watch: Callable[[str, list[Any], dict[str, Any], Place], Any] | None
    place: Place
    since: list[int]
    """When the conditions of unknown outcome began that stand around what is evaluated now."""
    overrides: dict[str, Any]
    """Values of command-line arguments, by destination, that are set by the user."""
    read: Callable[[Path], str | None]
    absent_is_unknown: bool
    """Whether arguments without a value are to be taken for ones that a run gives a value."""

    def __init__(self) -> None:
        self.returned: list[tuple[int, list[Any]]] = []
        """What functions may have returned under conditions of unknown outcome, by the scope."""
        self.overrides = {}
        self.given: dict[str, Any] = {}
        """Values of variables, attributes and arguments by name, for those whose value the program does not tell."""
        self.overridden: set[str] = set()
        """The names among ``overrides`` that the program has an argument for, and among ``given`` a variable."""
        self.told_doubt = ""
        """Why the call that is told of may have other arguments besides."""
        self.options: dict[str, Option] = {}
        """The arguments that the program declares, by the name that they are read by; of fields only those in use."""
        self.absent_is_unknown = False
        self.special: dict[str, Callable[[list[Any], dict[str, Any]], Any]] = {
            "isinstance": self._isinstance,
            "issubclass": lambda given, _named: _is_subclass(given[0], given[1]),
            "hasattr": self._hasattr,
            "getattr": self._getattr,
            "setattr": self._setattr,
            "delattr": lambda given, _named: self.delete_attribute(given[0], given[1]),
            "open": lambda given, named: opened(self, given, named),
            "callable": lambda given, _named: _is_callable(given[0]),
            "map": self._map,
            "filter": lambda _given, _named: Unknown("filter"),
            "sorted": self._sorted,
            "next": self._next,
            "type": lambda given, _named: given[0].cls if isinstance(given[0], Instance) else Unknown("type"),
        }

    @abstractmethod
    def apply(self, function: FunctionObject, arguments: list[Any], keywords: dict[str, Any], receiver: Any) -> Any:
        """Runs a function of the project."""

    @abstractmethod
    def member(self, namespace: Namespace, name: str) -> Any:
        """A variable of a module of the project."""

    @abstractmethod
    def set_attribute(self, receiver: Any, name: str, value: Any) -> None:
        """``receiver.name = value``."""

    def delete_attribute(self, receiver: Any, name: Any) -> None:
        """``del receiver.name``."""
        if not isinstance(receiver, Instance):
            return
        if isinstance(receiver, ModuleObject) and (self.is_old(receiver) or not isinstance(name, str)):
            receiver.doubt = "a member is deleted"
            return
        if self.is_old(receiver):
            receiver.attributes[name] = Unknown(EITHER)
            return
        self.replace_head(receiver, name, None)
        receiver.attributes.pop(name, None)

    @abstractmethod
    def file(self, path: Path, name: str = "") -> Namespace | None:
        """The module at ``path``, its top level evaluated; None if it cannot be read."""

    @abstractmethod
    def within(self, source: Callable[[str], Path | None]) -> AbstractContextManager[None]:
        """Evaluates a library meanwhile, whose modules ``source`` finds."""

    @abstractmethod
    def truth(self, value: Any) -> bool | None:
        """Whether ``value`` counts as true."""

    @staticmethod
    @abstractmethod
    def part(value: Any) -> Any:
        """An element of something unknown."""

    def is_old(self, value: Any) -> bool:
        """Whether ``value`` is older than a condition of unknown outcome that is open now: a change may not happen."""
        return bool(self.since) and getattr(value, "born", -1) < self.since[-1]

    @abstractmethod
    def join(self, values: list[Any]) -> Any:
        """What is one of ``values``, nobody knows which."""

    # ------------------------------------------------------------------------------------------------- calling

    def call(  # noqa: PLR0911 - one case after the other
        self, callee: Any, arguments: list[Any], keywords: dict[str, Any], doubt: str = ""
    ) -> Any:
        """What a call gives. ``doubt`` says why there may be other arguments."""
        if isinstance(callee, Native):
            return callee.call(*arguments, **keywords)
        if isinstance(callee, Partial):
            return self.call(callee.function, [*callee.arguments, *arguments], {**callee.keywords, **keywords}, doubt)
        if isinstance(callee, FunctionObject):
            result = self.apply(callee, arguments, keywords, None)
            return Unknown(doubt) if doubt and not isinstance(result, ModuleObject) else self._doubted(result, doubt)
        if isinstance(callee, Bound):
            return self.apply(callee.function, [callee.receiver, *arguments], keywords, callee.receiver)
        if isinstance(callee, ClassObject):
            return self._doubted(self.instantiate(callee, arguments, keywords), doubt)
        if isinstance(callee, External):
            if arguments and callee.name in _UNBOUND_SETTERS:
                return self._setattr(arguments, keywords)
            return self._external(callee.name, arguments, keywords, doubt)
        if isinstance(callee, Method):
            return self._method(callee.receiver, callee.name, arguments, keywords)
        if isinstance(callee, Instance):
            return self._called(callee, arguments, keywords)
        return Unknown(getattr(callee, "why", "") or "a call of something unknown")

    @staticmethod
    def _doubted(result: Any, doubt: str) -> Any:
        if doubt and isinstance(result, Instance) and not result.doubt:
            result.doubt = doubt
        return result

    def _called(self, receiver: Instance, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        """``receiver(...)``: the forward of a module, or ``__call__``."""
        if isinstance(receiver, ModuleObject):
            self._tell(".forward", [receiver, *arguments], keywords)
            return Tensor(None)
        if isinstance(receiver.cls, External):
            self._tell(".__call__", [receiver, *arguments], keywords)
        method = receiver.cls.find("__call__") if isinstance(receiver.cls, ClassObject) else None
        if isinstance(method, FunctionObject):
            return self.apply(method, [receiver, *arguments], keywords, receiver)
        return Unknown(f"a call of {receiver.class_name}")

    def _tell(self, name: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        if self.watch is None:
            return NotImplemented
        return self.watch(name, arguments, keywords, self.place)

    # ------------------------------------------------------------------------------------------------- classes

    def instantiate(self, cls: ClassObject, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        """An object of a class of the project."""
        result = self._blank(cls)
        constructor = cls.find("__init__")
        if isinstance(constructor, FunctionObject):
            self.apply(constructor, [result, *arguments], keywords, result)
        elif hugging_face.is_configuration(cls):
            hugging_face.configure(self, result, cls, keywords)
        elif cls.is_dataclass:
            self._fill_fields(result, cls, arguments, keywords)
        elif isinstance(result, ModuleObject):
            self._construct_base(result, cls.mro(), arguments, keywords)
        self._tell_of_trainer(cls, result, [] if constructor is not None else arguments, keywords)
        return result

    def _tell_of_trainer(
        self, cls: ClassObject, made: Instance, arguments: list[Any], keywords: dict[str, Any]
    ) -> None:
        """A class of the project that is derived from a library's trainer is one, too."""
        names = [each.name for each in cls.mro() if isinstance(each, External)]
        base = next((name for name in names if name.endswith("Trainer")), None)
        if base is not None:
            self._tell(base, arguments, {**made.attributes, **keywords})

    def _blank(self, cls: ClassObject) -> Instance:
        bases = [each for each in cls.mro() if not isinstance(each, ClassObject)]
        names = [each.name for each in bases if isinstance(each, External)]
        unknown = [each for each in bases if not isinstance(each, External)]
        strange = [name for name in names if not _is_harmless(name)]
        is_module = any(layers.layer_name(name) or name.endswith(_WITHOUT_PARAMETERS[1:3]) for name in names)
        if not is_module and not strange and not unknown:
            return Instance(cls)
        doubt = f"base class {strange[0]}" if strange else "base class of unknown origin" if unknown else ""
        return ModuleObject(cls, doubt=doubt, place=self.place)

    def _construct_base(
        self, module: ModuleObject, order: list[Any], arguments: list[Any], keywords: dict[str, Any]
    ) -> None:
        """What the constructor of the first base from outside that has one makes."""
        if hugging_face.is_pretrained_model(module.cls):
            module.attributes["config"] = arguments[0] if arguments else keywords.get("config", PLAIN)
        for base in order:
            if isinstance(base, External) and layers.layer_name(base.name):
                layers.build(module, base.name, arguments, keywords)
                return

    def _fill_fields(self, result: Instance, cls: ClassObject, arguments: list[Any], keywords: dict[str, Any]) -> None:
        fields: dict[str, Any] = {}
        for each in reversed(cls.mro()):
            if isinstance(each, ClassObject):
                fields.update({name: each.attributes.get(name, PLAIN) for name in each.fields})
        given = {**dict(zip(fields, arguments, strict=False)), **keywords}
        for name, default in fields.items():
            value = given.get(name, default)
            made = isinstance(value, Instance) and value.attributes.get("__default__")
            result.attributes[name] = self._default(value) if made else value
        hook = cls.find("__post_init__")
        if isinstance(hook, FunctionObject):
            self.apply(hook, [result], {}, result)

    def _default(self, field: Instance) -> Any:
        if "factory" in field.attributes:
            return self.call(field.attributes["factory"], [], {})
        return field.attributes.get("value", PLAIN)

    def _super_member(self, value: SuperObject, name: str) -> Any:
        receiver = value.receiver
        cls = receiver.cls if isinstance(receiver, Instance) else receiver
        if not isinstance(cls, ClassObject):
            return Unknown("super")
        order = cls.mro()
        after = order[order.index(value.owner) + 1 :] if value.owner in order else value.owner.mro()[1:]
        for each in after:
            if isinstance(each, ClassObject) and name in each.attributes:
                return self._of_class(each.attributes[name], receiver)
        if name == "__init__" and isinstance(receiver, ModuleObject):
            return Native("__init__", lambda *a, **k: self._construct_base(receiver, after, list(a), k))
        if name == "__init__" and isinstance(receiver, Instance) and cls.is_dataclass:
            return Native(name, lambda *a, **k: self._fill_fields(receiver, value.owner, list(a), k))
        if name == "__setattr__" and isinstance(receiver, ModuleObject):
            return Method(receiver, name)
        if name in {"__init__", "__post_init__", "__setattr__", "__init_subclass__"}:
            return Native(name, self._take_configuration(receiver))
        return Method(receiver, name) if isinstance(receiver, ModuleObject) else Unknown(f"super().{name}")

    @staticmethod
    def _take_configuration(receiver: Any) -> Callable[..., None]:
        """A configuration class hands the fields that it does not know to its base."""

        def call(*_arguments: Any, **keywords: Any) -> None:
            if isinstance(receiver, Instance):
                for name, value in keywords.items():
                    receiver.attributes.setdefault(hugging_face.field_name(receiver, name), value)
                if hugging_face.is_configuration(receiver.cls):
                    hugging_face.defaults(receiver, keywords)

        return call

    def _of_class(self, value: Any, receiver: Any) -> Any:
        """An attribute of a class, seen from ``receiver``."""
        if not isinstance(value, FunctionObject) or value.kind == "static":
            return value
        if value.kind == "property" and isinstance(receiver, Instance):
            return self.apply(value, [receiver], {}, receiver)
        if value.kind == "class":
            return Bound(value, receiver.cls if isinstance(receiver, Instance) else receiver)
        return Bound(value, receiver) if isinstance(receiver, Instance) else value

    # ---------------------------------------------------------------------------------------------- attributes

    def attribute(self, value: Any, name: str) -> Any:
        """``value.name``."""
        if isinstance(value, Unknown):
            return Unknown(value.why or name, plain=value.plain)
        if isinstance(value, External):
            full = f"{value.name}.{name}"
            return natives.CONSTANTS.get(full, External(full))
        if isinstance(value, Namespace):
            return dict(value.scope.variables) if name == "__dict__" else self.member(value, name)
        if isinstance(value, SuperObject):
            return self._super_member(value, name)
        if isinstance(value, ClassObject):
            return self._class_attribute(value, name)
        if isinstance(value, Instance):
            return self._instance_attribute(value, name)
        return self._other_attribute(value, name)

    def _class_attribute(self, value: ClassObject, name: str) -> Any:
        if name == "__name__":
            return value.name
        found = value.find(name)
        if found is not None:
            return self._of_class(found, value)
        outside = [each for each in value.mro() if isinstance(each, External)]
        if name == "_from_config" and hugging_face.is_pretrained_model(value):
            return Native(name, lambda config, **_options: self.instantiate(value, [config], {}))
        if name == "__init__" and all(_is_harmless(each.name) for each in outside):
            return Native(name, lambda *_a, **_k: None)
        return Unknown(f"{value.name}.{name}")

    def _instance_attribute(self, value: Instance, name: str) -> Any:
        name = hugging_face.field_name(value, name)
        if name in value.attributes:
            return value.attributes[name]
        if name in {"__class__"}:
            return value.cls
        if name == "__dict__":
            # What is put there by hand is no parameter and no member.
            return natives.Table(value.attributes) if isinstance(value, ModuleObject) else value.attributes
        if isinstance(value.cls, ClassObject):
            found = value.cls.find(name)
            if found is not None:
                return self._of_class(found, value)
        if isinstance(value, ModuleObject):
            if name in value.keys:
                return value.items[value.keys.index(name)]
            if name == "training":
                return True
            return self._module_attribute(value, name)
        return PLAIN if value.open and name not in PARSER_METHODS else Method(value, name)

    def _module_attribute(self, value: ModuleObject, name: str) -> Any:
        if name in {"device", "dtype"}:
            return PLAIN
        if name == "module":
            return value
        known = _FLUENT | _INSPECT | _CONTAINER_METHODS
        if value.entry is not None and name not in known:
            return self.known_attribute(value, name)
        return Method(value, name)

    def known_attribute(self, value: ModuleObject, name: str) -> Any:
        """An attribute of a well-known model that is not one of ``nn.Module``."""
        return Method(value, name)

    def replace_head(self, receiver: Instance, name: str, value: Any) -> None:
        """Called before ``receiver.name`` becomes ``value``: parts of a well-known model may be replaced."""
        if isinstance(receiver, ModuleObject) and receiver.entry is not None and name not in receiver.attributes:
            if value is None or (is_known(value) and not isinstance(value, (ModuleObject, Parameter))):
                return
            receiver.doubt = f"{name} is replaced"

    @staticmethod
    def _other_attribute(value: Any, name: str) -> Any:
        if isinstance(value, Parameter):
            if name == "requires_grad":
                return value.attributes.get(name, True)
            if name == "data":
                return Tensor(value.shape)
        if isinstance(value, (Parameter, Tensor)):
            if name == "shape":
                return value.shape if value.shape is not None else PLAIN
            if name in {"T", "mT"} and isinstance(value, Tensor):
                return Tensor(value.shape[::-1] if value.shape else None)
        if name in {"device", "dtype"}:
            return PLAIN
        if isinstance(value, FunctionObject) and name == "__name__":
            return value.name
        if isinstance(value, slice):
            return getattr(value, name, PLAIN)
        return Method(value, name)

    def item(self, value: Any, key: Any) -> Any:  # noqa: C901, PLR0911 - one case after the other
        """``value[key]``."""
        if isinstance(value, ModuleObject):
            return self._member_of(value, key)
        if isinstance(value, Tensor):
            return vectors.item(value, key)
        if natives.doubt_of(value):
            return Unknown(natives.doubt_of(value))
        if isinstance(value, External) and value.name.endswith(".ACT2FN"):
            return hugging_face.activation(key)
        if isinstance(value, External) and value.name.endswith(".__dict__") and isinstance(key, str):
            return External(f"{value.name.removesuffix('.__dict__')}.{key}")
        if isinstance(value, (list, tuple, dict, str, range)) and not isinstance(key, Unknown):
            try:
                found = value[key]
            except (LookupError, TypeError):
                return Unknown("no such item")
            return Items(found) if type(found) in (list, Items) and isinstance(key, slice) else found
        if isinstance(value, (list, tuple, dict)):
            return self.part(list(value.values()) if isinstance(value, dict) else value)
        if isinstance(value, Instance) and isinstance(key, str):
            method = value.cls.find("__getitem__") if isinstance(value.cls, ClassObject) else None
            if isinstance(method, FunctionObject):
                return self.apply(method, [value, key], {}, value)
            return value.attributes.get(key, Unknown(f"item {key}"))
        if isinstance(value, ClassObject):
            return value
        if isinstance(value, External):
            return value
        return self.part(value)

    @staticmethod
    def _member_of(value: ModuleObject, key: Any) -> Any:
        if isinstance(key, str) and key in value.keys:
            return value.items[value.keys.index(key)]
        if isinstance(key, slice) and not value.doubt:
            return ModuleObject(value.cls, items=list(value.items[key]))
        if isinstance(key, int) and -len(value.items) <= key < len(value.items) and not value.doubt:
            return value.items[key]
        return Unknown("a member")

    # --------------------------------------------------------------------------------------- what others define

    def _external(  # noqa: PLR0911 - one case after the other
        self, name: str, arguments: list[Any], keywords: dict[str, Any], doubt: str
    ) -> Any:
        self.told_doubt = doubt
        told = self._tell(name, arguments, keywords)
        self.told_doubt = ""
        if told is not NotImplemented:
            return self._doubted(told, doubt)
        vectors.changed_in_place(name if "out" not in keywords else "_", [*arguments, *keywords.values()])
        short = name.removeprefix("builtins.")
        if name.startswith("builtins."):
            return self._builtin(short, arguments, keywords)
        if layers.layer_name(name):
            module = ModuleObject(External(name), place=self.place)
            layers.build(module, name, arguments, keywords)
            return self._doubted(module, doubt)
        if doubt:
            return Unknown(doubt)
        known = None if keywords else vectors.computed(name.removeprefix("torch."), arguments)
        if known is None and name in _KNOWN:
            return _KNOWN[name](self, arguments, keywords)
        if known is not None:
            return known
        if name in natives.LIBRARY:
            return self._safely(natives.LIBRARY[name], arguments, keywords)
        if name in PARSERS or name.endswith("HfArgumentParser"):
            return new_parser(name, arguments, keywords)
        return self._library(name, arguments, keywords)

    def _library(  # noqa: C901, PLR0911 - one case after the other
        self, name: str, arguments: list[Any], keywords: dict[str, Any]
    ) -> Any:
        last = name.rpartition(".")[2]
        if name.startswith(hugging_face.LIBRARIES):
            found = hugging_face.known_function(name, arguments)
            if found is not NotImplemented:
                return found
        if name in _WRAPPERS and arguments:
            return arguments[0]
        if name.startswith("torch.") and last.startswith(_REPARAMETRIZED):
            if arguments and isinstance(arguments[0], ModuleObject):
                layers.reparametrize(arguments[0], last, arguments[1:], keywords)
                return arguments[0]
            return PLAIN
        if name.startswith("torch.") and last in _SHAPED:
            return Tensor(_shape(arguments, keywords))
        if name.startswith(
            ("torch.nn.init.", "torch.nn.utils.", "torch.cuda.", "torch.distributed.", "torch.backends")
        ):
            return PLAIN
        if name.startswith(("torch.nn.functional.", "torch.Tensor")):
            return Tensor(None)
        if name.startswith(("torch.nn.", "torch.hub.", "torch.load")):
            return Unknown(f"call of {name}")
        if name.startswith("torch.") and name.count(".") == 1:
            return Tensor(None)
        if arguments and type(arguments[0]) is Instance and last in {"tqdm", "track", "prefetch"}:
            return arguments[0]
        if name.split(".", maxsplit=1)[0] in natives.PLAIN_MODULES:
            return PLAIN
        return Unknown(f"call of {name}")

    def _builtin(self, name: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        if name in self.special:
            try:
                return self.special[name](arguments, keywords)
            except (IndexError, Missing, TypeError):
                return Unknown(f"call of {name}")
        if name in {"enumerate", "iter", "zip"} and arguments and type(arguments[0]) is Instance:
            return arguments[0]
        if name in natives.BUILTINS:
            return self._safely(natives.BUILTINS[name], arguments, keywords)
        return PLAIN

    @staticmethod
    def _safely(function: Callable[..., Any], arguments: list[Any], keywords: dict[str, Any]) -> Any:
        try:
            return function(*arguments, **keywords)
        except Missing:
            holds = any(not isinstance(each, (int, float, str)) for each in arguments)
            return Unknown("a call with values that are not known", plain=not holds)
        except Exception:  # noqa: BLE001 - whatever is wrong with the program, its value is unknown
            return Unknown("a call that fails")

    def _isinstance(self, given: list[Any], _named: dict[str, Any]) -> Any:
        value, kinds = given[0], given[1]
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        answers = [_is_instance(value, kind) for kind in kinds]
        if True in answers:
            return True
        return PLAIN if None in answers else False

    def _hasattr(self, given: list[Any], _named: dict[str, Any]) -> Any:
        value, name = given[0], given[1]
        if isinstance(value, External) and value.name.startswith("torch."):
            return True  # Whether PyTorch is new enough.
        if not isinstance(value, Instance) or not isinstance(name, str) or value.doubt or value.open:
            return PLAIN
        if getattr(value.attributes.get(name), "why", "") == EITHER:
            return PLAIN
        if name in value.attributes or (isinstance(value.cls, ClassObject) and value.cls.find(name) is not None):
            return True
        if isinstance(value, ModuleObject):
            if name in _FLUENT | _INSPECT or value.entry is not None:
                return PLAIN
            return isinstance(value.cls, External) and name in dir(list)
        return False

    def _getattr(self, given: list[Any], _named: dict[str, Any]) -> Any:
        value, name = given[0], given[1]
        if not isinstance(name, str):
            return Unknown("an attribute of unknown name")
        if len(given) > 2:
            known = self._hasattr(given, {})
            if known is False:
                return given[2]
        return self.attribute(value, name)

    def _setattr(self, given: list[Any], _named: dict[str, Any]) -> None:
        receiver, name, value = given[:3]
        if isinstance(name, str):
            self.set_attribute(receiver, name, value)
        elif isinstance(receiver, ModuleObject):
            receiver.doubt = "an attribute of unknown name is set"

    def _map(self, given: list[Any], _named: dict[str, Any]) -> Any:
        return Items(self.call(given[0], [each], {}) for each in natives.sequence(given[1]))

    def _sorted(self, given: list[Any], named: dict[str, Any]) -> Any:
        known = natives.sequence(given[0])
        if "key" in named or not is_known(known):
            return Unknown("sorted", plain=all(isinstance(each, (int, float, str, Unknown)) for each in known))
        return Items(sorted(known, key=cmp_to_key(_order), reverse=named.get("reverse") is True))

    def _next(self, given: list[Any], _named: dict[str, Any]) -> Any:
        known = natives.sequence(given[0])
        return known[0] if known else Unknown("next")

    # ------------------------------------------------------------------------------------------------- methods

    def _method(self, receiver: Any, name: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        told = self._tell(f".{name}", [receiver, *arguments], keywords)
        if told is not NotImplemented:
            return told
        if isinstance(receiver, ModuleObject):
            return self._module_method(receiver, name, arguments, keywords)
        if isinstance(receiver, Instance):
            if isinstance(receiver.cls, External) and receiver.cls.name == FILE:
                return receiver if name == "read" else PLAIN
            if name in PARSER_METHODS:
                return PARSER_METHODS[name](self, receiver, arguments, keywords)
            return Unknown(f"method {name} of {receiver.class_name}")
        if isinstance(receiver, (Tensor, Parameter)):
            vectors.changed_in_place(name, [receiver])
            known = _number_method(receiver, name, arguments) if isinstance(receiver, Tensor) else None
            return _tensor_method(receiver, name, arguments) if known is None else known
        if isinstance(receiver, _BUILTIN_TYPES):
            return self._of_python(receiver, name, arguments, keywords)
        return Unknown(f"method {name}")

    def _of_python(  # noqa: C901 - one case after the other
        self, receiver: Any, name: str, arguments: list[Any], keywords: dict[str, Any]
    ) -> Any:
        if name == "append" and isinstance(receiver, list) and arguments:
            receiver.append(arguments[0])
            self._note_mutation(receiver, name)
            return None
        decisive = arguments[:1] if isinstance(receiver, dict) else arguments
        if name in _MUTATORS and any(isinstance(each, Unknown) or natives.doubt_of(each) for each in decisive):
            if isinstance(receiver, _CHANGEABLE):
                receiver.doubt = "changed in an unknown way"
            return Unknown(f"method {name}")
        if name not in _MUTATORS and natives.doubt_of(receiver):
            return Unknown(natives.doubt_of(receiver))
        before = dict(receiver) if type(receiver) is dict and self.since else None
        try:
            if name == "extend":
                arguments = [natives.sequence(arguments[0])]
            if not hasattr(receiver, name) or (isinstance(receiver, str) and not is_known(arguments)):
                return PLAIN if isinstance(receiver, (str, int, float)) else Unknown(f"method {name}")
            result = getattr(receiver, name)(*arguments, **keywords)
        except Missing:
            if isinstance(receiver, _CHANGEABLE):
                receiver.doubt = "elements of unknown number"
            return None
        except Exception:  # noqa: BLE001 - whatever is wrong with the program, its value is unknown
            return Unknown(f"method {name}")
        self._note_mutation(receiver, name)
        _doubt_changes(before, receiver)
        if isinstance(receiver, dict) and name in {"keys", "values", "items"}:
            return Items(result)
        return _of_program(result)

    def _note_mutation(self, receiver: Any, name: str) -> None:
        if name in _MUTATORS and isinstance(receiver, _CHANGEABLE) and self.is_old(receiver):
            receiver.doubt = "changed under a condition of unknown outcome"

    def _module_method(self, module: ModuleObject, name: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        if name == "requires_grad_":
            wanted = arguments[0] if arguments else keywords.get("requires_grad", True)
            for each in module.parameters():
                each.attributes["requires_grad"] = wanted if not self.since else PLAIN
        self._change_members(module, name, arguments)
        hugging_face.change(module, name, arguments, keywords)
        if name in _FLUENT:
            return module
        if name in _INSPECT:
            return self._inspected(module, name)
        if name in _CONTAINER_METHODS:
            if self.is_old(module) and name not in _VIEWS:
                module.doubt = module.doubt or "changed under a condition of unknown outcome"
            return self._container_method(module, name, arguments, keywords)
        if name in {"forward", "__call__"}:
            return Tensor(None)
        return Unknown(f"method {name} of {module.class_name}")

    def _change_members(self, module: ModuleObject, name: str, arguments: list[Any]) -> None:
        if name == "__setattr__" and len(arguments) == 2:
            self._setattr([module, *arguments], {})
        elif name == "__delattr__":
            self.delete_attribute(module, arguments[0] if arguments else None)
        elif name == "apply" and arguments and _adds_members(arguments[0]):
            module.doubt = "its members are changed by apply"

    @staticmethod
    def _inspected(module: ModuleObject, name: str) -> Any:
        if name == "parameters":
            result = Items(module.parameters())
        elif name == "named_parameters":
            result = Items(named_parameters(module))
        elif name == "modules":
            result = Items(module.modules())
        elif name == "named_modules":
            result = Items((PLAIN, each) for each in module.modules())
        else:
            pairs = [(key, each) for key, each in module.children() if isinstance(each, ModuleObject)]
            result = Items(pairs if name == "named_children" else [each for _, each in pairs])
        if module.doubts():
            result.doubt = module.doubts()[0]
        elif "children" in name and module.entry is not None and "children" not in module.entry:
            # What is known of it is its size, not what it consists of.
            result.doubt = f"the layers of {module.class_name}"
        return result

    def _container_method(self, module: ModuleObject, name: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        if name in {"keys", "values", "items"}:
            pairs = list(zip(module.keys, module.items, strict=False))
            views = {"keys": module.keys, "values": module.items, "items": pairs}
            return Items(views[name])
        given = [*arguments, *keywords.values()]
        if name in {"add_module", "register_module", "register_parameter"} and len(given) >= 2:
            self._register(module, given[0], given[1])
        elif name == "register_buffer":
            if given and isinstance(given[0], str):
                module.attributes[given[0]] = given[1] if len(given) > 1 and isinstance(given[1], Tensor) else Tensor()
        elif name == "append":
            module.items.append(given[0])
            return module
        elif name == "insert" and isinstance(given[0], int):
            module.items.insert(given[0], given[1])
        elif name in {"extend", "update"}:
            self._extend(module, given[0])
        else:
            module.doubt = f"changed by {name}"
        return None

    @staticmethod
    def _register(module: ModuleObject, name: Any, value: Any) -> None:
        sequential = isinstance(module.cls, External) and module.cls.name.endswith("Sequential")
        if isinstance(module.cls, ClassObject):
            outside = [each.name for each in module.cls.mro() if isinstance(each, External)]
            sequential = any(each.endswith(("Sequential", "ModuleDict")) for each in outside)
        if not isinstance(name, str):
            module.doubt = "a member of unknown name is added"
        elif sequential and not module.attributes.get(name):
            if len(module.keys) != len(module.items):
                module.keys = [str(index) for index in range(len(module.items))]
            module.keys.append(name)
            module.items.append(value)
        else:
            module.attributes[name] = value

    @staticmethod
    def _extend(module: ModuleObject, value: Any) -> None:
        try:
            if natives.doubt_of(value):
                raise Missing
            if isinstance(value, dict):
                module.keys.extend(map(str, value))
                module.items.extend(value.values())
            else:
                module.items.extend(natives.sequence(value))
        except Missing:
            module.doubt = "members of unknown number"


def named_parameters(module: ModuleObject, prefix: str = "", seen: set[int] | None = None) -> list[tuple[str, Any]]:
    """Names and parameters as PyTorch gives them, each parameter once."""
    seen = set() if seen is None else seen
    found: list[tuple[str, Any]] = []
    for name, child in module.children():
        if id(child) in seen:
            continue
        if isinstance(child, Parameter):
            seen.add(id(child))
            found.append((f"{prefix}{name}", child))
        elif isinstance(child, ModuleObject):
            seen.add(id(child))
            found.extend(named_parameters(child, f"{prefix}{name}.", seen))
    return found


def _doubt_changes(before: dict[Any, Any] | None, after: Any) -> None:
    """Of a table that a library keeps (a configuration, ``__dict__``) what has changed since ``before`` is unknown."""
    if before is not None:
        changed = [key for key in {**before, **after} if before.get(key) is not after.get(key)]
        after.update(dict.fromkeys(changed, Unknown(EITHER)))


def _of_program(value: Any) -> Any:
    """A list, a dict or a set as those of the program are."""
    kinds: dict[type, type] = {list: Items, dict: natives.Table, set: natives.Pool}
    return kinds[type(value)](value) if type(value) in kinds else value


def _is_callable(value: Any) -> Any:
    if isinstance(value, (FunctionObject, ClassObject, Partial, Bound, Native, ModuleObject)):
        return True
    return False if value is None or isinstance(value, _BUILTIN_TYPES) else PLAIN


def _order(first: Any, second: Any) -> int:
    return -1 if first < second else int(first > second)


def _is_harmless(name: str) -> bool:
    """Whether a base class from outside adds no parameters."""
    return (
        bool(layers.layer_name(name))
        or name.endswith(_WITHOUT_PARAMETERS + _NO_MODULES)
        or name.startswith(_OTHER_BASES)
    )


_PYTHON_TYPES: dict[str, Any] = {
    "int": int,
    "float": (float,),
    "str": str,
    "list": list,
    "tuple": tuple,
    "dict": dict,
    "bool": bool,
    "set": set,
}


def _is_instance(value: Any, kind: Any) -> bool | None:  # noqa: PLR0911 - one case after the other
    """Whether ``value`` is an instance of ``kind``; None if that is not known."""
    if isinstance(value, Unknown):
        return None
    if isinstance(kind, ClassObject):
        if not isinstance(value, Instance):
            return False
        return kind in value.cls.mro() if isinstance(value.cls, ClassObject) else False
    if not isinstance(kind, External):
        return None
    name = kind.name.removeprefix("builtins.")
    if name in _PYTHON_TYPES:
        return isinstance(value, _PYTHON_TYPES[name])
    if name in {"collections.abc.Sequence", "collections.abc.Iterable", "typing.Sequence", "typing.Iterable"}:
        return isinstance(value, (list, tuple, str, dict))
    if isinstance(value, Parameter):
        return name.endswith(("Parameter", "Tensor"))
    if isinstance(value, ModuleObject):
        return _is_module_instance(value, name)
    return False if isinstance(value, (int, float, str, list, tuple, dict, type(None))) else None


def _is_subclass(value: Any, kinds: Any) -> Any:
    if not isinstance(value, ClassObject):
        return PLAIN
    order = value.mro()
    wanted = kinds if isinstance(kinds, tuple) else (kinds,)
    if any(each is kind or (isinstance(kind, External) and each == kind) for each in order for kind in wanted):
        return True
    # What a base from outside is derived from is not known, but no class of the project is.
    inside = all(isinstance(kind, ClassObject) for kind in wanted)
    return False if inside and not any(isinstance(each, Unknown) for each in order) else PLAIN


def _is_module_instance(value: ModuleObject, name: str) -> bool | None:
    last = name.rpartition(".")[2]
    if last == "Module":
        return True
    known = value.cls.mro() if isinstance(value.cls, ClassObject) else [value.cls]
    if any(isinstance(each, External) and each.name.rpartition(".")[2] == last for each in known):
        return True
    return False if not value.doubt and layers.layer_name(name) else None


def _shape(arguments: list[Any], keywords: dict[str, Any]) -> tuple[int, ...] | None:
    given = keywords.get("size", arguments[0] if len(arguments) == 1 else arguments)
    if arguments and isinstance(arguments[0], (tuple, list)):
        given = arguments[0]
    if isinstance(given, int):
        given = [given]
    if isinstance(given, (list, tuple)) and all(isinstance(each, int) for each in given):
        return tuple(int(each) for each in given)
    return None


def _tensor_method(  # noqa: PLR0911 - one case after the other
    receiver: Tensor | Parameter, name: str, arguments: list[Any]
) -> Any:
    shape = receiver.shape
    if name in {"numel", "nelement"}:
        known = receiver.numel if isinstance(receiver, Parameter) else None if shape is None else prod(shape)
        return PLAIN if known is None else known
    if name == "size":
        if shape is None:
            return PLAIN
        return shape[arguments[0]] if arguments and isinstance(arguments[0], int) else shape
    if name == "requires_grad_" and isinstance(receiver, Parameter):
        receiver.attributes["requires_grad"] = arguments[0] if arguments else True
        return receiver
    if name == "tolist" and shape is not None and len(shape) == 1 and shape[0] < 10_000:
        return Items([PLAIN] * shape[0])
    if name in {"item", "dim"}:
        return PLAIN
    if name.endswith("_") or name in {"float", "clone", "detach", "to", "contiguous", "half", "cuda"}:
        return receiver if isinstance(receiver, Parameter) and name.endswith("_") else Tensor(shape)
    if name == "unsqueeze" and shape is not None and arguments and isinstance(arguments[0], int):
        place = arguments[0] + (len(shape) + 1 if arguments[0] < 0 else 0)
        return Tensor((*shape[:place], 1, *shape[place:]))
    if name in {"view", "reshape"}:
        return Tensor(_shape(arguments, {}))
    return Tensor(None)


def _number_method(receiver: Tensor, name: str, arguments: list[Any]) -> Any:
    """What a method makes of known numbers; None if that is not known."""
    numbers = receiver.numbers
    if numbers is None:
        return None
    if name == "tolist":
        return Items(numbers) if receiver.shape else numbers[0]
    if name == "item" and len(numbers) == 1:
        return numbers[0]
    if name == "split" and arguments:
        return vectors.split(receiver, arguments[0])
    if name in {"float", "double", "clone", "detach", "cpu", "numpy"}:
        return receiver
    return vectors.computed(name, [receiver, *arguments])


def _parameter(_calls: Calls, arguments: list[Any], keywords: dict[str, Any]) -> Any:
    data = arguments[0] if arguments else keywords.get("data")
    shape = data.shape if isinstance(data, (Tensor, Parameter)) else None
    wanted = keywords.get("requires_grad", arguments[1] if len(arguments) > 1 else True)
    return Parameter(None if shape is None else prod(shape), shape, {"requires_grad": wanted})


def _scalar_tensor(_calls: Calls, arguments: list[Any], _keywords: dict[str, Any]) -> Any:
    value = arguments[0] if arguments else None
    shape: list[int] = []
    while isinstance(value, (list, tuple)):
        shape.append(len(value))
        value = value[0] if value else None
    known = isinstance(value, (int, float, Unknown)) and getattr(value, "plain", True)
    given = arguments[0] if arguments else None
    numbers: list[Any] = list(given) if isinstance(given, (list, tuple)) else [given]
    if len(shape) < 2 and all(isinstance(each, (int, float)) for each in numbers) and not natives.doubt_of(given):
        return vectors.vector(numbers, scalar=not shape)
    return Tensor(tuple(shape)) if known else Tensor(None)


def _arange(_calls: Calls, arguments: list[Any], _keywords: dict[str, Any]) -> Any:
    if not arguments or not all(isinstance(each, int) for each in arguments) or len(arguments) > 3:
        return Tensor(None)
    return vectors.vector(range(*arguments))


def _partial(_calls: Calls, arguments: list[Any], keywords: dict[str, Any]) -> Any:
    return Partial(arguments[0], list(arguments[1:]), dict(keywords)) if arguments else Unknown("partial")


def _deepcopy(_calls: Calls, arguments: list[Any], _keywords: dict[str, Any]) -> Any:
    value = layers.copy_of(arguments[0]) if arguments else None
    return Items(value) if type(value) is list else value


def _copy(_calls: Calls, arguments: list[Any], _keywords: dict[str, Any]) -> Any:
    """A shallow copy."""
    value = arguments[0] if arguments else None
    if type(value) is Instance:
        return Instance(value.cls, dict(value.attributes), value.doubt, value.open)
    if isinstance(value, (list, dict)):
        result = Items(value) if isinstance(value, list) else natives.Table(value)
        result.doubt = natives.doubt_of(value)
        return result
    return Unknown("a copy") if isinstance(value, ModuleObject) else value


def _cast(_calls: Calls, arguments: list[Any], _keywords: dict[str, Any]) -> Any:
    return arguments[1] if len(arguments) > 1 else Unknown("cast")


def _field(_calls: Calls, arguments: list[Any], keywords: dict[str, Any]) -> Any:
    result = Instance(External("dataclasses.field"), {"__default__": True})
    if "default_factory" in keywords or "factory" in keywords:
        result.attributes["factory"] = keywords.get("default_factory", keywords.get("factory"))
    elif "default" in keywords or arguments:
        result.attributes["value"] = keywords.get("default", arguments[0] if arguments else PLAIN)
    return result


def _namespace(_calls: Calls, _arguments: list[Any], keywords: dict[str, Any]) -> Any:
    return Instance(External("types.SimpleNamespace"), dict(keywords))


def _like(_calls: Calls, arguments: list[Any], _keywords: dict[str, Any]) -> Any:
    first = arguments[0] if arguments else None
    return Tensor(first.shape) if isinstance(first, (Tensor, Parameter)) else Tensor(None)


_THERE = ("torch.cuda.is_available", "torch.cuda.is_bf16_supported", "torch.backends.cudnn.is_available")

_KNOWN: dict[str, Callable[[Calls, list[Any], dict[str, Any]], Any]] = {
    **dict.fromkeys(LOADERS, loaded),
    **dict.fromkeys(EXISTENCE, exists),
    # The question is what the program does on a GPU.
    **dict.fromkeys(_THERE, lambda _calls, _given, _named: True),
    "torch.nn.Parameter": _parameter,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.nn.Buffer": lambda _calls, _given, _named: Tensor(None),
    "torch.tensor": _scalar_tensor,
    "torch.as_tensor": _scalar_tensor,
    "torch.arange": _arange,
    **{f"torch.{name}": _like for name in ("log", "exp", "sqrt", "abs", "clamp")},
    **{f"torch.{name}_like": _like for name in ("zeros", "ones", "empty", "rand", "randn", "full")},
    "functools.partial": _partial,
    "copy.deepcopy": _deepcopy,
    "copy.copy": _copy,
    "typing.cast": _cast,
    "dataclasses.field": _field,
    "argparse.Namespace": _namespace,
    "types.SimpleNamespace": _namespace,
}


def _adds_members(function: Any) -> bool:
    """Whether a function that ``apply`` calls with each module may give it parameters or modules."""
    for each in ast.walk(function.node) if isinstance(function, FunctionObject) else ():
        if isinstance(each, ast.Call):
            called = each.func.id if isinstance(each.func, ast.Name) else getattr(each.func, "attr", "")
            if called in (*_SETTERS, "setattr"):
                return True
        if isinstance(each, ast.Assign) and isinstance(each.value, ast.Call):
            targets = [target for target in each.targets if isinstance(target, ast.Attribute)]
            if any(target.attr not in ("data", "requires_grad") for target in targets):
                return True
    return False
