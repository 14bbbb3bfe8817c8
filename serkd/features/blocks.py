"""The pieces that an encoder is cut into: a front end to layer 0, and a body of layers above it.

Both take utterances of different lengths, and give each the frames that it would have alone.
"""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class HubertFront(nn.Module):
    """Convolutions, feature projection and positional convolution: waveforms to layer 0.

    `is_paddable`: whether utterances may share a batch. Group norm, as in HuBERT-base, averages
    over time, but only in the first convolution, which is run on one utterance at a time.
    """

    def __init__(self, encoder: Any) -> None:  # noqa: ANN401  a transformers model
        super().__init__()
        self.convolutions: Any = encoder.feature_extractor
        self.projection: Any = encoder.feature_projection
        self.position: Any = encoder.encoder.pos_conv_embed
        self.norm: Any = None if _is_stable(encoder.config) else encoder.encoder.layer_norm
        # its batch norm would make something of the zeros behind an utterance's end
        self.is_paddable = getattr(self.position, "batch_norm", None) is None

    def forward(self, waveforms: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
        """Waveforms, (T,) each, to layer 0, (B, F, D), and each utterance's number of frames."""
        first, *others = self.convolutions.conv_layers
        lone = [first(waveform[None, None])[0] for waveform in waveforms]  # (C, T') each
        hidden = pad_last(lone)
        lengths = [frames.shape[1] for frames in lone]
        for layer in others:
            hidden = layer(hidden)  # no padding: a frame sees nothing behind its own samples
            (kernel,), (stride,) = layer.conv.kernel_size, layer.conv.stride
            lengths = [(length - kernel) // stride + 1 for length in lengths]
        projected = self.projection(hidden.transpose(1, 2))
        # wav2vec 2.0 and WavLM return the normalised convolutions beside the projection
        hidden = projected[0] if isinstance(projected, tuple) else projected
        if (mask := frame_mask(lengths, hidden.device)) is not None:
            # alone, the positional convolution sees zeros behind the end
            hidden = hidden.masked_fill(~mask[:, :, None], 0.0)
        hidden = hidden + self._positions(hidden, mask)
        return hidden if self.norm is None else self.norm(hidden), lengths

    def _positions(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """(B, F, D), zero behind each end, to what the positional convolutions say."""
        stack = getattr(self.position, "layers", None)
        if mask is None or stack is None:
            return self.position(hidden)
        found = hidden.transpose(1, 2)
        for layer in stack:
            # data2vec has several, and alone each sees zeros where the one before left something
            found = layer(found).masked_fill(~mask[:, None, :], 0.0)
        return found.transpose(1, 2)


class WhisperFront(nn.Module):
    """Log-mel to layer 0; positions are cut to the clip, not padded to the window."""

    is_paddable = True

    def __init__(self, encoder: Any) -> None:  # noqa: ANN401  a transformers model
        super().__init__()
        self.conv1: Any = encoder.conv1
        self.conv2: Any = encoder.conv2
        self.positions: Any = encoder.embed_positions

    def forward(self, logmels: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
        """Log-mels, (mels, N) each, to layer 0, (B, F, D), and each utterance's frames, N/2."""
        lengths = [logmel.shape[1] for logmel in logmels]
        hidden = nn.functional.gelu(self.conv1(pad_last(logmels)))
        if (mask := frame_mask(lengths, hidden.device)) is not None:
            # the second convolution looks one frame behind an odd length: alone, at its padding
            hidden = hidden.masked_fill(~mask[:, None, :], 0.0)
        hidden = nn.functional.gelu(self.conv2(hidden)).transpose(1, 2)
        hidden = hidden + self.positions.weight[: hidden.shape[1]]
        return hidden, [(length + 1) // 2 for length in lengths]


def pad_last(arrays: Sequence[Tensor]) -> Tensor:
    """Arrays (C, N) of different lengths N to (B, C, longest), zeros behind the shorter ones."""
    if len({array.shape[1] for array in arrays}) == 1:
        return torch.stack(list(arrays))
    transposed = [array.T for array in arrays]
    return nn.utils.rnn.pad_sequence(transposed, batch_first=True).transpose(1, 2).contiguous()


def frame_mask(lengths: Sequence[int], device: torch.device) -> Tensor | None:
    """Which frames (B, longest) are an utterance's own; None where all are."""
    if len(set(lengths)) == 1:
        return None
    return torch.arange(max(lengths), device=device) < torch.tensor(lengths, device=device)[:, None]


def _is_stable(config: Any) -> bool:  # noqa: ANN401  a transformers config
    """Whether layers normalise what they read, so that the encoder normalises at its end."""
    return bool(getattr(config, "do_stable_layer_norm", False))


class Body(nn.Module):
    """Transformer layers `first`+1 .. `last`, with the final norm when `last` is the last one.

    For training passes: with `checkpoint_layers` only what enters each layer is kept, and the rest
    computed again for the gradients; with `compile_layers` torch's compiler makes the layers' code.
    Both give the same gradients, draw the same random numbers, and change no parameter's name.
    """

    def __init__(self, encoder: nn.Module, first: int, last: int) -> None:
        super().__init__()
        config: Any = encoder.config
        is_whisper = config.model_type == "whisper"
        stack: Any = encoder if is_whisper else encoder.encoder
        self.layers = nn.ModuleList(copy.deepcopy(stack.layers[first:last]))
        self.checkpoint_layers = self.compile_layers = False
        has_final_norm = is_whisper or _is_stable(config)
        ends = last == len(stack.layers) and (last > first or first == 0)
        self.final_norm = copy.deepcopy(stack.layer_norm) if has_final_norm and ends else None
        # WavLM's position bias is made by layer 1 and handed on to the layers above: a body that
        # begins there makes its own, any other has a frozen copy
        self.is_wavlm = config.model_type == "wavlm"
        self.bias_source: Any = None
        if self.is_wavlm:
            from serkd.features.wavlm import open_attention

            for layer in self.layers:
                open_attention(layer)
        if self.is_wavlm and first > 0:
            self.bias_source = copy.deepcopy(stack.layers[0].attention).requires_grad_(False)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> list[Tensor]:
        """Layer `first`, (B, F, D), and its valid frames (B, F) to layers `first`..`last`."""
        states = [hidden]
        if self.is_wavlm and self.layers:
            self._run_wavlm(states, mask)
        else:
            attention_mask = None
            # compiled code is for a mask: without one, it would be made once more
            if mask is not None and (self._is_compiled or not bool(mask.all())):
                attention_mask = _additive(mask, hidden)
            for layer in self.layers:
                states.append(self._run(layer, states[-1], attention_mask=attention_mask))
        if self.final_norm is not None:
            states[-1] = self.final_norm(states[-1])
        return states

    def _run_wavlm(self, states: list[Tensor], mask: Tensor | None) -> None:
        batch, frames, _ = states[0].shape
        source: Any = self.bias_source or self.layers[0].attention
        bias = source.compute_bias(frames, frames)
        bias = bias.repeat(batch, 1, 1)  # (B·heads, F, F)
        if mask is not None:
            # the layer compares it with 1
            mask = mask.long()
        for layer in self.layers:
            found = self._run(layer, states[-1], attention_mask=mask, position_bias=bias)
            states.append(found[0])

    @property
    def _is_compiled(self) -> bool:
        return self.compile_layers and self.training

    def _run(self, layer: nn.Module, hidden: Tensor, **masks: Tensor | None) -> Any:  # noqa: ANN401
        run = functools.partial(_compiled() if self._is_compiled else _call, layer, masks)
        if self.checkpoint_layers and self.training and torch.is_grad_enabled():
            return checkpoint(run, hidden, use_reentrant=False)
        return run(hidden)


def _call(layer: nn.Module, masks: Mapping[str, Tensor | None], hidden: Tensor) -> Any:  # noqa: ANN401
    return layer(hidden, **masks)


@functools.cache
def _compiled() -> Callable[..., Any]:
    """One function for all layers: they have one shape, and are compiled once."""
    return torch.compile(_call, dynamic=True, options={"fallback_random": True})


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """(B, F) bool to the additive (B, 1, 1, F) mask that attention kernels take.

    Of the type that queries and keys will have.
    """
    kind = like.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else like.dtype
    blocked = torch.zeros(mask.shape, dtype=dtype, device=like.device)
    return blocked.masked_fill(~mask, torch.finfo(dtype).min)[:, None, None, :]
