"""WavLM's attention through its own linear layers and torch's fused kernel."""

from typing import Any

from torch import Tensor, nn
from transformers.models.wavlm.modeling_wavlm import WavLMAttention


class OpenAttention(WavLMAttention):
    """transformers' hands the projections' weights to one torch function, past their modules.

    An adapter or a faster layer in a projection's place would be silently passed over.
    """

    def torch_multi_head_self_attention(
        self, hidden_states: Tensor, attention_mask: Tensor | None, gated_position_bias: Tensor
    ) -> tuple[Tensor, None]:
        """(B, F, D), valid frames (B, F) as ones, and bias (B·heads, F, F) to (B, F, D)."""
        batch, frames, _ = hidden_states.shape

        def split(projection: nn.Module) -> Tensor:
            projected = projection(hidden_states)
            return projected.view(batch, frames, self.num_heads, self.head_dim).transpose(1, 2)

        query, key, value = (split(p) for p in (self.q_proj, self.k_proj, self.v_proj))
        bias = gated_position_bias.view(batch, self.num_heads, frames, frames).to(query.dtype)
        if attention_mask is not None:
            bias = bias.masked_fill(attention_mask.ne(1)[:, None, None, :], float("-inf"))
        attended = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=self.dropout if self.training else 0.0
        )
        return self.out_proj(attended.transpose(1, 2).reshape(batch, frames, -1)), None


def open_attention(layer: Any) -> None:  # noqa: ANN401  a transformers layer
    """Make a layer of WavLM use its projections as modules, in place."""
    layer.attention.__class__ = OpenAttention
