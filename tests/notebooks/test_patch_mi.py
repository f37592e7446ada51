"""The notebook of patch_mi: the tests of `cases`."""

from tests.notebooks.cases import *  # noqa: F403

PAPER = "patch_mi"
