"""memlint audits PyTorch training code for memory hazards."""

__version__ = "0.1.0"
