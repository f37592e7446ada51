"""The attacked classifier as the attacks see it: a network and a shape, never its training images."""

from typing import Literal

from mi_utils.audit.attack import Attacked
from mi_utils.data.images import Catalogue, Source


class Withheld(Source):
    """Images that exist and that no attack may read: what the classifier was trained on."""

    kind: Literal["withheld"] = "withheld"

    def open(self) -> Catalogue:
        """Never: an attack that asks for them is wrong."""
        raise AssertionError("an attack asked for the private images")


class Victim(Attacked):
    """`Attacked` for every attack of the project: where an attack asks what its target learnt, nothing is told."""

    @property
    def train(self) -> Withheld:
        """The private images."""
        return Withheld()

    @property
    def test(self) -> Withheld:
        """Further private images."""
        return Withheld()

    @property
    def label(self) -> str:
        """Short description for people."""
        return self.classifier.arch
