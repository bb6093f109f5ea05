"""A language model scores texts and returns keys and values of all layers that nobody reads."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

LAYERS, TOKENS, WIDTH = 3, 64, 32


def main():
    config = GPT2Config(n_layer=LAYERS, n_embd=WIDTH, n_head=2, vocab_size=100, n_positions=TOKENS)
    model = GPT2LMHeadModel(config).eval()
    total = 0.0
    with torch.no_grad():
        for _ in range(6):
            ids = torch.randint(100, (4, TOKENS))
            scores = model(ids).logits  # CONFIRMED MEM608 device 2*3*4*64*32*4 at peak
            total += scores.log_softmax(-1).mean().item()
    print(total)


main()
