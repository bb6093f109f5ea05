"""``torch.autocast("cuda")`` for tensors that PyTorch's core takes for the host's.

The core applies the host's lists of operators to them, which are others. Here the kernels of the host's autocast key
are CUDA's: the same operators run in the lower precision, the same ones in single precision, and casts of parameters
are kept until the outermost region ends. Source: ``aten/src/ATen/autocast_mode.{h,cpp}`` (pytorch v2.6.0), the macros
``AT_FORALL_LOWER_PRECISION_FP``, ``AT_FORALL_FP32``, ``AT_FORALL_FP32_SET_OPT_DTYPE``, ``AT_FORALL_PROMOTE`` and
``cached_cast``.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from memlint.capacity.simulate.child.device import CUDA, SimulatedDevice

LOWER_PRECISION = frozenset(
    """_convolution conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d convolution
    cudnn_convolution cudnn_convolution_transpose prelu addmm addmv addr matmul einsum mm mv linalg_vecdot
    linalg_multi_dot linear addbmm baddbmm bmm chain_matmul _thnn_fused_lstm_cell _thnn_fused_gru_cell lstm_cell
    gru_cell rnn_tanh_cell rnn_relu_cell _scaled_dot_product_flash_attention scaled_dot_product_attention""".split()
)
SINGLE_PRECISION = frozenset(
    """acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow softplus layer_norm
    native_layer_norm group_norm frobenius_norm nuclear_norm cosine_similarity poisson_nll_loss cosine_embedding_loss
    nll_loss nll_loss2d hinge_embedding_loss kl_div l1_loss smooth_l1_loss huber_loss mse_loss margin_ranking_loss
    multilabel_margin_loss soft_margin_loss triplet_margin_loss multi_margin_loss binary_cross_entropy_with_logits dist
    pdist cdist renorm logsumexp upsample_nearest1d _upsample_nearest_exact1d upsample_nearest2d
    _upsample_nearest_exact2d upsample_nearest3d _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d
    _upsample_bilinear2d_aa upsample_trilinear3d upsample_bicubic2d _upsample_bicubic2d_aa rms_norm""".split()
)
SINGLE_PRECISION_RESULT = frozenset(
    "prod softmax log_softmax cumprod cumsum linalg_vector_norm linalg_matrix_norm sum".split()
)
"""They take a ``dtype`` and get single precision if none is given, without a copy of their input."""
PROMOTED = frozenset(
    """addcdiv addcmul atan2 bilinear cross dot vdot grid_sampler index_put tensordot scatter_add""".split()
)

_KEY = "AutocastCPU"
_HALF = (torch.float16, torch.bfloat16)


class Autocast:
    """CUDA's autocast; it is in force as long as this object lives."""

    def __init__(self, device: SimulatedDevice) -> None:
        self._device = device
        self._cache: dict[int, tuple[Any, torch.Tensor]] = {}
        self._library = torch.library.Library("aten", "IMPL")
        self._guard = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, _KEY))
        with warnings.catch_warnings():
            # It says that kernels are replaced.
            warnings.simplefilter("ignore")
            for name in _registered():
                self._library.impl(name.removeprefix("aten::"), self._kernel(name), _KEY)
            for name in _of_host_only():
                # CUDA's autocast leaves them alone and treats what they consist of.
                self._library.impl(name.removeprefix("aten::"), torch.library.fallthrough_kernel, _KEY)
        self._switch = torch.set_autocast_enabled
        torch.set_autocast_enabled = self._set_enabled
        torch.clear_autocast_cache = self._cache.clear

    def _set_enabled(self, device: Any, enabled: bool | None = None) -> None:
        if enabled is None:
            # The old form: for CUDA, without a name.
            device, enabled = CUDA, device
        self._switch(device, enabled)
        if device == CUDA:
            self._switch("cpu", enabled)

    def _kernel(self, name: str) -> Callable[..., Any]:
        operator = _operator(name)
        cast = self._cast_for(name.removeprefix("aten::").partition(".")[0])

        def run(*args: Any, **kwargs: Any) -> Any:
            if cast is not None and torch.is_autocast_enabled(CUDA):
                args, kwargs = cast(args, kwargs)
            with torch._C._ExcludeDispatchKeyGuard(self._guard):
                return operator(*args, **kwargs)

        return run

    def _cast_for(self, name: str) -> Callable[[Any, Any], Any] | None:
        if name in LOWER_PRECISION:
            return lambda args, kwargs: self._all_to(torch.get_autocast_dtype(CUDA), args, kwargs)
        if name in SINGLE_PRECISION:
            return lambda args, kwargs: self._all_to(torch.float32, args, kwargs)
        if name in SINGLE_PRECISION_RESULT:
            return self._with_result_type
        return self._promoted if name in PROMOTED else None

    def _all_to(self, dtype: torch.dtype, args: Any, kwargs: Any) -> Any:
        return tree_map_only(torch.Tensor, lambda each: self._cast(each, dtype), (args, kwargs))

    def _with_result_type(self, args: Any, kwargs: Any) -> Any:
        first = args[0]
        said = any(isinstance(each, torch.dtype) for each in (*args, kwargs.get("dtype")))
        if not said and self._is_eligible(first):
            kwargs = {**kwargs, "dtype": torch.float32}
        return args, kwargs

    def _promoted(self, args: Any, kwargs: Any) -> Any:
        types = {each.dtype for each in args if isinstance(each, torch.Tensor) and self._is_eligible(each)}
        return self._all_to(torch.float32, args, kwargs) if torch.float32 in types else (args, kwargs)

    def _is_eligible(self, tensor: torch.Tensor) -> bool:
        return (
            tensor.dtype.is_floating_point
            and tensor.dtype is not torch.float64
            and self._device.of(tensor).type == CUDA
        )

    def _cast(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if tensor.dtype is dtype or not self._is_eligible(tensor):
            return tensor
        cached = (
            dtype in _HALF
            and torch.is_autocast_cache_enabled()
            and tensor.dtype is torch.float32
            and tensor.requires_grad
            and tensor.is_leaf
            and not tensor._is_view()
        )
        if not cached:
            return tensor.to(dtype)
        known = self._cache.get(id(tensor))
        if known is None or known[0]() is not tensor:
            known = self._cache[id(tensor)] = (weakref.ref(tensor), tensor.to(dtype))
        return known[1]


def _registered() -> list[str]:
    """The operators that CUDA's autocast treats, in this version of PyTorch."""
    return _operators_of("AutocastCUDA")


def _of_host_only() -> list[str]:
    """Those that the host's autocast treats and CUDA's does not, such as ``cross_entropy_loss``."""
    return sorted({*_operators_of(_KEY)} - {*_registered()})


def _operators_of(key: str) -> list[str]:
    names = torch._C._dispatch_get_registrations_for_dispatch_key(key)
    return sorted(name for name in names if name.startswith("aten::"))


def _operator(name: str) -> Any:
    packet, _, overload = name.removeprefix("aten::").partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")
