"""Trains a transformer for a few steps, as the runs in gpu_truth/README.md were made.

    transformer.py MODEL OPTIMIZER BATCH [ZERO_GRAD_POSITION]

The configurations are those that the models' authors published; nothing is downloaded. Models that are not listed here
get theirs from memlint's table, when the script runs on a GPU that is not there.
"""

from __future__ import annotations

import sys
import types
from typing import Any

# Some builds of torchvision do not import beside every build of torch; only its architectures are wanted, if anything.
sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM  # noqa: E402

LENGTH = 128
STEPS = 4


CEREBRAS = {"111M": (768, 10, 12), "256M": (1088, 14, 17), "590M": (1536, 18, 12), "1.3B": (2048, 24, 16)}
"""Width, layers and heads."""


def _cerebras(size: str) -> Any:
    width, layers, heads = CEREBRAS[size]
    return transformers.GPT2Config(
        vocab_size=50257,
        n_positions=2048,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        n_inner=4 * width,
        activation_function="gelu",
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        scale_attn_weights=True,
    )


def _codet5() -> Any:
    return transformers.T5Config(
        vocab_size=32100, d_model=768, d_ff=3072, num_layers=12, num_heads=12, decoder_start_token_id=0
    )


SMOLLM = {"135M": (576, 1536, 9, 30, 3), "360M": (960, 2560, 15, 32, 5)}
"""Width, inner width, heads, layers, key/value heads."""


def _smollm(size: str) -> Any:
    width, inner, heads, layers, key_value_heads = SMOLLM[size]
    return transformers.LlamaConfig(
        vocab_size=49152,
        hidden_size=width,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        num_key_value_heads=key_value_heads,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
    )


def configuration(name: str) -> Any:
    """The published configuration of a checkpoint."""
    make = transformers
    gpt2 = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_head": 12}
    known = {
        "distilbert/distilgpt2": lambda: make.GPT2Config(**gpt2, n_layer=6),
        **{f"cerebras/Cerebras-GPT-{size}": lambda size=size: _cerebras(size) for size in CEREBRAS},
        "EleutherAI/gpt-neo-125M": lambda: make.GPTNeoConfig(
            vocab_size=50257,
            hidden_size=768,
            num_layers=12,
            num_heads=12,
            max_position_embeddings=2048,
            attention_types=[[["global", "local"], 6]],
            window_size=256,
            attention_dropout=0,
            embed_dropout=0,
            resid_dropout=0,
        ),
        "facebook/opt-125m": make.OPTConfig,
        "facebook/opt-350m": lambda: make.OPTConfig(
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            ffn_dim=4096,
            word_embed_proj_dim=512,
            do_layer_norm_before=False,
        ),
        "bigscience/bloom-560m": lambda: make.BloomConfig(vocab_size=250880, hidden_size=1024, n_layer=24, n_head=16),
        "T5-small": lambda: make.T5Config(decoder_start_token_id=0),
        "t5-base": lambda: make.T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12, decoder_start_token_id=0),
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": lambda: make.Qwen2Config(
            vocab_size=151936,
            hidden_size=1536,
            intermediate_size=8960,
            num_hidden_layers=28,
            num_attention_heads=12,
            num_key_value_heads=2,
            max_position_embeddings=131072,
            use_sliding_window=False,
            rope_theta=10000,
            rms_norm_eps=1e-6,
            tie_word_embeddings=False,
        ),
        "Salesforce/codet5-small": lambda: make.T5Config(vocab_size=32100, decoder_start_token_id=0),
        "Salesforce/codet5-base": _codet5,
        "Salesforce/codet5p-220m": _codet5,
        **{
            f"HuggingFaceTB/SmolLM-{size}{kind}": lambda size=size: _smollm(size)
            for size in SMOLLM
            for kind in ("", "-Instruct")
        },
        "meta-llama/Llama-3.2-3B-Instruct": lambda: make.LlamaConfig(
            vocab_size=128256,
            hidden_size=3072,
            intermediate_size=8192,
            num_hidden_layers=28,
            num_attention_heads=24,
            num_key_value_heads=8,
            head_dim=128,
            max_position_embeddings=131072,
            rope_theta=500000.0,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            rope_scaling={
                "factor": 32.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
        ),
        "google/gemma-2-2b-it": lambda: make.Gemma2Config(
            vocab_size=256000,
            hidden_size=2304,
            intermediate_size=9216,
            num_hidden_layers=26,
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=256,
            max_position_embeddings=8192,
            sliding_window=4096,
            query_pre_attn_scalar=256,
        ),
    }
    return known[name]() if name in known else AutoConfig.from_pretrained(name)


def model_class(config: Any) -> Any:
    """The model with the head that the configuration is trained with."""
    masked = transformers.models.auto.modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if config.is_encoder_decoder:
        return AutoModelForSeq2SeqLM
    return AutoModelForMaskedLM if config.model_type in masked else AutoModelForCausalLM


def main() -> None:
    """One run."""
    name, optimizer_name, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
    position = sys.argv[4] if len(sys.argv) > 4 else "0"
    config = configuration(name)
    model = model_class(config).from_config(config, torch_dtype=torch.float32)
    optimizer = getattr(torch.optim, optimizer_name)(model.parameters(), lr=0.001)
    device = torch.device("cuda")
    model.to(device)
    model.train()
    words = torch.randint(5, config.vocab_size, (batch, LENGTH))
    data = {"input_ids": words, "attention_mask": torch.ones_like(words), "labels": words.clone()}
    for _ in range(STEPS):
        if position == "0":
            optimizer.zero_grad()
        inputs = {key: value.to(device) for key, value in data.items()}
        outputs = model(**inputs)
        loss = outputs.loss
        if position == "1":
            optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main()
