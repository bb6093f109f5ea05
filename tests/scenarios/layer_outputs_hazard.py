"""An encoder is asked for the hidden states of all layers, and only the last one is read."""

import torch
from transformers import BertConfig, BertModel

LAYERS, TOKENS, WIDTH = 3, 64, 32


def main():
    config = BertConfig(
        num_hidden_layers=LAYERS, hidden_size=WIDTH, num_attention_heads=2, intermediate_size=64, vocab_size=100
    )
    model = BertModel(config).eval()
    means = []
    with torch.no_grad():
        for _ in range(6):
            ids = torch.randint(100, (4, TOKENS))
            # CONFIRMED MEM505 device (3+1)*4*64*32*4 at peak
            output = model(ids, output_hidden_states=True)
            means.append(output.last_hidden_state[:, 0].mean().item())
    print(sum(means))


main()
