"""Writes memlint/checkpoints.json: the configurations of checkpoints, as installed libraries state them.

    python bench/checkpoints.py [OUT]

Needs torch and transformers, and the sources of litgpt 0.5.13, keras-nlp 0.6.4, paddlenlp 2.8.1 and google-tunix 0.1.7
(install them with ``pip install --no-deps --target FOLDER`` and add FOLDER to PYTHONPATH), and those of
``checkpoint_sources.py``. Nothing is downloaded from a hub and no weight is allocated.
``architectures.json`` knows the default configuration of each kind of model; these are the others.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import checkpoint_sources
import click
import torch
from architectures import claimed, count, transformers_entry
from checkpoint_sources import folder

OUT = Path(__file__).parents[1] / "memlint" / "checkpoints.json"

KERAS = {
    "albert": {f"albert_{size}_en_uncased": f"albert/albert-{name}-v2" for size, name in (
        ("base", "base"), ("large", "large"), ("extra_large", "xlarge"), ("extra_extra_large", "xxlarge"))},
    "bart": {f"bart_{size}_en": f"facebook/bart-{size}" for size in ("base", "large")},
    "bert": {
        "bert_base_en_uncased": "google-bert/bert-base-uncased",
        "bert_base_en": "google-bert/bert-base-cased",
        "bert_base_zh": "google-bert/bert-base-chinese",
        "bert_base_multi": "google-bert/bert-base-multilingual-cased",
        "bert_large_en_uncased": "google-bert/bert-large-uncased",
        "bert_large_en": "google-bert/bert-large-cased",
    },
    "deberta_v3": {f"deberta_v3_{size}_en": f"microsoft/deberta-v3-{name}" for size, name in (
        ("extra_small", "xsmall"), ("small", "small"), ("base", "base"), ("large", "large"))},
    "distil_bert": {
        "distil_bert_base_en_uncased": "distilbert/distilbert-base-uncased",
        "distil_bert_base_en": "distilbert/distilbert-base-cased",
        "distil_bert_base_multi": "distilbert/distilbert-base-multilingual-cased",
    },
    "gpt2": {"gpt2_base_en": "openai-community/gpt2", "gpt2_medium_en": "openai-community/gpt2-medium",
             "gpt2_large_en": "openai-community/gpt2-large", "gpt2_extra_large_en": "openai-community/gpt2-xl"},
    "opt": {f"opt_{size}_en": f"facebook/opt-{size}" for size in ("125m", "1.3b", "2.7b", "6.7b")},
    "roberta": {f"roberta_{size}_en": f"FacebookAI/roberta-{size}" for size in ("base", "large")},
    "xlm_roberta": {f"xlm_roberta_{size}_multi": f"FacebookAI/xlm-roberta-{size}" for size in ("base", "large")},
}  # fmt: skip
"""The name on the hub of the checkpoint that each preset of keras-nlp was converted from."""
KINDS = {"deberta_v3": "deberta-v2", "distil_bert": "distilbert", "xlm_roberta": "xlm-roberta"}
_UNSTATED = ("Phi-4-mini", "OLMo-1B")
"""Their output layer is the table of words or is not: litgpt does not say, nor does another package."""
_NAMED_EXACTLY = "SmolLM2"
"""No package says it of these, but their names give the size so well that only one of the two can be meant."""


def _module(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


# --------------------------------------------------------------------------------------------------------- keras-nlp


def keras_configurations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Encoders, GPT-2 and OPT."""
    for family, names in KERAS.items():
        presets = _module(folder("keras_nlp") / "src" / "models" / family / f"{family}_presets.py", f"presets_{family}")
        for preset, checkpoint in names.items():
            found = presets.backbone_presets.get(preset)
            if found is not None:
                yield checkpoint, KINDS.get(family, family), _from_keras(family, found["config"])


def _from_keras(family: str, config: dict[str, Any]) -> dict[str, Any]:
    words, layers, heads = config["vocabulary_size"], config["num_layers"], config["num_heads"]
    width, inner, positions = config["hidden_dim"], config["intermediate_dim"], config["max_sequence_length"]
    if family == "gpt2":
        return {"vocab_size": words, "n_layer": layers, "n_head": heads, "n_embd": width, "n_positions": positions}
    if family == "bart":
        both = {"layers": layers, "ffn_dim": inner, "attention_heads": heads}
        sides = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in both.items()}
        return {"vocab_size": words, "d_model": width, "max_position_embeddings": positions, **sides}
    if family == "distil_bert":
        sizes = {"dim": width, "hidden_dim": inner, "n_layers": layers, "n_heads": heads}
        return {"vocab_size": words, "max_position_embeddings": positions, **sizes}
    fields = {"vocab_size": words, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    fields["max_position_embeddings"] = positions
    if family == "opt":
        return {**fields, "ffn_dim": inner, "word_embed_proj_dim": width}
    fields["intermediate_size"] = inner
    if family == "albert":
        fields["embedding_size"] = config["embedding_dim"]
    if family in ("roberta", "xlm_roberta"):
        # Positions are counted from behind the padding token, and there are no segments.
        fields.update(max_position_embeddings=positions + 2, type_vocab_size=1)
    if family == "deberta_v3":
        stated = _paddle("deberta_v2")["microsoft/deberta-v3-base"]
        fields.update({name: stated[name] for name in _DEBERTA_V3})
    return fields


_DEBERTA_V3 = (
    "relative_attention position_buckets norm_rel_ebd share_att_key pos_att_type position_biased_input type_vocab_size "
    "max_relative_positions"
).split()
"""What keras-nlp, which knows nothing else, does not state; paddlenlp does, for the base model."""

# --------------------------------------------------------------------------------------------------------- paddlenlp


def paddle_configurations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """T5, and what keras-nlp does not have of ELECTRA and XLNet."""
    prefixes = {"t5": "google-t5/", "electra": "google/", "xlnet": "xlnet/"}
    for family, prefix in prefixes.items():
        for name, config in _paddle(family).items():
            if "chinese" not in name and (family != "electra" or name.endswith(("discriminator", "generator"))):
                organisation = "google/" if "v1_1" in name else prefix
                yield organisation + name, family, _from_paddle(family, config)


def _paddle(family: str) -> dict[str, dict[str, Any]]:
    """The configurations of a family, by name."""
    path = folder("paddlenlp") / "transformers" / family / "configuration.py"
    found: dict[str, dict[str, Any]] = {}
    for statement in ast.parse(path.read_text("utf-8")).body:
        if isinstance(statement, ast.Assign) and "INIT_CONFIGURATION" in getattr(statement.targets[0], "id", ""):
            found.update(ast.literal_eval(statement.value))
    return found


def _from_paddle(family: str, config: dict[str, Any]) -> dict[str, Any]:
    keep = {
        "t5": "vocab_size d_model d_kv d_ff num_layers num_decoder_layers num_heads feed_forward_proj "
        "tie_word_embeddings",
        "electra": "vocab_size embedding_size hidden_size num_hidden_layers num_attention_heads intermediate_size "
        "max_position_embeddings type_vocab_size",
        "xlnet": "vocab_size d_model n_layer n_head d_inner",
    }[family].split()
    return {name: value for name, value in config.items() if name in keep and value is not None}


# ------------------------------------------------------------------------------------------------------------ litgpt


def litgpt_configurations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Decoders."""
    module = _module(folder("litgpt") / "config.py", "litgpt_config")
    for given in module.configs:
        config = module.Config(**given)
        name = f"{config.hf_config['org']}/{config.hf_config['name']}"
        kind = _kind_of(config, name)
        if kind is not None and not any(each in name for each in _UNSTATED):
            yield name, kind, _from_litgpt(config, kind, name)


def _kind_of(config: Any, name: str) -> str | None:
    """The ``model_type`` in transformers."""
    lower = name.lower()
    if config.latent_attention or (config.n_expert and "mixtral" not in lower):
        return None
    if config.mlp_class_name == "GemmaMLP":
        third = "gemma3_text" if "1b" in lower else None
        return third if "gemma-3" in lower else "gemma2" if "gemma-2-" in lower else "gemma"
    if config.mlp_class_name == "GptNeoxMLP":
        return "phi" if "phi-" in lower else "falcon" if "falcon" in lower else "gpt_neox"
    if config.norm_class_name == "LayerNorm":
        return "stablelm" if "stable" in lower else "olmo"
    by_word = {"mixtral": "mixtral", "mistral": "mistral", "mathstral": "mistral", "danube2": "mistral",
               "olmo-2": "olmo2", "phi-": "phi3", "qwen3": "qwen3", "qwen2": "qwen2", "qwq": "qwen2"}  # fmt: skip
    return next((kind for word, kind in by_word.items() if word in lower.replace("r1-distill-qwen", "qwen2")), "llama")


def _from_litgpt(config: Any, kind: str, name: str) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "vocab_size": config.padded_vocab_size,
        "hidden_size": config.n_embd,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.block_size,
    }
    if kind == "falcon":
        several = config.n_query_groups > 1
        return {**fields, "num_kv_heads": config.n_query_groups, "new_decoder_architecture": several}
    if kind == "gpt_neox":
        return {**fields, "use_parallel_residual": config.parallel_residual}
    fields["num_key_value_heads"] = config.n_query_groups
    differs = config.head_size * config.n_head != config.n_embd
    if kind.startswith(("gemma", "qwen3")) or (kind == "llama" and differs):
        fields["head_dim"] = config.head_size
    if not kind.startswith("gemma") and kind != "phi":
        fields["tie_word_embeddings"] = _is_tied(name, kind, fields)
    if kind == "phi3":
        fields["pad_token_id"] = 0
    if kind == "mixtral":
        fields["num_local_experts"] = config.n_expert
    return fields


def _is_tied(name: str, kind: str, fields: dict[str, Any]) -> bool:
    """Whether the output layer is the table of words, as google-tunix says of the model; if it does not, it is not."""
    size = claimed(name)
    if _NAMED_EXACTLY in name and size is not None:
        sizes = {tied: _size(kind, {**fields, "tie_word_embeddings": tied}) for tied in (True, False)}
        return min(sizes, key=lambda tied: abs(sizes[tied] - size * 1e6))
    plain = re.sub(r"-(coder|math)\b", "", name.rpartition("/")[2].lower())
    return any(tied for model, tied in _tunix().items() if re.match(rf"{re.escape(model)}(?![\w.])", plain))


def _size(kind: str, fields: dict[str, Any]) -> int:
    transformers = importlib.import_module("transformers")
    with torch.device("meta"):
        return count(transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(kind, **fields)))


_TUNIX = {"llama3": "weight_tying", "qwen2": "use_tied_embedding", "qwen3": "use_tied_embedding"}
"""What each family of google-tunix calls a table of words that is shared."""


@cache
def _tunix() -> dict[str, bool]:
    """By the beginning of a model's name: whether google-tunix shares its table of words."""
    found = {}
    for family, flag in _TUNIX.items():
        tree = ast.parse((folder("tunix") / "models" / family / "model.py").read_text("utf-8"))
        for each in ast.walk(tree):
            if isinstance(each, ast.FunctionDef) and re.fullmatch(r"(llama|qwen)\d(p\d)?_\d+(p\d+)?b", each.name):
                model = re.sub(r"(?<=\d)p(?=\d)", ".", each.name).replace("llama", "llama-").replace("_", "-")
                stated = [one.value for one in ast.walk(each) if isinstance(one, ast.keyword) and one.arg == flag]
                found[model] = any(isinstance(value, ast.Constant) and value.value is True for value in stated)
    return found


# ------------------------------------------------------------------------------------------------------------- table


def entries() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each checkpoint's entry; prints those whose name claims another size. What stands later counts."""
    more = checkpoint_sources
    transformers = importlib.import_module("transformers")
    seen: dict[str, dict[str, Any]] = {}
    packages = (keras_configurations, paddle_configurations, litgpt_configurations)
    sources = (more.llm_analysis, more.t5, more.whisper, more.clip, more.vit, more.diffusion, *packages)
    configurations = [each for source in sources for each in source()]
    for name, kind, fields in configurations:
        key = json.dumps([kind, fields])
        if key not in seen:
            try:
                seen[key] = _entry(transformers, kind, fields)
            except Exception as error:  # noqa: BLE001 - another version of transformers may not take these fields
                print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
                continue
        entry = {**seen[key], "type": kind, "set": fields}
        largest = max([entry["params"], *(head[1] for head in entry.get("heads_of", {}).values())])
        size = claimed(name)
        if size is not None and not 0.85 < largest / 1e6 / size < 1.25 and kind != "mixtral":
            # Names round: Gemma 2B has 2.5 billion. What is further away was read wrongly.
            print(f"{name}: has {largest / 1e6:.0f} million parameters", file=sys.stderr)
            if not 0.7 < largest / 1e6 / size < 1.7:
                continue
        yield name, entry


def _entry(transformers: Any, kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    """What is known of a model, by its ``model_type`` in transformers or its class in diffusers."""
    if kind[0].isupper():
        with torch.device("meta"):
            return {"params": count(getattr(importlib.import_module("diffusers"), kind).from_config(fields))}
    return transformers_entry(transformers, transformers.AutoConfig.for_model(kind, **fields))


@click.command()
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path), default=OUT)
def main(out: Path) -> None:
    """Writes the table, a line for each checkpoint."""
    warnings.simplefilter("ignore")
    table = dict(entries())
    lines = [f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in sorted(table.items())]
    out.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")
    print(f"{len(table)} checkpoints")


if __name__ == "__main__":
    main()
