"""Runs the user's script on tensors that hold no data and follows what a GPU's allocator would do.

:func:`memlint.capacity.simulate.run.simulate` is the way in. Nothing here but ``child`` imports torch.
"""
