"""What a script trains and how: its models, batch, precision, optimizer, each with the line that it comes from."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from memlint.model.sizes import setting_files, sharding
from memlint.model.sizes.architectures import known_configuration, known_model
from memlint.model.sizes.command_line import BY_PARSER
from memlint.model.sizes.evaluate import Evaluator, Stopped, TooMuch
from memlint.model.sizes.hugging_face import built
from memlint.model.sizes.marks import Mark, marked, place_of
from memlint.model.sizes.natives import Items
from memlint.model.sizes.objects import (
    PLAIN,
    Bound,
    ClassObject,
    External,
    FunctionObject,
    Instance,
    ModuleObject,
    Parameter,
    Place,
    Tensor,
    Unknown,
)


@dataclass(frozen=True)
class Fact:
    """Something that the program says. ``value`` is None if it says something that cannot be read."""

    value: Any
    place: Place
    by_command_line: bool = False
    """Whether a run may have another value, because it is the default of a command-line argument."""


@dataclass
class Reading:
    """What is known of the training in a program. A fact that is absent is one that the program says nothing about."""

    models: list[ModuleObject] = field(default_factory=list)
    """The models that are used, none a part of another; those that are trained come first."""
    trained: list[ModuleObject] = field(default_factory=list)
    facts: dict[str, Fact] = field(default_factory=dict)
    """By name: ``batch``, ``length``, ``image``, ``precision``, ``parameters dtype``, ``optimizer``, ``accumulation``,
    ``checkpointing``, ``adapter``, ``sharding``, ``stage``, ``ranks``, ``offload``, ``finder``, ``trainer``,
    ``backward``."""
    unknown: list[str] = field(default_factory=list)
    """What the program says in a way that cannot be read."""
    assumed: dict[str, Place] = field(default_factory=dict)
    """Files that the program looks for and that are not here: it is read as it runs without them."""
    texts: dict[Path, str] = field(default_factory=dict)
    """The files of the program that were read."""

    def value(self, name: str, default: Any = None) -> Any:
        """The value of a fact, or the default."""
        fact = self.facts.get(name)
        return default if fact is None or fact.value is None else fact.value

    @property
    def is_training(self) -> bool:
        """Whether a backward is reached, or a trainer made."""
        return "backward" in self.facts or "trainer" in self.facts


OPTIMIZERS: dict[str, tuple[float, float]] = {
    "SGD": (0, 4),
    "Adam": (8, 0),
    "AdamW": (8, 0),
    "NAdam": (8, 0),
    "RAdam": (8, 0),
    "Adamax": (8, 0),
    "RMSprop": (4, 4),
    "Adagrad": (4, 0),
    "Adadelta": (8, 0),
    "Rprop": (8, 0),
    "ASGD": (4, 0),
    "Adafactor": (0.01, 0),
    "Muon": (4, 0),
    "Lion": (4, 0),
    "FusedAdam": (8, 0),
    "FusedLAMB": (8, 0),
    "LAMB": (8, 0),
    "AdamW8bit": (2.02, 0),
    "Adam8bit": (2.02, 0),
    "PagedAdamW8bit": (0, 0),
    "PagedAdamW32bit": (0, 0),
    "LBFGS": (0, 0),
}
"""Bytes of state for each trainable float32 element on the device: always, and with momentum besides.

Those of torch.optim follow from the states that their ``step`` makes (exp_avg, exp_avg_sq, square_avg, ...); two states
of one byte and their scales for 8-bit Adam. Paged states count as 0, since the device may give them up.
"""


class Reader:
    """Evaluates a script and notes what is of interest.

    ``locate`` and ``read`` find and read the files of the project, see :class:`Evaluator`; ``overrides`` are values of
    command-line arguments by name. ``older`` says whether the project asks for versions of a package before another.
    """

    def __init__(
        self,
        locate: Callable[[Path, str], Path | None],
        read: Callable[[Path], str | None],
        overrides: Mapping[str, Any] | None = None,
        steps: int = 400_000,
        older: Callable[[str, str], bool] | None = None,
    ) -> None:
        self.reading = Reading()
        self._older = older
        self.evaluator = Evaluator(locate, read, self._watch, steps)
        self.evaluator.overrides = dict(overrides or {})
        self.loaders: list[tuple[Instance, Fact]] = []
        self.iterated: list[Instance] = []
        self.optimized: list[Any] = []
        self.used: dict[int, ModuleObject] = {}
        self.trainers: list[tuple[str, Instance]] = []

    def read(self, path: Path) -> Reading:
        """What the script at ``path`` trains."""
        try:
            namespace = self.evaluator.file(path, "__main__")
            if namespace is not None and not self.reading.is_training:
                self._run_uncalled(list(namespace.scope.variables.values()))
            self._finish_trainers()
        except TooMuch:
            self.reading.unknown.append("the program is too large to be evaluated")
        except RecursionError:
            self.reading.unknown.append("the program is nested too deeply to be evaluated")
        self._collect_texts()
        self._conclude()
        return self.reading

    def _run_uncalled(self, values: list[Any]) -> None:
        """Functions that nobody calls in sight are run with arguments of unknown value."""
        for value in values:
            if isinstance(value, FunctionObject) and id(value) not in self.evaluator.applied and _may_train(value.node):
                self._run(value)

    def _run(self, function: FunctionObject | Bound) -> None:
        """Runs a function with arguments of unknown value."""
        with suppress(Stopped):
            self.evaluator.call(function, [], {})

    # --------------------------------------------------------------------------------------------------- watching

    def _watch(self, name: str, arguments: list[Any], keywords: dict[str, Any], place: Place) -> Any:
        if name.startswith("."):
            return self._method(name[1:], arguments, keywords, place)
        if name == "for":
            if isinstance(arguments[0], Instance):
                self.iterated.append(arguments[0])
            return NotImplemented
        last = name.rpartition(".")[2]
        special = self._special(name, last, arguments, keywords, place)
        if special is not NotImplemented:
            return special
        model = known_model(name, arguments, keywords, place, partial(built, self.evaluator))
        if model is not None:
            if any(isinstance(each, Mark) and each.by_command_line for each in [*arguments, *keywords.values()]):
                model.attributes["named on the command line"] = True
            return model
        config = known_configuration(name, arguments, keywords)
        return NotImplemented if config is None else config

    def _special(self, name: str, last: str, arguments: list[Any], keywords: dict[str, Any], place: Place) -> Any:
        """What the frameworks make, as far as it says something about the training."""
        top = name.split(".", maxsplit=1)[0]
        if last == "DataLoader" and "torch" in name:
            return self._loader(name, arguments, keywords, place)
        if last in OPTIMIZERS and (".optim" in name or top in {"bitsandbytes", "apex", "transformers", "deepspeed"}):
            return self._optimizer(name, last, arguments, keywords, place)
        left_open = {BY_PARSER: True} if self.evaluator.told_doubt else {}
        if top == "trl" and last.endswith("Config"):
            return Instance(External(name), {**self._trl_settings(keywords), **left_open}, open=True)
        if last.endswith("TrainingArguments"):
            return Instance(External(name), {**keywords, **left_open}, open=True)
        if last.endswith("Trainer") and top in {"transformers", "trl", "lightning", "pytorch_lightning"}:
            return self._trainer(name, arguments, keywords, place)
        if last == "Accelerator" and top == "accelerate":
            return self._accelerator(name, keywords, place)
        if last == "get_peft_model":
            return self._adapter(arguments, place)
        return self._setting(name, last, arguments, keywords, place)

    def _is_older(self, package: str, version: str) -> bool:
        return self._older is not None and self._older(package, version)

    def _trl_settings(self, keywords: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of a configuration of TRL, which trains in bfloat16 by default and checkpoints."""
        settings = dict(keywords)
        if not self._is_older("trl", "0.19") and settings.get("bf16") is None:
            fp16 = settings.get("fp16", False)
            settings["bf16"] = fp16 if isinstance(fp16, Unknown) else not fp16
        if not self._is_older("trl", "0.22"):
            settings.setdefault("gradient_checkpointing", True)
        return settings

    def _setting(self, name: str, last: str, arguments: list[Any], keywords: dict[str, Any], place: Place) -> Any:
        if last == "autocast":
            self._autocast(name, arguments, keywords, place)
            return PLAIN
        self._note_all(sharding.made(name, keywords), place)
        config = keywords.get("config", keywords.get("config_params", keywords.get("hf_ds_config")))
        if name == "deepspeed.initialize" or (config is not None and last in ("DeepSpeedStrategy", "DeepSpeedPlugin")):
            self._deepspeed(config, place)
        if keywords.get("device_map") in _SPREADING and name.startswith("transformers."):
            self._note_all({"sharding": "device_map", "stage": PLAIN}, place)
        ranks = sharding.ranks(name, arguments, keywords)
        if ranks is not None:
            self._note("ranks", ranks, place)
        if name.startswith("torchvision.transforms") and last.endswith(("Crop", "Resize")):
            self._image(last, arguments, keywords, place)
            return PLAIN
        if last == "TensorDataset":
            self._tensors(arguments, place)
        elif last == "from_pretrained" and "Tokenizer" in name:
            return Instance(External("transformers.tokenizer"), {}, open=True)
        elif last == "seed_everything":
            return PLAIN
        return NotImplemented

    def _trainer(self, name: str, arguments: list[Any], keywords: dict[str, Any], place: Place) -> Any:
        trainer = Instance(External(name), dict(keywords), open=True)
        if name.startswith(("transformers", "trl")):
            self._hf_trainer(trainer, arguments, place)
        else:
            self._lightning_trainer(trainer, place)
        return trainer

    def _note(self, name: str, value: Any, place: Place) -> None:
        known = None if isinstance(value, Unknown) else value
        by_command_line = isinstance(value, Mark) and value.by_command_line
        self.reading.facts.setdefault(name, Fact(known, place_of(value, place), by_command_line))
        if isinstance(value, Unknown):
            self.reading.unknown.append(name)

    def _note_all(self, facts: Mapping[str, Any], place: Place) -> None:
        for name, value in facts.items():
            self._note(name, value, place)

    def _loader(self, name: str, arguments: list[Any], keywords: dict[str, Any], place: Place) -> Any:
        batch = keywords.get("batch_size", arguments[1] if len(arguments) > 1 else 1)
        if "batch_sampler" in keywords:
            batch = Unknown("a sampler of batches")
        elif "batch_size" not in keywords and self.evaluator.told_doubt:
            batch = Unknown(self.evaluator.told_doubt)
        loader = Instance(External(name), {"batch_size": batch, "shuffle": keywords.get("shuffle", False)}, open=True)
        by_command_line = isinstance(batch, Mark) and batch.by_command_line
        value = batch if isinstance(batch, int) else None
        self.loaders.append((loader, Fact(value, place_of(batch, place), by_command_line)))
        return loader

    def _optimizer(self, name: str, last: str, arguments: list[Any], keywords: dict[str, Any], place: Place) -> Any:
        self.optimized.append(arguments[0] if arguments else keywords.get("params"))
        always, momentum = OPTIMIZERS[last]
        given = keywords.get("momentum", arguments[2] if last == "SGD" and len(arguments) > 2 else 0)
        state = always + (momentum if isinstance(given, Unknown) or given else 0)
        state += 4 if keywords.get("amsgrad") is True else 0
        if last == "RMSprop" and keywords.get("centered") is True:
            state += 4
        if last == "LBFGS":
            # Differences of parameters and of gradients of so many steps, the last gradient and direction.
            history = keywords.get("history_size", 100)
            state = 8 * history + 8 if isinstance(history, int) else 0
        is_open = momentum and "momentum" not in keywords and self.evaluator.told_doubt
        known = None if is_open else state
        before = self.reading.facts.get("optimizer")
        if self.evaluator.since and before is not None and before.value != last:
            # One of several, and the program does not say which.
            for fact in ("optimizer", "optimizer state", "foreach"):
                self.reading.facts[fact] = Fact(None, before.place)
        self.reading.facts.setdefault("optimizer state", Fact(known, place))
        self.reading.facts.setdefault("optimizer", Fact(last, place))
        foreach = keywords.get("foreach") is not False and keywords.get("fused") is not True
        self.reading.facts.setdefault("foreach", Fact(foreach and name.startswith("torch."), place))
        return Instance(External(name), {"param_groups": Items()}, open=True)

    def _autocast(self, _name: str, arguments: list[Any], keywords: dict[str, Any], place: Place) -> None:
        enabled = keywords.get("enabled", True)
        if enabled is False:
            return
        dtype = keywords.get("dtype", next((each for each in arguments[1:] if isinstance(each, External)), None))
        kind = dtype.name.rpartition(".")[2] if isinstance(dtype, External) else "float16" if dtype is None else None
        self._note("precision", f"autocast {kind}" if kind and not isinstance(enabled, Unknown) else PLAIN, place)

    def _hf_trainer(self, trainer: Instance, arguments: list[Any], place: Place) -> None:
        note = self._note
        note("trainer", trainer.class_name, place)
        given = trainer.attributes
        model = given.get("model", arguments[0] if arguments else None)
        if isinstance(model, str) and trainer.class_name == "SFTTrainer":
            # TRL loads a model that is given by its name.
            model = known_model("transformers.AutoModelForCausalLM.from_pretrained", [model], {}, place)
        self._use(model, trained=True)
        if isinstance(model, ModuleObject):
            self.optimized.append(model)
        args = given.get("args", arguments[1] if len(arguments) > 1 else None)
        known = args.attributes if isinstance(args, Instance) else {}
        if args is not None and not isinstance(args, Instance):
            self.reading.unknown.append("training arguments")
            return
        if known.get("deepspeed"):
            self._deepspeed(known["deepspeed"], place)
        if BY_PARSER in known:
            self._left_to_the_command_line(known, place)
        note("batch", known.get("per_device_train_batch_size", 8), place)
        note("accumulation", known.get("gradient_accumulation_steps", 1), place)
        self._hf_settings(known, place)
        optimizer = known.get("optim", "adamw_torch")
        state = {"adamw_torch": 8, "adamw_torch_fused": 8, "adafactor": 0.01, "sgd": 0, "adamw_bnb_8bit": 2.02}
        note("optimizer", optimizer, place)
        if isinstance(optimizer, str) and optimizer in state:
            note("optimizer state", state[optimizer], place)
        note("foreach", optimizer == "adamw_torch", place)

    def _deepspeed(self, config: Any, place: Place) -> None:
        """The configuration of DeepSpeed, itself or by the name of a file."""
        found = setting_files.loaded(self.evaluator, [config], {}) if isinstance(config, str) else config
        self._note_all(sharding.by_deepspeed(found), place)

    def _left_to_the_command_line(self, known: Mapping[str, Any], place: Place) -> None:
        """Fields of training arguments that a parser fills, and whose defaults stand in the library."""
        if "per_device_train_batch_size" not in known:
            self._note("batch", marked(8, place, by_command_line=True), place)
        if known.keys().isdisjoint(("bf16", "fp16")):
            self._note("precision", PLAIN, place)
        if "gradient_checkpointing" not in known:
            self._note("checkpointing", PLAIN, place)
        if "gradient_accumulation_steps" not in known:
            self._note("accumulation", PLAIN, place)

    def _hf_settings(self, known: Mapping[str, Any], place: Place) -> None:
        half = "bfloat16" if known.get("bf16") else "float16" if known.get("fp16") else None
        if isinstance(known.get("bf16"), Unknown) or isinstance(known.get("fp16"), Unknown):
            self._note("precision", PLAIN, place)
        elif half:
            self._note("precision", f"autocast {half}", place)
        for name, fact in (("gradient_checkpointing", "checkpointing"), ("auto_find_batch_size", "finder")):
            if known.get(name):
                self._note(fact, known[name], place)
        self._note_all(sharding.by_transformers(known), place)

    def _lightning_trainer(self, trainer: Instance, place: Place) -> None:
        given = trainer.attributes
        if "accumulate_grad_batches" in given:
            self._note("accumulation", given["accumulate_grad_batches"], place)
        if self.evaluator.told_doubt:
            for fact in ("precision", "accumulation", "sharding"):
                self._note(fact, PLAIN, place)
        precision = given.get("precision")
        if precision is not None and str(precision) not in {"32", "32-true"}:
            text = str(precision)
            known = isinstance(precision, (str, int)) and ("16" in text)
            kind = "bfloat16" if "bf16" in text else "float16"
            true = "true" in text
            fact, value = ("parameters dtype", kind) if true else ("precision", f"autocast {kind}")
            self._note(fact, value if known else PLAIN, place)
        self._note_all(sharding.by_lightning(given), place)

    def _accelerator(self, name: str, keywords: dict[str, Any], place: Place) -> Any:
        precision = keywords.get("mixed_precision", PLAIN if self.evaluator.told_doubt else None)
        if isinstance(precision, str) and precision in {"bf16", "fp16"}:
            self._note("precision", f"autocast {'bfloat16' if precision == 'bf16' else 'float16'}", place)
        elif precision not in (None, "no"):
            self._note("precision", PLAIN, place)
        if "gradient_accumulation_steps" in keywords:
            self._note("accumulation", keywords["gradient_accumulation_steps"], place)
        return Instance(External(name), {"device": PLAIN}, open=False)

    def _image(self, last: str, arguments: list[Any], keywords: dict[str, Any], place: Place) -> None:
        """The size of images: what is cropped last, or what they are resized to if nothing is cropped."""
        size = arguments[0] if arguments else keywords.get("size")
        if isinstance(size, (list, tuple)) and size:
            size = size[0]
        if last.endswith("Crop") and "crop" not in self.reading.facts:
            self.reading.facts.pop("image", None)
            self.reading.facts["crop"] = Fact(last, place)
        self._note("image", size if size is not None else PLAIN, place)

    def _tensors(self, tensors: Sequence[Any], place: Place) -> None:
        """The size of images that are held in a tensor, of which the first dimension counts them."""
        for each in tensors:
            if isinstance(each, Tensor) and each.shape is not None and len(each.shape) == 4:
                self._note("image", each.shape[-1], place)
                return

    def _adapter(self, arguments: list[Any], place: Place) -> Any:
        self._note("adapter", "LoRA", place)
        model = arguments[0] if arguments else None
        if isinstance(model, ModuleObject):
            for each in model.parameters():
                each.attributes["requires_grad"] = False
            return model
        return NotImplemented

    def _method(self, name: str, arguments: list[Any], keywords: dict[str, Any], place: Place) -> Any:
        receiver = arguments[0] if arguments else None
        if name == "__call__" and isinstance(receiver, Instance) and receiver.class_name == "tokenizer":
            if "max_length" in keywords and keywords.get("padding") == "max_length":
                self._note("length", keywords["max_length"], place)
            return PLAIN
        if name == "map":
            for each in [*arguments[1:], *keywords.values()]:
                if isinstance(each, FunctionObject):
                    self._run(each)
        if name in {"backward", "manual_backward"}:
            self._note("backward", True, place)
        if isinstance(receiver, ModuleObject):
            self._model_method(name, receiver, arguments, place)
        elif isinstance(receiver, Instance) and isinstance(receiver.cls, External):
            return self._instance_method(name, receiver, arguments, keywords, place)
        return NotImplemented

    def _model_method(self, name: str, receiver: ModuleObject, arguments: list[Any], place: Place) -> None:
        if name in {"to", "cuda", "train", "forward", "parameters", "half", "bfloat16", "eval", "compile"}:
            self._use(receiver, trained=False)
        if name in {"half", "bfloat16"}:
            receiver.attributes["dtype of parameters"] = External(f"torch.{'float16' if name == 'half' else name}")
        if name == "to":
            for each in arguments[1:]:
                if isinstance(each, External) and each.name in {"torch.float16", "torch.half", "torch.bfloat16"}:
                    receiver.attributes["dtype of parameters"] = each
        if name in {"gradient_checkpointing_enable", "set_grad_checkpointing"}:
            self._note("checkpointing", True, place)

    def _instance_method(
        self, name: str, receiver: Instance, arguments: list[Any], keywords: dict[str, Any], place: Place
    ) -> Any:
        cls = receiver.class_name
        if cls == "Trainer" and name == "fit" and "model" not in receiver.attributes:
            self.trainers.append(("fit", receiver))
            self._fit(arguments[1] if len(arguments) > 1 else keywords.get("model"), arguments, keywords, place)
            return PLAIN
        if cls == "Accelerator" and name == "prepare":
            given = arguments[1:]
            return given[0] if len(given) == 1 else tuple(given)
        if cls in {"Accelerator", "Trainer"}:
            return PLAIN
        return NotImplemented

    def _fit(self, model: Any, arguments: list[Any], keywords: dict[str, Any], place: Place) -> None:
        self._note("trainer", "Lightning", place)
        if not isinstance(model, ModuleObject):
            return
        self._use(model, trained=True)
        for method in ("configure_optimizers", "train_dataloader"):
            found = model.cls.find(method) if isinstance(model.cls, ClassObject) else None
            if isinstance(found, FunctionObject):
                self._run(Bound(found, model))
        for each in [*arguments[2:], *keywords.values()]:
            cls = each.cls if isinstance(each, Instance) else None
            found = cls.find("train_dataloader") if isinstance(cls, ClassObject) else None
            if isinstance(found, FunctionObject):
                self._run(Bound(found, each))

    def _use(self, model: Any, *, trained: bool) -> None:
        if isinstance(model, ModuleObject):
            self.used.setdefault(id(model), model)
            if trained and all(model is not each for each in self.reading.trained):
                self.reading.trained.append(model)

    # ------------------------------------------------------------------------------------------------- concluding

    def _finish_trainers(self) -> None:
        optimized = {id(each) for value in self.optimized for each in _parameters_in(value)}
        for model in self.used.values():
            if any(id(each) in optimized for each in model.parameters()):
                self._use(model, trained=True)

    def _collect_texts(self) -> None:
        for path, namespace in self.evaluator.files.items():
            text = self.evaluator.read(path) if namespace is not None else None
            if text is not None:
                self.reading.texts[path] = text

    def _conclude(self) -> None:
        reading = self.reading
        reading.assumed = dict(self.evaluator.absent)
        inner = {id(each) for model in self.used.values() for each in model.modules() if each is not model}
        roots = [model for model in self.used.values() if id(model) not in inner and (model.count() or model.doubts())]
        reading.trained = [model for model in reading.trained if id(model) not in inner]
        by_hand = not self.optimized and "backward" in reading.facts
        if not reading.trained and len(roots) == 1 and (by_hand or any(map(_is_unread, self.optimized))):
            # Its parameters were collected in a way that cannot be read, or are changed without an optimizer, but
            # there is nothing else to train.
            reading.trained = roots[:]
        reading.models = sorted(roots, key=lambda model: all(model is not each for each in reading.trained))
        if "batch" not in reading.facts:
            chosen = self._training_loader()
            if chosen is not None:
                reading.facts["batch"] = chosen
        for model in roots:
            dtype = model.attributes.get("dtype of parameters")
            if isinstance(dtype, External):
                place = model.place or Place(Path(), 0)
                reading.facts.setdefault("parameters dtype", Fact(dtype.name.rpartition(".")[2], place))
            elif dtype is not None:
                reading.unknown.append("parameters dtype")

    def _training_loader(self) -> Fact | None:
        """The batch of the loader that a loop with a backward runs over, or else the one that shuffles."""
        for wanted in (self.iterated, [each for each, _ in self.loaders if each.attributes["shuffle"] is True]):
            for loader, fact in self.loaders:
                if any(loader is each for each in wanted):
                    return fact
        return self.loaders[0][1] if len(self.loaders) == 1 else None


_SPREADING = ("auto", "balanced", "balanced_low_0", "sequential")
"""Values of ``device_map`` that spread a model over what GPUs there are, and over the host."""


def _parameters_in(value: Any) -> list[Parameter]:
    if isinstance(value, Parameter):
        return [value]
    if isinstance(value, ModuleObject):
        return value.parameters()
    if isinstance(value, (list, tuple)):
        return [found for each in value for found in _parameters_in(each)]
    if isinstance(value, dict):
        return _parameters_in(value.get("params"))
    return []


def _is_unread(value: Any) -> bool:
    """Whether what an optimizer was given is not known. It takes no empty list, so that one was not read to its end."""
    if isinstance(value, dict):
        return _is_unread(value.get("params"))
    if isinstance(value, Items) and value.doubt:
        return True
    if isinstance(value, (list, tuple)):
        return not value or any(_is_unread(each) for each in value)
    return isinstance(value, Unknown)


def _may_train(node: ast.AST) -> bool:
    words = {"backward", "fit", "train", "Trainer", "parameters"}
    return any(isinstance(each, ast.Attribute) and each.attr in words for each in ast.walk(node)) or any(
        isinstance(each, ast.Name) and each.id in words for each in ast.walk(node)
    )


def has_blocks(models: Sequence[ModuleObject]) -> bool:
    """Whether they are transformers or convolutional networks, whose blocks can be checkpointed."""
    for model in models:
        entries = [each.entry for each in model.modules() if each.entry is not None]
        if any("layers" in entry or "saved" in entry for entry in entries):
            return True
        names = [each.cls.name for each in model.modules() if isinstance(each.cls, External)]
        if any(name.rpartition(".")[2] in _BLOCKS for name in names):
            return True
    return False


_BLOCKS = frozenset(
    "Conv1d Conv2d Conv3d MultiheadAttention TransformerEncoder TransformerDecoder Transformer LayerNorm".split()
)
