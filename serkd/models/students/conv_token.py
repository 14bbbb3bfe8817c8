"""The `conv_token` family: channels of a convolutional stem as tokens that mend its statistics."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serkd import config
from serkd.config.student import PATCH_STEPS, TOKEN_WIDTH
from serkd.models.heads import AttentiveStatistics, masked_mean
from serkd.models.students.conv import ConvStack
from serkd.models.students.lengths import LENGTHS
from serkd.models.students.token import (
    ChannelEmbedding,
    build_layers,
    log_duration,
    normalise_channels,
)


class ConvTokenEncoder(nn.Module):
    """Conv layers whose channels, not the input's, are the variates [our choice].

    A token is made of what plain variate tokens lose: the channel's attentive mean and deviation,
    and which channel it is. To them comes its course: overlapping patches of the normalised series
    through one Linear shared by all times and channels, averaged behind a GELU, so that nothing is
    tied to a place in time. Encoder layers attend over the channels, and what comes out corrects
    each channel's two statistics. The correction starts at zero: a new model is the `conv` model.
    """

    def __init__(self, settings: config.Student, num_channels: int) -> None:
        super().__init__()
        self.out_dim, depth = settings.shape
        self.stack = ConvStack(settings, num_channels, depth)
        self.num_frames = settings.series_frames
        self.fix_length = LENGTHS[settings.length]
        self.pooling = AttentiveStatistics(self.out_dim)
        self.from_statistics = nn.Linear(2, TOKEN_WIDTH)
        self.from_patch = nn.Linear(PATCH_STEPS, TOKEN_WIDTH)
        self.channel = (
            ChannelEmbedding(self.out_dim, TOKEN_WIDTH)
            if settings.has_channel_embedding
            else nn.Identity()
        )
        self.duration = nn.Linear(1, TOKEN_WIDTH) if settings.length == "resample" else None
        self.layers = build_layers(TOKEN_WIDTH, settings.token_depth, settings)
        self.correct = nn.Linear(TOKEN_WIDTH, 2)
        nn.init.zeros_(self.correct.weight)
        nn.init.zeros_(self.correct.bias)
        self.norm = nn.LayerNorm(self.pooling.out_dim)
        self.embed = nn.Linear(self.pooling.out_dim, self.out_dim)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        hidden, mask = self.stack(frames, mask)
        statistics = self.pooling(hidden, mask)
        pairs = statistics.unflatten(1, (2, self.out_dim)).transpose(1, 2)
        tokens = self.channel(self.from_statistics(pairs) + self._read_courses(hidden, mask))
        if self.duration is not None:
            duration = self.duration(log_duration(mask, self.num_frames))
            tokens = torch.cat([tokens, duration[:, None]], dim=1)
        corrections = self.correct(self.layers(tokens)[:, : self.out_dim])
        mended = statistics + corrections.transpose(1, 2).flatten(1)
        return F.gelu(self.embed(self.norm(mended)))

    def _read_courses(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Of each channel's series over (B, F, width), (B, width, token width)."""
        # the mask comes along, so that what it says is known of every patch
        series = torch.cat([normalise_channels(hidden, mask), mask[..., None].to(hidden)], dim=-1)
        windows, is_own = self.fix_length(series, mask, self.num_frames)
        hop = PATCH_STEPS // 2
        # the last steps are heard too, where there are too few of them for a patch
        windows = F.pad(windows.flatten(0, 1).transpose(1, 2), (0, -self.num_frames % hop))
        patches = windows.unfold(2, PATCH_STEPS, hop).transpose(1, 2)
        share = patches[:, :, -1].mean(dim=2)  # of a patch's frames that are valid
        # only windows that are nobody's have none, and they are left out below
        share = share / share.sum(dim=1, keepdim=True).clamp_min(1 / PATCH_STEPS)
        heard = F.gelu(self.from_patch(patches[:, :, :-1])).flatten(2)
        courses = share[:, None] @ heard  # of a product there are fewer passes over memory
        parts = courses.unflatten(0, is_own.shape).flatten(2)
        return masked_mean(parts, is_own).unflatten(1, (self.out_dim, TOKEN_WIDTH))
