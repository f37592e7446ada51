"""The notebook of ddcs_ngd: the tests of `cases`."""

from tests.notebooks.cases import *  # noqa: F403

PAPER = "ddcs_ngd"
