"""Trainers of transformers: where one is constructed, with which arguments, and what its evaluation collects."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

import libcst as cst

from memlint.model.aliases import (
    base_names,
    find_method,
    instance_class,
    mro,
    qualified_names,
    sources,
)
from memlint.model.calls import call_sites
from memlint.model.command_line import parsed_class
from memlint.model.definitions import calls_of_class, definitions
from memlint.model.gradmode import is_hf_trainer
from memlint.model.keywords import Given, Setting, given, setting
from memlint.model.kinds import Role, kinds
from memlint.model.program import Program
from memlint.model.scopes import Class, Function, Module
from memlint.model.values import (
    Attribute,
    Call,
    ClassValue,
    Constant,
    Exit,
    External,
    FunctionValue,
    Parameter,
    Part,
    Store,
    Value,
)

_ARGUMENTS_POSITION = 1
_MODEL_POSITION = 0


class Construction(NamedTuple):
    """A call that makes a Trainer, or the ``super().__init__(...)`` of a class derived from one."""

    call: Call
    classes: frozenset[str]
    """Qualified names of the class and of its bases; empty if it is not in sight."""
    owner: Class | None
    """The class by definition, if the project defines it."""

    def option(self, name: str) -> Given:
        """What is passed for a parameter of the Trainer, by the call or by the ``__init__`` that it runs."""
        passed = given(self.call, name)
        handed_on = (value for call in self._base_calls for value in given(call, name).values)
        seen = (each for value in handed_on for each in self._seen(value))
        return Given((*passed.values, *seen, *self._stored(name)), passed.unknown)

    def _stored(self, name: str) -> Iterator[Value]:
        """What the same file stores in an attribute of the Trainer later on."""
        for function in self.call.function.module.functions:
            for store in function.stores:
                if store.attribute == name and store.base is not None and self.call in definitions(store.base):
                    yield store.value

    def _seen(self, value: Value) -> tuple[Value, ...]:
        """What the ``__init__`` of the class hands on, as the call knows it."""
        return given(self.call, value.name).values if isinstance(value, Parameter) else (value,)

    @property
    def _base_calls(self) -> Iterator[Call]:
        """The ``super().__init__(...)`` of the class, if the project defines it."""
        init = find_method(self.owner, "__init__") if self.owner is not None else None
        for call in init.lower().calls if init is not None else ():
            if call.method == "__init__" and call is not self.call and _is_super(call.receiver):
                yield call

    @property
    def model(self) -> Given:
        """The model, or the function that makes one."""
        direct = given(self.call, "model", self._position("model", _MODEL_POSITION))
        return direct if direct.values else given(self.call, "model_init")

    @property
    def arguments(self) -> Given:
        """The TrainingArguments."""
        return given(self.call, "args", self._position("args", _ARGUMENTS_POSITION))

    def _position(self, name: str, usual: int) -> int | None:
        """Where the class expects a parameter of the Trainer; one that has its own ``__init__`` decides that."""
        init = find_method(self.owner, "__init__") if self.owner is not None else None
        if init is None or self.call.method == "__init__":
            return usual
        plain = [p.name for p in init.lower().parameters if not p.star and not p.keyword_only]
        if name in plain:
            return plain.index(name) - 1
        return usual if len(plain) == 1 else None


def constructions(program: Program, option: str) -> Iterator[Construction]:
    """The Trainers that a file makes with a value for the parameter ``option``, or with an unpacked dictionary."""
    for call in program.calls():
        if any(argument.keyword == option or argument.star == "**" for argument in call.arguments):
            yield from construction(call)


def construction(call: Call) -> Iterator[Construction]:
    """``call`` as the construction of a Trainer; nothing if it is none."""
    owner = _constructed_class(call)
    names = base_names(owner) if owner is not None else qualified_names(call.callee)
    if is_hf_trainer(names):
        yield Construction(call, names, owner)
    elif owner is None and _may_be_trainer(call, names):
        yield Construction(call, frozenset(), None)


def _constructed_class(call: Call) -> Class | None:
    """The class of the project that ``call`` makes an instance of, or whose base it initializes."""
    if call.method == "__init__" and _is_super(call.receiver):
        return call.function.owner
    return next((source.target for source in sources(call.callee) if isinstance(source, ClassValue)), None)


def _may_be_trainer(call: Call, names: frozenset[str]) -> bool:
    """Whether a class out of sight is called like a Trainer and gets the arguments of one."""
    return any(name.endswith("Trainer") for name in names) and any(
        arguments_call(value) is not None for value in given(call, "args", _ARGUMENTS_POSITION).values
    )


# ------------------------------------------------------------------------ TrainingArguments


def arguments_call(value: Value) -> Call | None:
    """The call that makes the TrainingArguments ``value``, if there is one and it is in sight."""
    made = [_arguments_call(source) for source in definitions(value)]
    return made[0] if len(made) == 1 else None


def is_training_arguments(call: Call) -> bool:
    """Whether ``call`` makes TrainingArguments, those of a class derived from them, or a configuration of TRL."""
    return any(_is_arguments_class(name) for name in _class_names(call.callee))


def _class_names(callee: Value) -> frozenset[str]:
    owners = [source.target for source in sources(callee) if isinstance(source, ClassValue)]
    return frozenset(name for owner in owners for name in base_names(owner)) | qualified_names(callee)


def _is_arguments_class(name: str) -> bool:
    root, _, last = name.partition(".")
    last = last.rpartition(".")[2]
    return last.endswith("TrainingArguments") or (root == "trl" and last.endswith("Config"))


def _arguments_call(source: Value) -> Call | None:
    return source if isinstance(source, Call) and is_training_arguments(source) else None


def argument_setting(made: Construction, name: str) -> Setting:
    """Whether the option ``name`` of the TrainingArguments is switched on."""
    arguments = made.arguments
    if _is_stored(made, name):
        return Setting.ON
    if arguments.unknown:
        return Setting.UNKNOWN
    found = {_origin_setting(source, name) for value in arguments.values for source in definitions(value)}
    return next((each for each in (Setting.ON, Setting.UNKNOWN) if each in found), Setting.OFF)


def _origin_setting(source: Value, name: str) -> Setting:
    if isinstance(source, Constant):
        return Setting.OFF
    call = _arguments_call(source)
    if call is None:
        declared = parsed_class(source)
        # The class says what holds unless the user of the program asks for something else.
        on = declared is not None and _default_setting(declared, name) is Setting.ON
        return Setting.ON if on else Setting.UNKNOWN
    passed = given(call, name)
    if passed.values or passed.unknown:
        return passed.setting
    owner = next((s.target for s in sources(call.callee) if isinstance(s, ClassValue)), None)
    return _default_setting(owner, name) if owner is not None else Setting.OFF


def _default_setting(owner: Class, name: str) -> Setting:
    """What a class derived from TrainingArguments makes of an option that is not passed."""
    for value in owner.attributes.get(name, ()):
        for source in sources(value):
            if isinstance(source, Call) and source.name == "field":
                return given(source, "default").setting
            return setting(source)
    return Setting.OFF


_SETTERS = {"eval_accumulation_steps": "accumulation_steps", "prediction_loss_only": "loss_only"}
"""Parameters of ``TrainingArguments.set_evaluate`` by the option that they set."""


def _is_stored(made: Construction, name: str) -> bool:
    """Whether the option is switched on after the arguments are made: ``args.eval_accumulation_steps = 8``."""
    mine = {id(source) for value in made.arguments.values for source in definitions(value)}
    for module in _modules_of(made):
        for function in module.functions:
            for store in function.stores:
                on = store.attribute == name and setting(store.value) is not Setting.OFF
                if on and store.base is not None and _is_arguments_of(store.base, mine):
                    return True
        for call in module.calls_by_name.get("set_evaluate", ()):
            if name in _SETTERS and given(call, _SETTERS[name]).setting is Setting.ON:
                return True
    return False


def _is_arguments_of(base: Value, mine: set[int]) -> bool:
    return (isinstance(base, Attribute) and base.name == "args") or any(id(s) in mine for s in definitions(base))


def _modules_of(made: Construction) -> tuple[Module, ...]:
    """The files in which a Trainer, or its arguments, are made."""
    calls = [made.call, *filter(None, map(arguments_call, made.arguments.values))]
    owner = (made.owner.module,) if made.owner is not None else ()
    return tuple(dict.fromkeys((*(call.function.module for call in calls), *owner)))


# ------------------------------------------------------------------------ evaluation


_EVALUATING_METHODS = ("evaluate", "predict", "hyperparameter_search", "evaluation_loop", "prediction_loop")
_STRATEGIES = ("eval_strategy", "evaluation_strategy", "evaluate_during_training")


def evaluates(made: Construction) -> Setting:
    """Whether the Trainer ever evaluates: by its arguments, or because something calls a method that does."""
    found = {_strategy_setting(made, name) for name in _STRATEGIES}
    if Setting.ON in found:
        return Setting.ON
    methods = (module.calls_by_name.get(name, ()) for module in _users_of(made) for name in _EVALUATING_METHODS)
    if any(_is_called_on(call, made) for calls in methods for call in calls):
        return Setting.ON
    leaves = made.call.method == "__init__" or any(_leaves(use) for use in made.call.uses)
    return Setting.UNKNOWN if Setting.UNKNOWN in found or leaves else Setting.OFF


def _is_called_on(call: Call, made: Construction) -> bool:
    """Whether ``call`` is a call of a method of the Trainer."""
    for source in definitions(call.receiver) if call.receiver is not None else ():
        if source is made.call:
            return True
        owner = _constructed_class(source) if isinstance(source, Call) else instance_class(source)
        derived = owner is not None and any(cls is made.owner for cls in mro(owner))
        if derived and made.call.method == "__init__":
            return True
    return False


def _users_of(made: Construction) -> Iterator[Module]:
    """The files that get hold of the Trainer: where it is made, and where that code is called."""
    function = made.call.function
    yield function.module
    initialized = made.owner if made.call.method == "__init__" else None
    for call in (*call_sites(function), *(calls_of_class(initialized) if initialized is not None else ())):
        yield call.function.module


def _leaves(use: object) -> bool:
    """Whether a Trainer is handed on, so that others may evaluate with it."""
    return isinstance(use, (Call, Exit)) or (isinstance(use, Store) and use.base is not None)


def _strategy_setting(made: Construction, name: str) -> Setting:
    arguments = made.arguments
    if arguments.unknown:
        return Setting.UNKNOWN
    for source in (each for value in arguments.values for each in definitions(value)):
        call = _arguments_call(source)
        if call is None:
            return Setting.OFF if isinstance(source, Constant) else Setting.UNKNOWN
        passed = given(call, name)
        chosen = [each for value in passed.values for each in sources(value)]
        if any(not _is_no_strategy(each) for each in chosen):
            return Setting.ON
        if passed.unknown:
            return Setting.UNKNOWN
    return Setting.ON if _is_stored(made, name) else Setting.OFF


def _is_no_strategy(value: Value) -> bool:
    if isinstance(value, Constant):
        return value.constant in (None, False, "no")
    return isinstance(value, Attribute) and value.name == "NO"


def collects_its_own_way(made: Construction) -> bool:
    """Whether a class of the project, or of TRL, decides itself what the evaluation keeps of each batch."""
    if made.owner is not None:
        overridden = (find_method(made.owner, name) for name in _PREDICTION_METHODS)
        if any(method is not None and not _hands_on(method) for method in overridden):
            return True
    return any(name.startswith("trl.") and not name.endswith(_HOARDING_TRL_TRAINERS) for name in made.classes)


_PREDICTION_METHODS = ("prediction_step", "evaluation_loop", "prediction_loop")
_HOARDING_TRL_TRAINERS = ("SFTTrainer", "GKDTrainer", "IterativeSFTTrainer")
"""Trainers of TRL whose ``prediction_step`` returns logits of the vocabulary; those of the others return scores."""


def _hands_on(method: Function) -> bool:
    """Whether an overridden method returns just what that of the base class returns."""
    returned = [source for exit in method.lower().returns for source in sources(exit.value)]
    return bool(returned) and all(
        isinstance(source, Call) and source.method == method.name and _is_super(source.receiver) for source in returned
    )


def _is_super(value: Value | None) -> bool:
    return isinstance(value, Call) and isinstance(value.callee, External) and value.name == "super"


# ------------------------------------------------------------------------ what a batch leaves


class Predictions(Enum):
    """What a model returns for each example of the evaluation set."""

    VOCABULARY = "a score of each word of the vocabulary at each position"
    POSITIONS = "the scores of each position"
    FEW = "a few scores"
    UNKNOWN = "its predictions"


_VOCABULARY = re.compile(
    r"(CausalLM|LMHead|MaskedLM|ForConditionalGeneration|Seq2SeqLM|SpeechSeq2Seq|Vision2Seq|ImageTextToText|ForCTC"
    r"|FastLanguageModel|FastVisionModel|FastModel|ForPreTraining|EncoderDecoderModel)"
)
_POSITIONS = re.compile(r"(TokenClassification|Segmentation|ObjectDetection|DepthEstimation|ImageToImage|MaskedImage)")
_FEW = re.compile(r"(Classification|MultipleChoice|QuestionAnswering|NextSentencePrediction|ForXVector|Regression)")
"""Parts of the names of model classes, which transformers, peft and unsloth name after what they compute."""


def predictions(made: Construction) -> Predictions:
    """What an evaluation collects for each example, by the class of the model, or of the Trainer."""
    names = {name for value in made.model.values for name in _model_classes(value)}
    found = {each for each in map(_predicted, names) if each is not Predictions.UNKNOWN}
    if len(found) == 1:
        return found.pop()
    if not found and any(name.endswith(("SFTTrainer", "Seq2SeqTrainer")) for name in made.classes):
        return Predictions.VOCABULARY
    return Predictions.UNKNOWN


def _model_classes(value: Value) -> Iterator[str]:
    """The names of the classes that a model, or what a function makes, may be of."""
    for source in definitions(value):
        if isinstance(source, FunctionValue):
            for exit in source.target.lower().returns:
                yield from _model_classes(exit.value)
            continue
        for kind in kinds(source):
            if kind.role in {Role.MODULE, Role.OBJECT, Role.CLASS}:
                yield kind.name.rpartition(".")[2]
        makers = sources(source.base) if isinstance(source, Part) else (source,)
        for maker in makers:
            # A method of a class that is known by its name only: ``FastLanguageModel.from_pretrained(...)``.
            names = qualified_names(maker.callee) if isinstance(maker, Call) else ()
            yield from (name.split(".")[-2] for name in names if "." in name)


def _predicted(name: str) -> Predictions:
    if _POSITIONS.search(name):
        return Predictions.POSITIONS
    if _FEW.search(name):
        return Predictions.FEW
    return Predictions.VOCABULARY if _VOCABULARY.search(name) else Predictions.UNKNOWN


def reads_positions(metric: Value) -> bool:
    """Whether a metric function treats what it gets as words of a text: it decodes them, or leaves out ``-100``."""
    return any(_reads_positions(s.target.lower()) for s in sources(metric) if isinstance(s, FunctionValue))


def _reads_positions(function: Function) -> bool:
    for inner in function.walk():
        if any(call.method == "batch_decode" for call in inner.calls):
            return True
    return _mentions_ignored_label(function.node)


def _mentions_ignored_label(node: cst.CSTNode) -> bool:
    pending = [node]
    while pending:
        current = pending.pop()
        match current:
            case cst.UnaryOperation(operator=cst.Minus(), expression=cst.Integer(value="100")):
                return True
        pending.extend(current.children)
    return False
