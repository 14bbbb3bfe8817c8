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

    Without AVX-512 or its like a product of bfloat16 takes ten to thirty times as long as one of
    float32, which is what it stands in for. `model` is named in the warning.
    """
    if setting != "bfloat16" or device.type != "cpu" or _has_bfloat16():
        return setting
    _LOG.warning(
        "%s: this processor has no bfloat16, so training's forward pass is in float32", model
    )
    return "float32"


def _has_bfloat16() -> bool:
    """What torch asks before it hands a product of bfloat16 to oneDNN."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
