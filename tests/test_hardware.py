import torch

from diffexp.hardware import precision_for


def test_auto_is_the_same_without_the_list_of_capabilities(monkeypatch):
    """torch 2.9 has none; what Linux says of the CPU is the same for all."""
    with open("/proc/cpuinfo") as file:
        flags = set(file.read().split())
    expected = "bf16-mixed" if {"avx512_bf16", "amx_bf16"} & flags else "32-true"
    assert precision_for("auto", torch.device("cpu")) == expected
    monkeypatch.delattr("torch.cpu.get_capabilities", raising=False)
    assert precision_for("auto", torch.device("cpu")) == expected
