"""What autograd saves of an operation's input: facts about single operations.

Found by running each operation of torch 2.13 under ``torch.autograd.graph.saved_tensors_hooks`` on an input that no
other operation saves, and comparing storages.
"""

from __future__ import annotations

VIEWS = frozenset(
    """
    view reshape flatten transpose permute squeeze unsqueeze expand expand_as view_as reshape_as contiguous t swapaxes
    swapdims movedim narrow chunk split unbind unflatten detach requires_grad_ to float half bfloat16 double type
    type_as cuda as_strided select slice diagonal rearrange get values items pop to_tuple keys
    """.split()
)
"""Methods and functions whose result is, or may be, in the memory of their input."""

FREE_OF_INPUT = frozenset(
    """
    cross_entropy log_softmax softmax softmin gumbel_softmax sigmoid tanh relu exp sqrt dropout
    argmax argmin max min amax amin topk sort argsort sum mean cumsum clone cpu numpy item tolist masked_fill
    masked_select index_select repeat repeat_interleave roll pad cat concat concatenate stack where l1_loss kl_div
    interpolate upsample neg add sub numel size dim shape eq ne lt gt le ge isnan isinf isfinite any all nelement
    element_size new_zeros new_ones new_full new_empty new_tensor zeros_like ones_like empty_like full_like is_tensor
    len print isinstance float int bool str type id hasattr
    """.split()
)
"""Operations that keep their input neither in their result nor for the backward; some save the result instead."""

FREE_LOSSES = frozenset({"CrossEntropyLoss", "LogSoftmax", "Softmax", "Sigmoid", "Tanh", "ReLU", "Dropout", "L1Loss"})
"""Classes of ``torch.nn`` of which the same is true."""

SAVED_RESULT = frozenset(
    {"log_softmax", "softmax", "softmin", "sigmoid", "tanh", "relu", "exp", "sqrt", "gumbel_softmax"}
)
"""Operations that save their result: dropping a name of it frees nothing before the backward is through."""

SAVED_RESULT_MODULES = frozenset({"LogSoftmax", "Softmax", "Sigmoid", "Tanh", "ReLU", "Softmin"})
