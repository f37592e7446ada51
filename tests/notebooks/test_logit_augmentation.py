"""The notebook of logit_augmentation: the tests of `cases`."""

from tests.notebooks.cases import *  # noqa: F403

PAPER = "logit_augmentation"
