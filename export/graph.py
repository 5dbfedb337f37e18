"""The network as it is deployed: bytes in, patch logits or labels out, at one fixed size."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch
from torch import Tensor, nn

from segfast.config import whole_patches
from segfast.kernels import reference
from segfast.model import Segmenter
from segfast.network.blocks import Block, LayerScale
from segfast.protocol import Size


class Deployed(nn.Module):
    """A Segmenter with its preprocessing, and on request its end, inside.

    Args:
        model: already at its size (`at_size`).
        output: `logits` [B, K, h, w], or `labels` [B, H, W].
        dtype: of weights and activations.
    """

    def __init__(self, model: Segmenter, output: str, dtype: torch.dtype):
        super().__init__()
        self.model = model.to(dtype)
        self.output, self.dtype = output, dtype
        protocol, K = model.config.protocol, model.config.num_classes
        # TensorRT has no uint16, hence int32 over 256 classes.
        self.label_dtype = torch.uint8 if K <= 256 else torch.int32
        self.mean: Tensor
        self.factor: Tensor
        # In bytes, and rounded last: the mean of ViTs, 127.5, is exact in half precision.
        self.register_buffer("mean", (255 * torch.tensor(protocol.mean, dtype=torch.float32)).view(3, 1, 1).to(dtype))
        self.register_buffer(
            "factor", (1 / (255 * torch.tensor(protocol.std, dtype=torch.float32))).view(3, 1, 1).to(dtype)
        )

    def forward(self, images: Tensor) -> Tensor:
        """[B, H, W, 3] uint8 RGB → logits or labels."""
        # Cast first: TensorRT refuses to transpose uint8. Subtract first: of the bytes around the
        # mean nothing is lost in half precision.
        x = images.to(self.dtype).permute(0, 3, 1, 2)  # [B, 3, H, W]
        normalised = (x - self.mean) * self.factor
        if self.output == "logits":
            return self.model.patch_logits(normalised)  # [B, K, h, w]
        return self.model(normalised).argmax(1).to(self.label_dtype)  # [B, H, W]


def at_size(model: Segmenter, size: Size) -> Segmenter:
    """A copy of a model for windows of `size` only: where patches lie is constant, attention plain.

    The plain attention is the pattern that inference compilers recognise and fuse.
    """
    config = model.config
    padded = whole_patches(size, config.patch)
    fixed = Segmenter(replace(config, image_size=padded, protocol=config.protocol.with_window(size)))
    state = dict(model.state_dict())
    if not config.rope:
        state["encoder.pos_embed"] = model.encoder.positions(*fixed.config.grid)
    fixed.load_state_dict(state)
    fixed.encoder.keep_rotations()
    return fixed.set_attention(reference.attention).eval()


@torch.no_grad()
def fold_layer_scale(model: Segmenter) -> None:
    """Multiply LayerScale into the Linears before it, in place: nothing is left of it to compute."""
    for block in model.modules():
        if isinstance(block, Block):
            block.ls1 = _folded(block.ls1, block.attn.proj)
            block.ls2 = _folded(block.ls2, block.mlp.fc2)


def _folded(scale: nn.Module, linear: nn.Linear) -> nn.Identity:
    """What is left of a LayerScale, whose factors the Linear takes."""
    if isinstance(scale, LayerScale):
        linear.weight.mul_(scale.gamma[:, None])
        linear.bias.mul_(scale.gamma)
    return nn.Identity()


def digest(model: Segmenter) -> str:
    """Hexadecimal SHA-256 of the weights, tensors in the order of their names."""
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        sha.update(name.encode())
        sha.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return sha.hexdigest()
