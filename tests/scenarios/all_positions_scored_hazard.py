"""A language model scores every position, and only the last scores are used."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

BATCH, TOKENS, WORDS = 4, 64, 8000


@torch.no_grad()
def next_words(model: LlamaForCausalLM, batches):
    for tokens in batches:
        yield model(tokens, use_cache=False).logits[:, -1].argmax(-1)  # CONFIRMED MEM507 device 4*64*8000*4 at peak


def main():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    model = LlamaForCausalLM(config).eval()
    batches = [torch.randint(WORDS, (BATCH, TOKENS)) for _ in range(6)]
    print(sum(words.sum().item() for words in next_words(model, batches)))


main()
