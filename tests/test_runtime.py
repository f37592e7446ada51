"""Devices by name, random streams by words, and a process left as it was found."""

import pytest
import torch

from mi_utils import runtime
from mi_utils.errors import UserError

HAS_GPU = torch.cuda.is_available()


def test_named_devices() -> None:
    assert runtime.device("cpu") == torch.device("cpu")
    assert runtime.device(torch.device("cpu")) == torch.device("cpu")
    assert runtime.device("auto").type == ("cuda" if HAS_GPU else "cpu")


@pytest.mark.parametrize("name", ["gpu", "cpu:0", "cuda:x", "cuda:-1", "", "mps", "cuda:0:1"])
def test_unknown_device_is_one_line(name: str) -> None:
    with pytest.raises(UserError, match=r"^device: expected auto, cpu, cuda or cuda:<number>"):
        runtime.device(name)


@pytest.mark.parametrize("name", ["cuda:99", *([] if HAS_GPU else ["cuda", "cuda:0"])])
def test_missing_gpu_names_the_remedy(name: str) -> None:
    with pytest.raises(UserError, match="use 'cpu' or 'auto'"):
        runtime.device(name)


def test_generator_is_the_same_everywhere() -> None:
    # SHA-256 of '["latents", 3]', first 8 bytes, big endian, halved: fixed for ever.
    assert runtime.seed("latents", 3) == 0x799AE40430AC1087
    draws = [torch.randn(4, generator=runtime.generator("latents", 3)) for _ in range(2)]
    assert torch.equal(*draws)


def test_generator_tells_words_apart() -> None:
    seeds = {runtime.seed(*w) for w in [("a", 1), ("a", "1"), ("a1",), (1, "a"), ("a", 1, 0), ("a",), (1,)]}
    assert len(seeds) == 7


@pytest.mark.parametrize("words", [(), (1.0,), (True,), (None,), (("a",),)])
def test_generator_refuses_other_words(words: tuple) -> None:
    with pytest.raises(UserError, match="generator: expected"):
        runtime.generator(*words)


def test_isolated_restores_threads_and_default_stream() -> None:
    torch.set_num_threads(2)
    try:
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        with runtime.isolated(torch.device("cpu"), "stage", 1):
            assert torch.get_num_threads() == 1
            first = torch.rand(3)
        assert torch.get_num_threads() == 2
        assert torch.equal(torch.rand(3), expected)
        with runtime.isolated(torch.device("cpu"), "stage", 1):
            assert torch.equal(torch.rand(3), first)
        with runtime.isolated(torch.device("cpu"), "stage", 2):
            assert not torch.equal(torch.rand(3), first)
    finally:
        torch.set_num_threads(1)


def test_describe_says_what_made_a_number() -> None:
    said = runtime.describe("cpu")
    assert said["device"] == "cpu" and said["torch"] == torch.__version__
    assert said["commit"] == runtime.commit() != ""
