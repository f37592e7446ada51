"""The Inception network of the Fréchet Inception Distance (FID), when its weights are on disk.

The network is pytorch_fid's: torchvision's Inception v3 with the pooling of TensorFlow's, 1,008 outputs.  Only with
this file's weights may a distance be called FID.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import inception_v3

from mi_utils.errors import UserError
from mi_utils.models import weights

FILE = "pt_inception-2015-12-05-6726825d.pth"
SIDE = 299


class Inception(nn.Module):
    """Images (n,3,h,w) in [-1,1] of any size to the (n,2048) features of the last pooling."""

    name = "FID Inception"

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 2048"]:
        """As pytorch_fid: bilinear to 299 px without antialiasing; its [0,1] input becomes [-1,1] again there."""
        return self.network(F.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False))


def architecture() -> nn.Module:
    """pytorch_fid's classifier without weights, on the meta device; its own constructor would download them."""
    from pytorch_fid.inception import FIDInceptionA, FIDInceptionC, FIDInceptionE_1, FIDInceptionE_2

    with torch.device("meta"):
        network = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
        network.Mixed_5b = FIDInceptionA(192, pool_features=32)
        network.Mixed_5c = FIDInceptionA(256, pool_features=64)
        network.Mixed_5d = FIDInceptionA(288, pool_features=64)
        network.Mixed_6b = FIDInceptionC(768, channels_7x7=128)
        network.Mixed_6c = FIDInceptionC(768, channels_7x7=160)
        network.Mixed_6d = FIDInceptionC(768, channels_7x7=160)
        network.Mixed_6e = FIDInceptionC(768, channels_7x7=192)
        network.Mixed_7b = FIDInceptionE_1(1280)
        network.Mixed_7c = FIDInceptionE_2(2048)
    return network


def available() -> str:
    """Why the network cannot be loaded; empty where it can."""
    return "" if weights.find(FILE) else weights.missing(FILE)


def load() -> Inception:
    """The network, frozen, in eval mode, on the CPU; UserError where its weights are absent or not the right ones."""
    path = weights.find(FILE)
    if path is None:
        raise UserError(f"FID: {weights.missing(FILE)}; put pytorch-fid's file into one of them")
    network = architecture()
    weights.put(weights.read(path), network, path, "FID Inception")
    network.fc = nn.Identity()
    return Inception(network).to(memory_format=torch.channels_last).eval().requires_grad_(False)
