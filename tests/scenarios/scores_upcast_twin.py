"""The loss takes the scores of a language model in bfloat16 as they are."""

import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel

TOKENS, WORDS = 64, 9000


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=WORDS, n_positions=TOKENS)
    model = GPT2LMHeadModel(config).bfloat16().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(5):
        ids = torch.randint(WORDS, (1, TOKENS), device=device)
        scores = model(ids).logits[0]  # CONFIRMED MEM110 device anything at peak
        print(scores.detach().shape)  # REFUTED MEM403
        F.cross_entropy(scores, ids[0]).backward()
        del scores  # those of the next step are made without these
        optimizer.step()
        optimizer.zero_grad()


main()
