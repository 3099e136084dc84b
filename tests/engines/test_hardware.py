import pytest
import torch

from windvane.engines import hardware
from windvane.errors import ConfigError


def test_auto_takes_float32_on_a_cpu_without_amx_and_bfloat16_with_it(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(hardware, "_cpu_has_amx", lambda: False)
    assert hardware.pick_dtype("auto", cpu) == torch.float32
    monkeypatch.setattr(hardware, "_cpu_has_amx", lambda: True)
    assert hardware.pick_dtype("auto", cpu) == torch.bfloat16


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16)])
def test_auto_takes_bfloat16_on_cuda_from_ampere_on(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert hardware.pick_dtype("auto", torch.device("cuda")) == expected


def test_a_device_that_is_not_there_is_named_with_those_that_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"'cuda'.*no such device.*Usable: .*cpu"):
        hardware.pick_device("cuda")


def test_auto_prefers_an_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert hardware.pick_device("auto").type == "cuda"


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ConfigError, match=r"'tpu'.*auto, cpu, cuda, mps"):
        hardware.pick_device("tpu")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"'int4'.*float32"):
        hardware.pick_dtype("int4", torch.device("cpu"))  # type: ignore[arg-type]


def test_float16_on_a_cpu_is_refused():
    with pytest.raises(ConfigError, match=r"float16.*float32 or bfloat16"):
        hardware.pick_dtype("float16", torch.device("cpu"))


def test_the_description_agrees_with_what_auto_picks():
    found = hardware.describe_hardware()
    device = hardware.pick_device("auto")
    assert found.device == device.type
    assert found.dtype == str(hardware.pick_dtype("auto", device)).removeprefix("torch.")
    assert found.cpu_cores >= 1
    assert found.threads >= 1
