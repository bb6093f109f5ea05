"""Models that come with weights: built as their configuration says, and nothing is downloaded, read or converted.

What a model holds in memory does not depend on its weights. A configuration that is on this machine is read from there;
that of a checkpoint which is not comes from the table of :mod:`memlint.architectures`, and the run says so.
Other names go to the library as they are, which may ask the hub for a configuration, never for weights.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.module import _IncompatibleKeys

from memlint.architectures import LOADING_OPTIONS, checkpoint_configuration, diffusion_checkpoint, is_similar
from memlint.capacity.simulate.child.on_disk import is_on_disk
from memlint.capacity.simulate.child.pipelines import Pipelines
from memlint.capacity.simulate.child.tokenizers import Tokenizers
from memlint.verify.child.script import after_import

_QUANTIZATION = ("quantization_config", "load_in_8bit", "load_in_4bit")


class NoWeights(dict[Any, Any]):
    """A state dict that nobody has downloaded; a part of it is another one."""

    def __missing__(self, _: object) -> NoWeights:
        return NoWeights()


class Checkpoints:
    """Puts itself before the loaders of transformers, timm, torchvision and ``torch.hub``. ``notes`` grows."""

    def __init__(self, notes: list[str]) -> None:
        self._notes = notes

    def install(self) -> None:
        """For libraries that are imported and for those that will be."""
        after_import("transformers.configuration_utils", self._configurations)
        after_import("transformers.modeling_utils", self._models)
        after_import("diffusers.models.modeling_utils", self._diffusers)
        Tokenizers(self._note).install()
        Pipelines(self._note).install()
        after_import("timm.models._builder", self._timm)
        after_import("torchvision.models._api", self._torchvision)
        torch.hub.load_state_dict_from_url = lambda *_, **__: NoWeights()
        load = torch.nn.Module.load_state_dict

        def load_state_dict(module: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
            return _IncompatibleKeys([], []) if isinstance(state, NoWeights) else load(module, state, *args, **kwargs)

        torch.nn.Module.load_state_dict = load_state_dict

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)

    def _timm(self) -> None:
        builder: Any = importlib.import_module("timm.models._builder")
        builder.load_pretrained = lambda *_, **__: None

    def _torchvision(self) -> None:
        api = importlib.import_module("torchvision.models._api")
        api.WeightsEnum.get_state_dict = lambda *_, **__: NoWeights()

    # Diffusers

    def _diffusers(self) -> None:
        base: Any = importlib.import_module("diffusers.models.modeling_utils").ModelMixin

        def from_pretrained(cls: Any, /, pretrained_model_name_or_path: Any, **options: Any) -> Any:
            return self._model_of_diffusers(cls, str(pretrained_model_name_or_path), options)

        base.from_pretrained = classmethod(from_pretrained)
        mixin: Any = importlib.import_module("diffusers.configuration_utils").ConfigMixin
        read = mixin.load_config.__func__

        def load_config(cls: Any, /, pretrained_model_name_or_path: Any, **options: Any) -> Any:
            name, part = str(pretrained_model_name_or_path), options.get("subfolder")
            if is_on_disk(name, cls.config_name, part):
                return read(cls, name, **options)
            wanted = [options.pop(f"return_{each}", False) for each in ("unused_kwargs", "commit_hash")]
            rest = {key: value for key, value in options.items() if key not in LOADING_OPTIONS}
            config = self._configuration_of_diffusers(cls, name, part)
            found = [each for each, is_wanted in zip((rest, None), wanted, strict=True) if is_wanted]
            return (config, *found) if found else config

        mixin.load_config = classmethod(load_config)

    def _model_of_diffusers(self, cls: Any, name: str, options: dict[str, Any]) -> Any:
        place, dtype = options.pop("device_map", None), options.pop("torch_dtype", options.pop("dtype", None))
        part = options.get("subfolder")
        config = cls.load_config(name, **({} if part is None else {"subfolder": part}))
        changed = {key: value for key, value in options.items() if key not in LOADING_OPTIONS}
        model = cls.from_config({**config, **changed})
        if isinstance(dtype, torch.dtype):
            model.to(dtype)
        model.eval()
        device = _device_of(place)
        return model if device is None else model.to(device)

    def _configuration_of_diffusers(self, cls: Any, name: str, part: str | None) -> dict[str, Any]:
        entry = diffusion_checkpoint(name, part)
        title = name if part is None else f"{name}, {part}"
        if entry is not None and entry["type"] == cls.__name__:
            self._note(f"{title} is not on this machine: its configuration is that of memlint's table")
            return dict(entry["set"])
        self._note(f"{title} is not on this machine: {cls.__name__} has its default configuration, which may differ")
        return {}

    # Transformers

    def _models(self) -> None:
        base = importlib.import_module("transformers.modeling_utils").PreTrainedModel

        def from_pretrained(cls: Any, /, pretrained_model_name_or_path: Any, *_: Any, **options: Any) -> Any:
            return self._model(cls, pretrained_model_name_or_path, options)

        base.from_pretrained = classmethod(from_pretrained)

    def _configurations(self) -> None:
        module = importlib.import_module("transformers.configuration_utils")
        base = getattr(module, "PreTrainedConfig", None) or module.PretrainedConfig
        read = base.get_config_dict.__func__

        def get_config_dict(cls: Any, /, pretrained_model_name_or_path: Any, **options: Any) -> Any:
            name = pretrained_model_name_or_path
            part = options.get("subfolder") or None
            known = None if is_on_disk(str(name), part=part) else checkpoint_configuration(str(name), part)
            if known is None:
                return read(cls, name, **options)
            what = "the default of its kind, which may differ" if is_similar(str(name)) else "memlint's table"
            self._note(f"{name} is not on this machine: its configuration is that of {what}")
            return known, {key: value for key, value in options.items() if key not in LOADING_OPTIONS}

        base.get_config_dict = classmethod(get_config_dict)

    def _model(self, cls: Any, name: Any, options: dict[str, Any]) -> Any:
        wants_info = options.get("output_loading_info")
        rest = {key: value for key, value in options.items() if key not in LOADING_OPTIONS}
        place = rest.pop("device_map", None)
        made = {key: rest.pop(key) for key in ("attn_implementation",) if key in rest}
        dtype = rest.pop("dtype", rest.pop("torch_dtype", None))
        for key in _QUANTIZATION:
            if rest.pop(key, None):
                self._note(f"{name}: quantized weights are not simulated, they are counted as they were trained")
        config = rest.pop("config", None)
        if config is None or isinstance(config, (str, Path)):
            part = {key: options[key] for key in ("subfolder",) if key in options}
            config, rest = cls.config_class.from_pretrained(config or name, return_unused_kwargs=True, **part, **rest)
        if str(made.get("attn_implementation", "")).startswith("flash_attention"):
            made["attn_implementation"] = "sdpa"
        model = cls._from_config(config, **made, **rest)
        model.to(self._dtype(config, dtype, str(name)))
        model.eval()
        device = _device_of(place)
        if device is not None:
            model.to(device)
        return (model, {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": []}) if wants_info else model

    def _dtype(self, config: Any, dtype: Any, name: str) -> torch.dtype:
        if isinstance(dtype, str) and dtype != "auto":
            dtype = getattr(torch, dtype)
        if isinstance(dtype, torch.dtype):
            return dtype
        said = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
        if isinstance(said, torch.dtype) and (dtype == "auto" or _loads_as_saved()):
            return said
        if dtype == "auto" or _loads_as_saved():
            self._note(f"{name}: float32 is assumed, since nothing says in which type its weights were saved")
        return torch.float32


def _loads_as_saved() -> bool:
    """Whether ``from_pretrained`` takes the saved type by default, as it does from transformers 5 on."""
    version = importlib.import_module("transformers").__version__
    return int(version.partition(".")[0]) >= 5


def _device_of(place: Any) -> torch.device | None:
    """Where ``device_map`` puts the model: all of it on the first device that it names."""
    if isinstance(place, dict):
        place = next(iter(place.values()), None)
    if place is None or place in ("cpu", "disk", "meta"):
        return None
    if isinstance(place, int):
        return torch.device("cuda", place)
    if isinstance(place, torch.device):
        return place
    return torch.device(place if place.startswith("cuda") else "cuda:0")
