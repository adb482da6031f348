"""An I-JEPA step in PyTorch, of our own writing: to hold ours against, in tests and benchmarks.

"plain" goes about it as the published code does: all patches are embedded and then chosen, logits
and softmax are written out, the moving average goes through the parameters one by one. "best" is
what PyTorch offers: patches chosen first, scaled_dot_product_attention, a fused AdamW, the moving
average of all parameters in a call, and torch.compile where it is asked for. The numbers are the
same.

Parameters have the names and layouts of the published checkpoints.
"""

import copy
import dataclasses
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_jax.models.positions import sincos_2d

LAYER_NORM_EPS = 1e-6
MEAN, DEVIATION = 127.5, 73.9  # of random bytes


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of both networks. `grid`: rows and columns of patches."""

    grid: tuple[int, int]
    patch_size: int
    channels: int
    width: int
    depth: int
    heads: int
    mlp_ratio: float
    predictor_width: int
    predictor_depth: int
    predictor_heads: int


class Batch(NamedTuple):
    images: Tensor  # (B, C, Y, X) float32, normalised; or uint8
    context: Tensor  # (B, K) int64, patch indices in raster order
    targets: Tensor  # (B, M, P) int64


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, best: bool):
        super().__init__()
        self.heads, self.best = heads, best
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.best:
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            logits = query @ key.mT * query.shape[-1] ** -0.5
            mixed = logits.softmax(-1) @ value
        return self.proj(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, mlp_ratio: float, best: bool):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attn = Attention(width, heads, best)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = MLP(width, round(width * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    def __init__(self, sizes: Sizes, best: bool):
        super().__init__()
        self.best = best
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(sizes.channels, sizes.width, sizes.patch_size, sizes.patch_size)}
        )
        positions = torch.from_numpy(sincos_2d(sizes.width, *sizes.grid))[None]
        self.register_buffer("pos_embed", positions)
        self.blocks = nn.Sequential(
            *(Block(sizes.width, sizes.heads, sizes.mlp_ratio, best) for _ in range(sizes.depth))
        )
        self.norm = nn.LayerNorm(sizes.width, eps=LAYER_NORM_EPS)

    def forward(self, images: Tensor, index: Tensor | None = None) -> Tensor:
        """Features (B, K, D) of the patches `index` (B, K), or of all."""
        embed = self.patch_embed["proj"]
        if index is None or not self.best:
            x = embed(images).flatten(2).mT + self.pos_embed
            x = x if index is None else take(x, index)
        else:
            patches = F.unfold(images, embed.kernel_size, stride=embed.stride).mT
            x = F.linear(take(patches, index), embed.weight.flatten(1), embed.bias)
            x = x + self.pos_embed[0, index]
        return self.norm(self.blocks(x))


class Predictor(nn.Module):
    def __init__(self, sizes: Sizes, best: bool):
        super().__init__()
        width = sizes.predictor_width
        self.predictor_embed = nn.Linear(sizes.width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        positions = torch.from_numpy(sincos_2d(width, *sizes.grid))[None]
        self.register_buffer("predictor_pos_embed", positions)
        self.predictor_blocks = nn.Sequential(
            *(Block(width, sizes.predictor_heads, 4.0, best) for _ in range(sizes.predictor_depth))
        )
        self.predictor_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.predictor_proj = nn.Linear(width, sizes.width)

    def forward(self, context: Tensor, index: Tensor, targets: Tensor) -> Tensor:
        """(B, M, P, D): each of the M blocks from a copy of the context of its own."""
        _, blocks, patches = targets.shape
        positions = self.predictor_pos_embed[0]
        seen = self.predictor_embed(context) + positions[index]
        asked = self.mask_token + positions[targets].flatten(0, 1)
        x = torch.cat([seen.repeat_interleave(blocks, dim=0), asked], dim=1)
        x = self.predictor_norm(self.predictor_blocks(x))
        return self.predictor_proj(x[:, -patches:]).unflatten(0, (-1, blocks))


def normalised(images: Tensor) -> Tensor:
    """uint8 -> float32; floats pass as they are."""
    return images if images.is_floating_point() else (images.float() - MEAN) / DEVIATION


def take(x: Tensor, index: Tensor) -> Tensor:
    """Of x (B, N, D) the patches `index` (B, K)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


class Trainer:
    """The three networks, and the step that trains them.

    Args:
      dtype: of the matrix products; bfloat16 by autocast.
      compiled: forward and backward pass by torch.compile.
    """

    def __init__(
        self,
        sizes: Sizes,
        *,
        best: bool = False,
        compiled: bool = False,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ):
        self.best, self.dtype, self.device = best, dtype, device
        self.encoder = Encoder(sizes, best).to(device)
        self.predictor = Predictor(sizes, best).to(device)
        self.target = copy.deepcopy(self.encoder).requires_grad_(False)
        named = [*self.encoder.named_parameters(), *self.predictor.named_parameters()]
        decayed = [p for name, p in named if p.ndim > 1]
        others = [p for name, p in named if p.ndim == 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed}, {"params": others}], betas=(0.9, 0.999), eps=1e-8, fused=best
        )
        self._loss = torch.compile(self.loss, dynamic=False) if compiled else self.loss

    def loss(self, batch: Batch) -> Tensor:
        images = normalised(batch.images)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            with torch.no_grad():
                features = self.target(images)
                features = F.layer_norm(features, features.shape[-1:])
                wanted = take(features, batch.targets.flatten(1))
            context = self.encoder(images, batch.context)
            found = self.predictor(context, batch.context, batch.targets)
        return F.smooth_l1_loss(found, wanted.view_as(found))

    def step(
        self, batch: Batch, learning_rate: float, weight_decay: float, momentum: float
    ) -> Tensor:
        """Forward, backward, AdamW, moving average; the loss."""
        for group, decay in zip(self.optimizer.param_groups, (weight_decay, 0.0), strict=True):
            group["lr"], group["weight_decay"] = learning_rate, decay
        loss = self._loss(batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.follow(momentum)
        return loss.detach()

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        targets, online = list(self.target.parameters()), list(self.encoder.parameters())
        if self.best:
            torch._foreach_lerp_(targets, online, 1 - momentum)
            return
        for target, parameter in zip(targets, online, strict=True):
            target.mul_(momentum).add_((1 - momentum) * parameter)
