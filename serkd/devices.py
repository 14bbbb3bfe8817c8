"""Which device a process computes on, and in what precision it can."""

import logging
import platform
from pathlib import Path
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16", "float16"]

_LOG = logging.getLogger(__name__)


def choose_device(setting: str) -> str:
    """`auto` is the GPU where this process has one."""
    if setting != "auto":
        return setting
    return "cuda" if torch.cuda.is_available() else "cpu"


def describe_processor() -> str:
    """Its model, on which the last bits of results depend; where that is not told, its kind."""
    about = Path("/proc/cpuinfo")
    for line in about.read_text(encoding="utf-8").splitlines() if about.is_file() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def choose_precision(setting: Precision, device: torch.device, model: str) -> Precision:
    """float32 in place of bfloat16 on a processor that would only imitate it.

    There a product of bfloat16 takes longer than one of float32, which is what it stands in for:
    two to three times with AVX-512, ten to thirty without. `model` is named in the warning.
    """
    if setting != "bfloat16" or device.type != "cpu" or _has_bfloat16():
        return setting
    _LOG.warning(
        "%s: this processor has no bfloat16, so training's forward pass is in float32", model
    )
    return "float32"


def _has_bfloat16() -> bool:
    """Whether oneDNN gets products of bfloat16 from torch, and has instructions for them.

    On x86 torch asks no more than AVX-512, which most processors have without bfloat16.
    """
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    is_x86 = platform.machine().lower() in {"x86_64", "amd64"}
    return not is_x86 or torch.cpu._is_avx512_bf16_supported()
