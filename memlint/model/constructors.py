"""What functions and classes outside of the project make, by their qualified names."""

from __future__ import annotations

from collections.abc import Callable

from memlint.findings import Confidence
from memlint.model.kinds import Kind, Role
from memlint.model.knowledge import frameworks, torch

LOADING_METHODS = frozenset(
    {"from_pretrained", "from_config", "load_from_checkpoint", "from_name", "_from_config", "load"}
)
"""Class methods that return an instance."""

_TORCH_NOT_TENSOR = frozenset(
    """
    device manual_seed is_available device_count current_device synchronize empty_cache save load no_grad enable_grad
    set_grad_enabled inference_mode is_tensor is_grad_enabled compile get_device_name memory_allocated
    max_memory_allocated init_process_group get_rank get_world_size is_initialized barrier set_device autocast
    get_rng_state set_rng_state random_split profile schedule record_function checkpoint_sequential seed
    reset_peak_memory_stats memory_summary memory_reserved ipc_collect stream current_stream script trace
    new_group get_backend get_process_group_ranks get_global_rank init_device_mesh is_autocast_enabled
    is_autocast_cpu_enabled get_autocast_dtype get_autocast_gpu_dtype get_default_dtype get_default_device
    get_num_threads mem_get_info get_device_properties get_device_capability is_compiling is_inference_mode_enabled
    """.split()
)
"""Functions of torch that return no tensor."""


def framework_kind(name: str) -> Kind | None:
    """What calling ``name`` returns if it is known to make an object of PyTorch or of a framework for it."""
    owner, _, last = name.rpartition(".")
    if last in LOADING_METHODS and _last(owner)[:1].isupper():
        return loaded_kind(owner)
    role = next((role for role, makes in _MAKERS if makes(name)), None)
    if role is None:
        return None
    return module_kind(name) if role is Role.MODULE else Kind(role, name=name)


def constructed_kind(name: str) -> Kind | None:
    """What calling ``name``, that makes nothing of a framework, returns: a tensor, a container, some object."""
    last = _last(name)
    if name.startswith(torch.FUNCTION_MODULES) and not last[:1].isupper() and last not in _TORCH_NOT_TENSOR:
        return Kind(Role.TENSOR, Confidence.CERTAIN if name.count(".") <= 3 else Confidence.LIKELY, name=name)
    if name in {"collections.defaultdict", "collections.deque", "collections.OrderedDict", "collections.Counter"}:
        return Kind(Role.CONTAINER, name=last)
    return Kind(Role.OBJECT, name=name) if is_class_name(name) else None


def loaded_kind(name: str) -> Kind:
    """What a loading method of the class ``name`` returns."""
    return module_kind(name) if _is_module(name) else Kind(Role.OBJECT, name=name)


def module_kind(name: str) -> Kind:
    """The kind of an instance of the module class ``name``."""
    last = _last(name)
    if name.startswith("torch.nn.") and (last.endswith("Loss") or last in torch.STATELESS_MODULES):
        return Kind(Role.LOSS_FUNCTION, name=name)
    return Kind(Role.MODULE, name=name)


def annotated_kind(name: str) -> Kind | None:
    """What an annotation with the class ``name`` says of an object; it may be of a subclass."""
    last = _last(name)
    if name in _ANNOTATED:
        return _ANNOTATED[name]
    if last in {"Tensor", "FloatTensor", "LongTensor"}:
        return Kind(Role.TENSOR, name=name)
    if _is_module(name) or last in {"PreTrainedModel", "LightningModule"}:
        return module_kind(name)
    role = next((role for role, is_named in _CLASSES if is_named(name)), None)
    if role is not None:
        return Kind(role, name=name)
    if last[:1].isupper() and last not in {"Any", "Callable", "None"}:
        return Kind(Role.OBJECT, Confidence.LIKELY, name=name)
    return None


def is_class_name(name: str) -> bool:
    """Whether ``name`` is written as names of classes are, and neither of functions nor of constants."""
    last = _last(name)
    return last[:1].isupper() and not last.isupper()


def is_module_class(name: str) -> bool:
    """Whether ``name`` is a class of modules, of torch or of a library of layers and models."""
    last = _last(name)
    if name in torch.NOT_MODULES:
        return False
    if name.startswith("torchvision.models."):
        return not last.endswith(("Weights", "_weights"))
    if name.startswith(torch.MODULE_ROOTS):
        return last[:1].isupper() and "utils" not in name and not last.endswith("Data")
    return _is_pretrained_class(name)


def is_optimizer_base(name: str) -> bool:
    """Whether ``name`` belongs to a package of optimizers, and not to the schedulers in it."""
    return name.startswith(torch.OPTIMIZER_ROOTS) and not name.startswith(torch.SCHEDULER_ROOTS)


def is_dataset_base(name: str) -> bool:
    """Whether ``name`` is a class of datasets, or called like one."""
    return name in torch.DATASET_CLASSES or _last(name) in {"Dataset", "IterableDataset"}


def _is_pretrained_class(name: str) -> bool:
    """Whether ``name`` is a model class of a library of pretrained models."""
    last = _last(name)
    if not name.startswith(frameworks.PRETRAINED_ROOTS) or not last[:1].isupper():
        return False
    return (
        not last.endswith(frameworks.PRETRAINED_NOT_MODULES)
        and "Collator" not in last
        and "Pipeline" not in last
        and (
            "Model" in last
            or "For" in last
            or last.endswith(("Net", "Transformer", "2D", "3D", "KL", "Encoder", "Decoder"))
        )
    )


def is_no_module(name: str) -> bool:
    """Whether ``name`` is a class of a library of pretrained models that is known to be no module: a pipeline."""
    if not name.startswith(frameworks.PRETRAINED_ROOTS):
        return False
    last = _last(name)
    return last.endswith(frameworks.PRETRAINED_NOT_MODULES) or "Pipeline" in last


def _is_module(name: str) -> bool:
    return name in torch.MODULE_CLASSES or is_module_class(name)


def _is_module_maker(name: str) -> bool:
    return name in torch.MODULE_FACTORIES or _is_module(name)


def _is_loader_maker(name: str) -> bool:
    last = _last(name)
    return name in torch.LOADER_CLASSES or (last.endswith("DataLoader") and last[:1].isupper())


def _is_loader(name: str) -> bool:
    return name in torch.LOADER_CLASSES or name.endswith("DataLoader")


def _is_scheduler(name: str) -> bool:
    return name.startswith(torch.SCHEDULER_ROOTS)


def _is_optimizer_maker(name: str) -> bool:
    return name in torch.OPTIMIZER_CLASSES or (name.startswith(torch.OPTIMIZER_ROOTS) and _last(name)[:1].isupper())


def _is_dataset_named(name: str) -> bool:
    return _last(name) in {"Dataset", "IterableDataset"}


def _last(name: str) -> str:
    return name.rpartition(".")[2]


_MAKERS: tuple[tuple[Role, Callable[[str], bool]], ...] = (
    (Role.PREPARED, (frameworks.ENGINE_FACTORIES | frameworks.AMP_INITIALIZERS).__contains__),
    (Role.ACCELERATOR, (frameworks.ACCELERATORS | frameworks.FABRICS).__contains__),
    (Role.SCALER, torch.SCALER_CLASSES.__contains__),
    (Role.LOADER, _is_loader_maker),
    (Role.SCHEDULER, _is_scheduler),
    (Role.OPTIMIZER, _is_optimizer_maker),
    (Role.MODULE, _is_module_maker),
    (Role.DATASET, torch.DATASET_CLASSES.__contains__),
)
"""What functions and classes make; the first that fits holds."""

_CLASSES: tuple[tuple[Role, Callable[[str], bool]], ...] = (
    (Role.LOADER, _is_loader),
    (Role.SCALER, torch.SCALER_CLASSES.__contains__),
    (Role.ACCELERATOR, (frameworks.ACCELERATORS | frameworks.FABRICS).__contains__),
    (Role.OPTIMIZER, is_optimizer_base),
    (Role.SCHEDULER, _is_scheduler),
    (Role.DATASET, _is_dataset_named),
)
"""What instances of classes are; the first that fits holds."""

_ANNOTATED = {
    "builtins.int": Kind(Role.NUMBER),
    "builtins.float": Kind(Role.NUMBER),
    "builtins.bool": Kind(Role.NUMBER),
    "builtins.str": Kind(Role.TEXT),
    "builtins.list": Kind(Role.CONTAINER, name="list"),
    "builtins.dict": Kind(Role.CONTAINER, name="dict"),
    "builtins.tuple": Kind(Role.CONTAINER, name="tuple"),
    "builtins.set": Kind(Role.CONTAINER, name="set"),
}
