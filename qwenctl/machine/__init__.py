"""What this machine has, and how fast it is.

`memory`, `cpu` and `disks` ask the system, `devices` asks ggml by way of the child process `device_list`, `speeds`
measures by way of the child process `speed_probe` and keeps what it found, `survey` brings all together for a plan.
`ggml` is only for the child processes.
"""

from qwenctl.machine.devices import GgmlDevice, MachineMemory, read_devices, read_machine_memory
from qwenctl.machine.disks import free_disk
from qwenctl.machine.memory import Memory, read_memory

__all__ = ["GgmlDevice", "MachineMemory", "Memory", "free_disk", "read_devices", "read_machine_memory", "read_memory"]
