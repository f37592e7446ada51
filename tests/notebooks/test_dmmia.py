"""The notebook of dmmia: the tests of `cases`."""

from tests.notebooks.cases import *  # noqa: F403

PAPER = "dmmia"
