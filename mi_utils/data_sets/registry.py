"""Every real data set: where to get it, under which terms, how it must lie under MI_DATA, and which profiles read it.

docs/data.md is made from this (`python -m mi_utils.data_sets.page`), and a test holds it against the studies' sources.
"""

from dataclasses import dataclass
from typing import Literal

from mi_utils.data.images import KNOWN

Kind = Literal["file", "images", "classes", "parquet", "list"]


@dataclass(frozen=True)
class Need:
    """Something that must lie at `path`, relative to the data root.

    file: one file.  images: a folder with at least `least` files.  classes: a folder with at least `least` subfolders,
    none of them empty.  parquet: at least `least` files that match.  list: a text file of image names in the folder
    `of`, all of which are there.
    """

    path: str
    kind: Kind = "file"
    least: int = 1
    of: str = ""


@dataclass(frozen=True)
class DataSet:
    """A data set of a user's.  profiles: (paper, profile) that read it.  hint: what to do after unpacking."""

    name: str
    title: str
    source: str
    licence: str
    needs: tuple[Need, ...]
    profiles: tuple[tuple[str, str], ...]
    hint: str = ""


def _published(name: str, *splits: str) -> tuple[Need, ...]:
    """The files of a data set's splits as torchvision lays it out; of both for none."""
    known = KNOWN[name]
    files = [file for split in splits or ("train", "test") for file in getattr(known, split)]
    return tuple(Need(f"{known.folder}/{file}") for file in dict.fromkeys(files))


def _split(folder: str, classes: int) -> tuple[Need, ...]:
    """`train` and `test` with a folder per class."""
    return tuple(Need(f"{folder}/{split}", "classes", classes) for split in ("train", "test"))


NVIDIA = "Nvidia Source Code License (StyleGAN2-ADA), non-commercial use"
GENERATORS = "the StyleGAN2-ADA page of NVIDIA Research (NVlabs/stylegan2-ada-pytorch), pretrained networks"
SPLIT = "cut the faces or images, and deal each class's files to train/<class>/ and test/<class>/"

DATA_SETS = (
    DataSet(
        "mnist", "MNIST", "the MNIST database page of LeCun, Cortes and Burges, or torchvision's mirrors of it",
        "CC BY-SA 3.0 as usually stated",
        _published("MNIST"),
        (("patch_mi", "gpu"), ("patch_mi", "paper"), ("logit_augmentation", "gpu")),
    ),
    DataSet(
        "emnist", "EMNIST letters", "NIST's EMNIST page (the binary files, unpacked)", "work of the US government",
        _published("EMNIST-letters"), (("patch_mi", "paper"),),
    ),
    DataSet(
        "cifar10-parquet", "CIFAR-10, Parquet", "the Hugging Face Hub, data set uoft-cs/cifar10", "none stated",
        tuple(Need(f"cifar10/plain_text/{split}-*.parquet", "parquet") for split in ("train", "test")),
        (("patch_mi", "gpu"), ("logit_augmentation", "gpu"), ("dmmia", "gpu")),
    ),
    DataSet(
        "cifar10", "CIFAR-10, Python version", "the CIFAR page of the University of Toronto", "none stated",
        _published("CIFAR10"), (("patch_mi", "paper"),),
    ),
    DataSet(
        "cifar100", "CIFAR-100, Python version", "the CIFAR page of the University of Toronto", "none stated",
        _published("CIFAR100", "train"), (("patch_mi", "paper"),),
    ),
    DataSet(
        "seri95", "SERI95, test part", "the HangulDB repository of Handong Global University (callee2006/HangulDB)",
        "opened to the public with ETRI's consent; no licence stated",
        (Need("SERI95/test", "classes", 520),), (("patch_mi", "paper"),),
        "convert the .hgu1 files to image files, one subfolder a syllable",
    ),
    DataSet(
        "celeba", "CelebA, aligned", "the CelebA page of the Multimedia Laboratory, CUHK",
        "non-commercial research only",
        (
            Need("celeba/img_align_celeba", "images", 202_599),
            *(Need(f"celeba/{name}.txt", "list", of="celeba/img_align_celeba")
              for name in ("private_train", "private_test", "public")),
        ),
        (("logit_augmentation", "paper"),),
        "the three lists are the paper's, or made with mi_utils.data.listed.write_splits and renamed",
    ),
    DataSet(
        "celeba-identities", "CelebA, 1,000 identities", "the CelebA page of the Multimedia Laboratory, CUHK",
        "non-commercial research only", _split("celeba_identities", 1000), (("dmmia", "paper"),), SPLIT,
    ),
    DataSet(
        "facescrub", "FaceScrub", "the FaceScrub page of its authors (Ng and Winkler); it holds addresses of images",
        "research only, as its page says; the images are their owners'",
        _split("facescrub", 530), (("dmmia", "paper"),), SPLIT,
    ),
    DataSet(
        "stanford-dogs", "Stanford Dogs", "the Stanford Dogs page of Stanford Vision Lab",
        "images of ImageNet: non-commercial research and education",
        _split("stanford_dogs", 120), (("dmmia", "paper"), ("ddcs_ngd", "paper")),
        "deal the files by the lists train_list.mat and test_list.mat",
    ),
    DataSet(
        "umdfaces", "UMDFaces", "the UMDFaces page of the University of Maryland (ask its authors where it is down)",
        "non-commercial research only", _split("umdfaces", 200), (("ddcs_ngd", "paper"),), SPLIT,
    ),
    DataSet(
        "ffhq-128", "FFHQ, 128 px", "the FFHQ page of NVIDIA Research (NVlabs/ffhq-dataset), thumbnails128x128",
        "CC BY-NC-SA 4.0 as a whole; every image has its own licence, listed in its metadata",
        (Need("ffhq/thumbnails128x128", "images", 30_000),
         Need("ffhq/public.txt", "list", of="ffhq/thumbnails128x128")),
        (("logit_augmentation", "paper"), ("dmmia", "paper")),
        "public.txt: one file name a line",
    ),
    DataSet(
        "ffhq-256", "FFHQ, 256 px", "the FFHQ page of NVIDIA Research (NVlabs/ffhq-dataset), images1024x1024 reduced",
        "CC BY-NC-SA 4.0 as a whole; every image has its own licence, listed in its metadata",
        (Need("ffhq/thumbnails256x256", "images", 30_000),
         *(Need(f"ffhq/{name}.txt", "list", of="ffhq/thumbnails256x256")
           for name in ("public", "reject", "auxiliary", "validation"))),
        (("ddcs_ngd", "paper"),),
        "the lists share no file; one file name a line",
    ),
    DataSet(
        "stylegan2-ffhq", "StyleGAN2 of FFHQ, 1024 px", GENERATORS, NVIDIA, (Need("stylegan2/ffhq.pkl"),),
        (("dmmia", "paper"),),
    ),
    DataSet(
        "stylegan2-metfaces", "StyleGAN2 of MetFaces, 1024 px", GENERATORS, f"{NVIDIA}; MetFaces: CC BY-NC 2.0",
        (Need("stylegan2/metfaces.pkl"),), (("dmmia", "paper"),),
    ),
    DataSet(
        "stylegan2-afhq-dog", "StyleGAN2 of AFHQ dogs, 512 px", GENERATORS, f"{NVIDIA}; AFHQ: CC BY-NC 4.0",
        (Need("stylegan2/afhqdog.pkl"),), (("dmmia", "paper"),),
    ),
)  # fmt: skip
