"""What this machine has, and how fast it is.

`memory`, `cpu` and `disks` query the system; `devices` queries ggml through the child process `device_probe`;
`bandwidth_cache` measures through the child process `bandwidth_probe` and caches the results; `inspect` combines them,
and converts them to a `profile` for a plan. `rpc_worker` serves devices through the child process `rpc_server`. `ggml`
is only for the child processes.
"""

from qwenctl.machine.devices import GgmlDevice, MachineMemory, read_devices, read_machine_memory
from qwenctl.machine.disks import free_disk
from qwenctl.machine.memory import Memory, read_memory

__all__ = ["GgmlDevice", "MachineMemory", "Memory", "free_disk", "read_devices", "read_machine_memory", "read_memory"]
