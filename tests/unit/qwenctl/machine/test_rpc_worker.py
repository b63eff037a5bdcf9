"""What a worker serves and what it says about that; nothing is started."""

from __future__ import annotations

import pytest

from qwenctl.errors import QwenctlError
from qwenctl.machine.devices import GgmlDevice
from qwenctl.machine.rpc_worker import RpcEndpoint, connection_instructions, select_devices
from tests.support.example_machine import CPU_DEVICE, GPU_DEVICE, SHARED_GPU

ALL = (CPU_DEVICE, GPU_DEVICE, SHARED_GPU)


@pytest.mark.parametrize(
    ("requested", "devices", "names"),
    [
        ((), ALL, ["CUDA0", "Vulkan0"]),
        ((), (CPU_DEVICE,), ["CPU"]),
        (("Vulkan0", "CPU"), ALL, ["CPU", "Vulkan0"]),
    ],
)
def test_devices_are_those_requested_or_all_gpus_or_the_cpu(
    requested: tuple[str, ...], devices: tuple[GgmlDevice, ...], names: list[str]
) -> None:
    assert [device.name for device in select_devices(requested, devices)] == names


def test_unknown_device_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(QwenctlError, match="no device is named 'CUDA1'") as caught:
        select_devices(["CUDA0", "CUDA1"], ALL)
    assert caught.value.hint == "available: CPU, CUDA0, Vulkan0"
    with pytest.raises(QwenctlError) as caught:
        select_devices(["CUDA0"], ())
    assert caught.value.hint == "available: none"


@pytest.mark.parametrize(("address", "is_local"), [("127.0.0.1", True), ("127.1.2.3", True), ("192.168.0.2", False)])
def test_endpoint_is_local_by_its_address(address: str, is_local: bool) -> None:
    endpoint = RpcEndpoint(address, 50_052, 8, ("CUDA0",))
    assert (endpoint.is_local, endpoint.host_port) == (is_local, f"{address}:50052")


def test_local_worker_tells_the_tunnel_and_an_open_one_warns() -> None:
    local = connection_instructions(RpcEndpoint("127.0.0.1", 50_052, 8, ()))
    assert any("ssh -N -L 50052:127.0.0.1:50052" in line for line in local)
    assert local[-1].strip() == "qwenctl chat -m MODEL --rpc 127.0.0.1:50052"
    [warning] = connection_instructions(RpcEndpoint("192.168.0.2", 50_052, 8, ()))
    assert warning.startswith("WARNING: ")
