"""More sources of configurations for ``checkpoints.py``: packages that state those of Whisper, T5 1.1, CLIP and others.

Needs the unpacked wheels of keras-nlp 0.6.4, llm-analysis 0.2.2, t5 0.9.4, open-clip-torch and invokeai 6.14.2 on
PYTHONPATH, and timm and diffusers.
"""

from __future__ import annotations

import ast
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped,unused-ignore]
from architectures import torchvision_models

Configuration = tuple[str, str, dict[str, Any]]
"""Name on the hub, ``model_type``, and what its configuration sets."""

_WHISPER = {
    f"whisper_{size}_{language}": f"openai/whisper-{size}{'.en' if language == 'en' else ''}"
    for size in ("tiny", "base", "small", "medium", "large")
    for language in ("en", "multi", "multi_v2")
}
_CLIP = {
    "openai/clip-vit-base-patch32": "ViT-B-32",
    "openai/clip-vit-base-patch16": "ViT-B-16",
    "openai/clip-vit-large-patch14": "ViT-L-14",
    "openai/clip-vit-large-patch14-336": "ViT-L-14-336",
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": "ViT-B-32",
    "laion/CLIP-ViT-B-16-laion2B-s34B-b88K": "ViT-B-16",
    "laion/CLIP-ViT-L-14-laion2B-s32B-b82K": "ViT-L-14",
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": "ViT-H-14",
}
"""The architecture in open_clip of each checkpoint, which its name says."""
_VIT = {
    "google/vit-base-patch16-224": "vit_base_patch16_224",
    "google/vit-base-patch16-224-in21k": "vit_base_patch16_224",
    "google/vit-base-patch16-384": "vit_base_patch16_384",
    "google/vit-base-patch32-224-in21k": "vit_base_patch32_224",
    "google/vit-large-patch16-224": "vit_large_patch16_224",
    "google/vit-large-patch16-224-in21k": "vit_large_patch16_224",
    "google/vit-large-patch32-224-in21k": "vit_large_patch32_224",
    "google/vit-huge-patch14-224-in21k": "vit_huge_patch14_224",
    "facebook/dino-vits16": "vit_small_patch16_224",
    "facebook/dino-vitb16": "vit_base_patch16_224",
    "facebook/dinov2-small": "vit_small_patch14_dinov2",
    "facebook/dinov2-base": "vit_base_patch14_dinov2",
    "facebook/dinov2-large": "vit_large_patch14_dinov2",
}
"""The architecture in timm that each was published as."""
_DIFFUSION = {
    "CompVis/stable-diffusion-v1-4": "v1-inference",
    "runwayml/stable-diffusion-v1-5": "v1-inference",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "v1-inference",
    "stabilityai/stable-diffusion-2-base": "v2-inference",
    "stabilityai/stable-diffusion-2-1-base": "v2-inference",
    "stabilityai/stable-diffusion-2": "v2-inference-v",
    "stabilityai/stable-diffusion-2-1": "v2-inference-v",
    "stabilityai/stable-diffusion-xl-base-1.0": "sd_xl_base",
}
"""The file that each was trained with, as its authors published them and invokeai has them."""
_T5 = {"small": "small", "base": "base", "large": "large", "xl": "xl", "xxl": "xxl"}
_NOT_TRAINED_ON = ("test", "tiny-random", "fxmarty", "mt-nlg", "megatron")
"""What llm-analysis has for its own tests, and models that nobody can load."""


def folder(package: str) -> Path:
    """Where a package lies that is read and not imported."""
    return next(each for path in sys.path if (each := Path(path) / package).is_dir())


def whisper() -> Iterator[Configuration]:
    """From the presets of keras-nlp."""
    path = folder("keras_nlp") / "src" / "models" / "whisper" / "whisper_presets.py"
    constants: dict[str, Any] = {}
    exec(compile(path.read_text("utf-8"), str(path), "exec"), constants)
    for preset, name in _WHISPER.items():
        if preset in constants["backbone_presets"]:
            config = constants["backbone_presets"][preset]["config"]
            sides = {
                f"{side}_{field}": config[source]
                for side in ("encoder", "decoder")
                for field, source in (
                    ("layers", "num_layers"),
                    ("attention_heads", "num_heads"),
                    ("ffn_dim", "intermediate_dim"),
                )
            }
            version = "-v2" if preset.endswith("_v2") else ""
            yield (
                name + version,
                "whisper",
                {
                    "vocab_size": config["vocabulary_size"],
                    "d_model": config["hidden_dim"],
                    "num_mel_bins": config["num_mels"],
                    # Two convolutions halve the number of frames.
                    "max_source_positions": config["max_encoder_sequence_length"] // 2,
                    "max_target_positions": config["max_decoder_sequence_length"],
                    **sides,
                },
            )


def llm_analysis() -> Iterator[Configuration]:
    """GPT-Neo, OPT, BLOOM and the like, from the configurations that llm-analysis keeps of the hub."""
    for path in sorted((folder("llm_analysis") / "model_configs").glob("*.json")):
        config = json.loads(path.read_text("utf-8"))
        name = config["name"].replace("_", "/", 1)
        make = _FIELDS.get(config.get("model_type", ""))
        # OPT-350M projects its words, which these files do not say.
        if make is not None and not any(word in name for word in _NOT_TRAINED_ON) and not name.endswith("opt-350m"):
            yield name, config["model_type"], make(config)


def _opt(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": config["vocab_size"],
        "hidden_size": config["hidden_dim"],
        "num_hidden_layers": config["num_layers"],
        "num_attention_heads": config["n_head"],
        "ffn_dim": config["ffn_embed_dim"],
        "word_embed_proj_dim": config["hidden_dim"],
        "max_position_embeddings": config["max_seq_len"],
    }


def _bloom(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": config["vocab_size"],
        "hidden_size": config["hidden_dim"],
        "n_layer": config["num_layers"],
        "n_head": config["n_head"],
    }


def _gpt_neo(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": config["vocab_size"],
        "hidden_size": config["hidden_dim"],
        "num_layers": config["num_layers"],
        "num_heads": config["n_head"],
        "max_position_embeddings": config["max_seq_len"],
        # Global and local attention take turns, as the class's own default says for 24 layers.
        "attention_types": [[["global", "local"], config["num_layers"] // 2]],
    }


def _gptj(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": config["vocab_size"],
        "n_embd": config["hidden_dim"],
        "n_layer": config["num_layers"],
        "n_head": config["n_head"],
        "n_positions": config["max_seq_len"],
    }


def _bert(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": config["vocab_size"],
        "hidden_size": config["hidden_dim"],
        "num_hidden_layers": config["num_layers"],
        "num_attention_heads": config["n_head"],
        "intermediate_size": config["ffn_embed_dim"],
        "max_position_embeddings": config["max_seq_len"],
    }


_FIELDS = {"opt": _opt, "bloom": _bloom, "gpt_neo": _gpt_neo, "gptj": _gptj, "bert": _bert}


def t5() -> Iterator[Configuration]:
    """T5 1.1, and what was trained on from it (FLAN-T5 and the versions adapted to language modelling)."""
    gins = folder("t5") / "models" / "gin"
    for size in _T5:
        values = _gin(gins, f"models/t5.1.1.{size}.gin")
        fields = {name: values[name] for name in ("d_model", "d_kv", "d_ff", "num_layers", "num_heads")}
        fields.update(num_decoder_layers=values["num_layers"], feed_forward_proj="gated-gelu")
        fields["tie_word_embeddings"] = values["Unitransformer.shared_embedding_and_softmax_weights"]
        for name in (f"google/t5-v1_1-{size}", f"google/flan-t5-{size}", f"google/t5-{size}-lm-adapt"):
            yield name, "t5", fields


def _gin(root: Path, name: str) -> dict[str, Any]:
    """The plain values that a file sets, over those that it includes."""
    values: dict[str, Any] = {}
    for line in (root / name).read_text("utf-8").splitlines():
        if line.startswith("include"):
            values.update(_gin(root, ast.literal_eval(line.removeprefix("include").strip())))
        target, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            try:
                values[target.strip()] = ast.literal_eval(value.strip())
            except (SyntaxError, ValueError):
                continue  # A reference to a function.
    return values


def clip() -> Iterator[Configuration]:
    """From the configurations of open_clip."""
    for name, architecture in _CLIP.items():
        path = folder("open_clip") / "model_configs" / f"{architecture}.json"
        config = json.loads(path.read_text("utf-8"))
        vision, text = config["vision_cfg"], config["text_cfg"]
        yield name, "clip", {
            "projection_dim": config["embed_dim"],
            "text_config": {
                **_tower(text, text["heads"]),
                "vocab_size": text["vocab_size"],
                "max_position_embeddings": text["context_length"],
                "projection_dim": config["embed_dim"],
            },
            "vision_config": {
                **_tower(vision, vision["width"] // vision.get("head_width", 64)),
                "image_size": vision["image_size"],
                "patch_size": vision["patch_size"],
                "projection_dim": config["embed_dim"],
            },
        }  # fmt: skip


def _tower(side: dict[str, Any], heads: int) -> dict[str, Any]:
    return {
        "hidden_size": side["width"],
        "intermediate_size": 4 * side["width"],
        "num_hidden_layers": side["layers"],
        "num_attention_heads": heads,
    }


def vit() -> Iterator[Configuration]:
    """Vision transformers, as timm builds them."""
    torchvision_models()  # Lets timm import it, also beside a torch that it was not built for.
    timm = importlib.import_module("timm")
    for name, architecture in _VIT.items():
        with torch.device("meta"):
            model = timm.create_model(architecture)
        first = model.blocks[0]
        fields = {
            "hidden_size": model.embed_dim,
            "num_hidden_layers": len(model.blocks),
            "num_attention_heads": first.attn.num_heads,
            "image_size": model.patch_embed.img_size[0],
            "patch_size": model.patch_embed.patch_size[0],
        }
        if "dinov2" in name:
            yield name, "dinov2", fields
        else:
            yield name, "vit", {**fields, "intermediate_size": first.mlp.fc1.out_features}


def diffusion() -> Iterator[Configuration]:
    """Parts of Stable Diffusion, as diffusers reads the files that it was trained with."""
    utilities: Any = importlib.import_module("diffusers.loaders.single_file_utils")
    clip_text = next(fields["text_config"] for name, _, fields in clip() if name == "openai/clip-vit-large-patch14")
    for name, file in _DIFFUSION.items():
        path = folder("invokeai") / "configs" / "stable-diffusion" / f"{file}.yaml"
        original = yaml.safe_load(path.read_text("utf-8"))
        yield (
            f"{name}#unet",
            "UNet2DConditionModel",
            _set(utilities.create_unet_diffusers_config_from_ldm(original, {})),
        )
        yield f"{name}#vae", "AutoencoderKL", _set(utilities.create_vae_diffusers_config_from_ldm(original, {}))
        if "FrozenCLIPEmbedder" in path.read_text("utf-8"):
            yield f"{name}#text_encoder", "clip_text_model", clip_text


def _set(config: dict[str, Any]) -> dict[str, Any]:
    sizeless = ("sample_size", "scaling_factor", "upcast_attention")
    return {field: value for field, value in config.items() if value is not None and field not in sizeless}
