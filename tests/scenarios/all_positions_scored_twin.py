"""The scores of the last position only; the peak is in the training before."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

BATCH, TOKENS, WORDS = 4, 64, 8000


@torch.no_grad()
def next_words(model: LlamaForCausalLM, batches):
    for tokens in batches:
        yield model(tokens, use_cache=False, logits_to_keep=1).logits[:, -1].argmax(-1)  # REFUTED MEM507


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
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        words = torch.randint(WORDS, (BATCH, TOKENS))
        model(words, labels=words).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    batches = [torch.randint(WORDS, (BATCH, TOKENS)) for _ in range(6)]
    print(sum(words.sum().item() for words in next_words(model, batches)))


main()
