"""Trains an image classifier for a few steps, as the runs in gpu_truth/README.md were made.

cnn.py MODEL OPTIMIZER BATCH [ZERO_GRAD_POSITION]
"""

from __future__ import annotations

import re
import sys
import types

# Some builds of torchvision do not import beside every build of torch; only its architectures are wanted.
sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")

import torch  # noqa: E402
from torchvision import models  # noqa: E402

ARCHITECTURES = {
    "VGG16": "vgg16",
    "VGG19": "vgg19",
    "ResNet101": "resnet101",
    "ResNet152": "resnet152",
    "MobileNetV2": "mobilenet_v2",
    "ConvNeXtTiny": "convnext_tiny",
    "ConvNeXtBase": "convnext_base",
    "RegNetX400MF": "regnet_x_400mf",
    "RegNetY400MF": "regnet_y_400mf",
    "MnasNet": "mnasnet1_0",
    "MobeNetV3Large": "mobilenet_v3_large",
    "MobeNetV3Small": "mobilenet_v3_small",
}
TEN_CLASSES = ("MnasNet", "MobeNetV3Large", "MobeNetV3Small")
STEPS = 4


def architecture(name: str) -> str:
    """Its name in torchvision, which others write with capitals and without underscores."""
    plain = {re.sub(r"\W|_", "", each): each for each in models.list_models(module=models)}
    return ARCHITECTURES.get(name) or plain[re.sub(r"\W|_", "", name.lower())]


def main() -> None:
    """One run."""
    name, optimizer_name, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
    position = sys.argv[4] if len(sys.argv) > 4 else "0"
    classes = 10 if name in TEN_CLASSES else 1000
    device = torch.device("cuda")
    model = getattr(models, architecture(name))(num_classes=classes).to(device)
    model.train()
    optimizer = getattr(torch.optim, optimizer_name)(model.parameters(), lr=0.001)
    criterion = torch.nn.CrossEntropyLoss()
    for _ in range(STEPS):
        if position == "0":
            optimizer.zero_grad()
        inputs, labels = torch.randn(batch, 3, 86, 86), torch.randint(0, 10, (batch,))
        inputs, labels = inputs.to(device), labels.to(device)
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        if position == "1":
            optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        _ = torch.max(outputs, 1)


if __name__ == "__main__":
    main()
