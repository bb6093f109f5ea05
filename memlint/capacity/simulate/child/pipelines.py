"""Pipelines of diffusers that are not on this machine: each part as the table says, without weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from enum import EnumMeta
from typing import Any

import torch

from memlint.architectures import checkpoints, diffusion_checkpoint
from memlint.capacity.simulate.child.on_disk import is_on_disk
from memlint.verify.child.script import after_import

_INDEX = "model_index.json"
_CLIP = "openai/clip-vit-large-patch14"
"""What Stable Diffusion 1 and its safety checker look at images and texts with."""
_OF_TEXTS = "AUTO_TEXT2IMAGE_PIPELINES_MAPPING"
_AUTOMATIC = {
    "AutoPipelineForText2Image": _OF_TEXTS,
    "AutoPipelineForImage2Image": "AUTO_IMAGE2IMAGE_PIPELINES_MAPPING",
    "AutoPipelineForInpainting": "AUTO_INPAINT_PIPELINES_MAPPING",
}


class Pipelines:
    """Puts itself before ``from_pretrained`` of pipelines; ``note`` is told what is assumed."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note

    def install(self) -> None:
        """For libraries that are imported and for those that will be."""
        after_import("diffusers.pipelines.pipeline_utils", self._pipelines)
        after_import("diffusers.pipelines.auto_pipeline", self._automatic)

    def _pipelines(self) -> None:
        base: Any = importlib.import_module("diffusers.pipelines.pipeline_utils").DiffusionPipeline
        load = base.from_pretrained.__func__

        def from_pretrained(cls: Any, /, pretrained_model_name_or_path: Any, **options: Any) -> Any:
            name = str(pretrained_model_name_or_path)
            if is_on_disk(name, _INDEX):
                return load(cls, name, **options)
            return self._built(self._kind(name, _OF_TEXTS) if cls is base else cls, name, options)

        base.from_pretrained = classmethod(from_pretrained)

    def _automatic(self) -> None:
        module: Any = importlib.import_module("diffusers.pipelines.auto_pipeline")
        for owner, mapping in _AUTOMATIC.items():
            self._choose(getattr(module, owner), mapping)

    def _choose(self, owner: Any, mapping: str) -> None:
        load = owner.from_pretrained.__func__

        def from_pretrained(cls: Any, /, pretrained_model_or_path: Any, **options: Any) -> Any:
            name = str(pretrained_model_or_path)
            if is_on_disk(name, _INDEX):
                return load(cls, name, **options)
            return self._built(self._kind(name, mapping), name, options)

        owner.from_pretrained = classmethod(from_pretrained)

    def _kind(self, name: str, mapping: str) -> Any:
        """The class of a pipeline of which only the name of the checkpoint is known."""
        unet = diffusion_checkpoint(name, "unet")
        if unet is None:
            raise OSError(f"{name} is not on this machine, and memlint's table does not say what it consists of")
        key = "stable-diffusion-xl" if unet["set"].get("addition_embed_type") == "text_time" else "stable-diffusion"
        module: Any = importlib.import_module("diffusers.pipelines.auto_pipeline")
        return getattr(module, mapping)[key]

    def _built(self, cls: Any, name: str, options: Mapping[str, Any]) -> Any:
        self._note(f"{name} is not on this machine: the parts of its {cls.__name__} are made as memlint's table says")
        dtype = options.get("torch_dtype", options.get("dtype"))
        parts = {}
        for part, kinds in cls._get_signature_types().items():
            if part in options:
                parts[part] = options[part]
            elif kinds and isinstance(kinds[0], type) and not _is_plain(kinds[0]):
                parts[part] = self._part(name, part, kinds[0], _of_part(dtype, part))
        pipeline = cls(**parts)
        return pipeline if options.get("device_map") in (None, "cpu") else pipeline.to("cuda")

    def _part(self, name: str, part: str, kind: Any, dtype: Any) -> Any:
        diffusers: Any = importlib.import_module("diffusers")
        transformers: Any = importlib.import_module("transformers")
        if isinstance(kind, EnumMeta) or kind.__name__.endswith("Scheduler"):
            usual = diffusers.DDIMScheduler if isinstance(kind, EnumMeta) else kind
            return usual.from_pretrained(name, subfolder=part)
        if "Processor" in kind.__name__ or "Extractor" in kind.__name__:
            return kind()
        if issubclass(kind, transformers.PreTrainedTokenizerBase):
            return kind.from_pretrained(name, subfolder=part)
        if issubclass(kind, transformers.PreTrainedModel):
            return self._of_transformers(name, part, kind, dtype)
        return kind.from_pretrained(name, subfolder=part, torch_dtype=dtype)

    def _of_transformers(self, name: str, part: str, kind: Any, dtype: Any) -> Any:
        if diffusion_checkpoint(name, part) is not None:
            return kind.from_pretrained(name, subfolder=part, torch_dtype=dtype)
        if part == "safety_checker":
            is_first = diffusion_checkpoint(name, "text_encoder") is not None and _width(name) == _FIRST
            fields = checkpoints()[_CLIP]["set"] if is_first else None
        else:
            fields = self._fields_of_encoder(name, part)
        if fields is None:
            return None
        model = kind(kind.config_class(**fields))
        return model.to(dtype) if isinstance(dtype, torch.dtype) else model

    def _fields_of_encoder(self, name: str, part: str) -> dict[str, Any] | None:
        """The configuration of an encoder of texts, whose width follows from what its readers expect."""
        if not part.startswith("text_encoder"):
            return None
        first = diffusion_checkpoint(name, "text_encoder") or {}
        width = _width(name) - (first.get("width", 0) if part == "text_encoder_2" else 0)
        self._note(f"{name}, {part}: the width is that of the rest of the pipeline, the number of layers is a guess")
        heads = {"num_attention_heads": max(1, width // 64), "intermediate_size": 4 * width}
        return {"hidden_size": width, "projection_dim": width, "num_hidden_layers": _LAYERS, **heads}


_FIRST = 768
"""Width of the texts of Stable Diffusion 1, which comes with a safety checker."""
_LAYERS = 24
"""Of OpenCLIP's larger encoders, more or less."""


def _width(name: str) -> int:
    """The width of the texts that the denoiser reads."""
    unet = diffusion_checkpoint(name, "unet") or {"set": {}}
    return int(unet["set"].get("cross_attention_dim", _FIRST))


def _is_plain(kind: type) -> bool:
    return kind in (bool, int, float, str, type(None))


def _of_part(dtype: Any, part: str) -> Any:
    """The type that ``torch_dtype``, a type or a table of types, says for a part."""
    return dtype.get(part, dtype.get("default")) if isinstance(dtype, dict) else dtype
