"""StyleGAN2 priors of the attacks that search styles: trained here, or read from a file of the user's."""

import hashlib
from pathlib import Path
from typing import Annotated

import torch
from jaxtyping import UInt8
from pydantic import Field
from torch import Tensor

from mi_utils.data import AnySource
from mi_utils.data.images import data_root, to_uint8
from mi_utils.errors import UserError
from mi_utils.models import stylegan2_files
from mi_utils.models.stylegan2 import Generator
from mi_utils.stage import Job, Output, Stage
from mi_utils.training.stylegan2 import ContinuedStyleGAN2, TrainStyleGAN2
from mi_utils.training.transfer import TransferStyleGAN2


class FileStyleGAN2(Stage):
    """A generator from a `.pkl`, `.pt` or `.safetensors` file in the data folder, of which nothing is executed.

    `public`: the images that it was trained on, where they are at hand, so that private ones among them are found;
    None: whoever names the file vouches for them.
    """

    path: Path
    size: Annotated[int, Field(ge=8)]  # px; a file of another resolution is refused
    public: AnySource | None = None

    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        path = data_root() / self.path
        if not path.is_file():
            raise UserError(f"{path}: expected a StyleGAN2 generator of {self.size} px, found no file; put it there")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def compute(self, job: Job) -> Output:
        """Read and check it; tensors under the names of the official code."""
        net = stylegan2_files.read(data_root() / self.path, self.size)
        channels = getattr(net.synthesis, f"b{net.size}").torgb.weight.shape[0]
        return Output(dict(net.state_dict()), {"channels": channels, "size": net.size})

    def facts(self) -> dict:
        """Channels and side of the images, read from the store."""
        return self.result().meta

    def sources(self) -> tuple[AnySource, ...]:
        """All images that it is known to have learnt from."""
        return () if self.public is None else (self.public,)

    def generator(self, device: torch.device | str) -> Generator:
        """The generator, frozen and in eval mode."""
        stored = self.result(device).tensors
        net = stylegan2_files.blank(stored)
        net.load_state_dict(stored)
        return net.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)

    def samples(
        self, count: int, rng: torch.Generator, device: torch.device | str, psi: float = 1.0
    ) -> UInt8[Tensor, "n c s s"]:
        """Images of `count` latents drawn from the law of training, with the stored noise."""
        g = self.generator(device)
        z = torch.randn((count, g.z_dim), generator=rng, device=rng.device).to(device)
        with torch.no_grad():
            return torch.cat([to_uint8(g(part, psi)) for part in z.split(64)])


StylePrior = TransferStyleGAN2 | ContinuedStyleGAN2 | TrainStyleGAN2 | FileStyleGAN2
