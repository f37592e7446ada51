"""A small face classifier trained from scratch in plain PyTorch, as the owner of a model would have one.

    python examples/train_small_classifier.py my_example
    python -m mi_utils audit my_example/CONFIG.yaml

writes into my_example/ the weights (model.safetensors), the same network as an exported program (model.pt2), image
folders (private/, holdout/ by person; auxiliary/ of other people) and two CONFIG files.  The faces are drawn, nobody's:
`mi_utils` is used to draw them and for nothing else.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from mi_utils.data import Faces

SIDE = 32  # px
MEAN = STD = [0.5, 0.5, 0.5]
NAMES = ("Ada", "Ben", "Cleo", "Dara", "Emil", "Fay", "Gus", "Hana", "Ivo", "Jun")


def write_folder(images: Tensor, labels: Tensor, names: list[str], folder: Path) -> None:
    """PNG files folder/<name>/<number>.png of uint8 images (N, 3, H, W)."""
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        place = folder / names[label] / f"{number:05d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(place)


def varied(images: Tensor) -> Tensor:
    """uint8 images mirrored and shifted by up to 3 px at random, normalised as the network reads them."""
    x = (images.float() / 255 - 0.5) / 0.5
    mirrored = torch.rand(len(x), 1, 1, 1) < 0.5
    x = torch.where(mirrored, x.flip(3), x)
    top, left = torch.randint(7, (2,)).tolist()
    return F.pad(x, (3, 3, 3, 3), mode="replicate")[:, :, top : top + SIDE, left : left + SIDE]


def train(images: Tensor, labels: Tensor, classes: int, steps: int) -> nn.Module:
    """A small ShuffleNet by SGD with a one-cycle rate."""
    net = models.shufflenet_v2_x0_5(num_classes=classes)
    sgd = torch.optim.SGD(net.parameters(), 0.02, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(sgd, 0.1, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(images), (64,))
        loss = F.cross_entropy(net(varied(images[rows])), labels[rows])
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        schedule.step()
    return net.eval()


@torch.no_grad()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share named right."""
    said = torch.cat([net((part.float() / 255 - 0.5) / 0.5).argmax(1) for part in images.split(256)])
    return float((said == labels).double().mean())


def export_program(net: nn.Module, path: Path) -> None:
    """The network as an exported program for batches of any size."""
    batch = torch.export.Dim("batch", min=1, max=4096)
    example = (torch.zeros(2, 3, SIDE, SIDE),)
    torch.export.save(torch.export.export(net, example, dynamic_shapes=({0: batch},)), path)


def write_config(folder: Path, name: str, model: dict, names: list[str], minutes: float) -> None:
    """The CONFIG file of an audit."""
    fields = {
        "name": name.lower(),
        "model": model,
        "classes": names,
        "preprocessing": {"size": SIDE, "channels": 3, "mean": MEAN, "std": STD},
        "auxiliary": "auxiliary",
        "private": "private",
        "holdout": "holdout",
        "minutes": minutes,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(fields, sort_keys=False))


def main() -> None:
    """Draw the faces, train, write everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--people", type=int, default=10, choices=range(2, len(NAMES) + 1), metavar="2..10")
    parser.add_argument("--images", type=int, default=40, help="private images a person")
    parser.add_argument("--others", type=int, default=800, help="other people in the auxiliary folder")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--minutes", type=float, default=4.0, help="time budget that is written to the CONFIG files")
    parser.add_argument("--no-program", action="store_true", help="without the exported program")
    given = parser.parse_args()
    torch.manual_seed(0)
    names = list(NAMES[: given.people])
    people = dict(identities=given.people, per_identity=given.images, size=SIDE)
    private, holdout = Faces(**people).load(), Faces(**people, split="test").load()
    others = Faces(identities=given.others, first=1000, per_identity=2, size=SIDE).load()
    write_folder(private.images, private.labels, names, given.folder / "private")
    write_folder(holdout.images, holdout.labels, names, given.folder / "holdout")
    write_folder(others.images, others.labels // 100, [f"{i:03d}" for i in range(100)], given.folder / "auxiliary")
    net = train(private.images, private.labels, given.people, given.steps)
    for title, data in (("private", private), ("held-out", holdout)):
        print(f"{title} images named right: {accuracy(net, data.images, data.labels):.1%}")
    save_file(net.state_dict(), given.folder / "model.safetensors")
    arch = {"arch": "shufflenet_v2_x0_5", "weights": "model.safetensors"}
    write_config(given.folder, "CONFIG", arch, names, given.minutes)
    if not given.no_program:
        export_program(net, given.folder / "model.pt2")
        write_config(given.folder, "CONFIG-program", {"program": "model.pt2", "trusted": True}, names, given.minutes)


if __name__ == "__main__":
    main()
