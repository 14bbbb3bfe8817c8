"""Supervised contrastive loss."""

import torch
import torch.nn.functional as F
from torch import Tensor

from serkd.losses.terms import Term


def supervised_contrastive(
    anchors: Tensor,
    anchor_labels: Tensor,
    keys: Tensor,
    key_labels: Tensor,
    *,
    temperature: float,
    offset: int = 0,
    weight: float = 1.0,
) -> Term:
    """SupCon, L_out of Khosla et al. (arXiv 2004.11362, eq. 2).

    `anchors` (N, D) are this worker's projections and `keys` (M, D) those of the whole global
    batch; anchor i is key `offset + i` and is not its own positive. An anchor without a positive
    adds 0 and is not counted.
    """
    similarity = F.normalize(anchors, dim=-1) @ F.normalize(keys, dim=-1).T / temperature
    itself = torch.zeros_like(similarity, dtype=torch.bool)
    itself[torch.arange(len(anchors)), offset + torch.arange(len(anchors))] = True
    log_share = similarity - torch.logsumexp(
        similarity.masked_fill(itself, torch.finfo(similarity.dtype).min), dim=1, keepdim=True
    )
    positive = (anchor_labels[:, None] == key_labels[None, :]) & ~itself
    num_positives = positive.sum(dim=1)
    per_anchor = -(log_share * positive).sum(dim=1) / num_positives.clamp_min(1)
    return Term(per_anchor.sum(), float((num_positives > 0).sum()), weight)
