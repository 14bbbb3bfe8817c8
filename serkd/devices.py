"""Which device a process computes on."""

import torch


def choose_device(setting: str) -> str:
    """`auto` is the GPU where this process has one."""
    if setting != "auto":
        return setting
    return "cuda" if torch.cuda.is_available() else "cpu"
