"""How large a model is and how it is trained, read from the program by abstract evaluation; nothing is imported or run.

``evaluate`` runs the program over values that are either known exactly or unknown; ``layers`` knows what parameters the
modules of ``torch.nn`` have; ``registry`` what well-known architectures have; ``reading`` puts together what a script
trains, with which batch, precision and optimizer; ``peak`` estimates the memory that this takes.
"""
