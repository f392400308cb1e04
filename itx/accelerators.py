# SPDX-License-Identifier: Apache-2.0
"""Where the TPU's compiler is installed and no TPU is there, JAX is not to look for one.

libtpu is installed on machines without a TPU too: `itx plan` compiles with it. JAX would start it
in every command, which takes seconds, prints errors, and fails while another process has it.
"""

import importlib.util
import os
from pathlib import Path

GOOGLE = "0x1ae0"  # a vendor on the PCI bus, of TPUs and of virtual network cards and disks too
# TPUs among Google's devices, from v2 and v3 (one number) to TPU8, as JAX knows them
TPUS = frozenset(
    ("0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076", "0x0083", "0x007c")
)
# There with NVIDIA's driver, AMD's, and in WSL2 with either
OTHERS = ("/proc/driver/nvidia", "/dev/nvidia0", "/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
CHOSEN = (
    "JAX_PLATFORMS=cpu: no TPU or GPU is seen on this machine, so the CPU computes; set "
    "JAX_PLATFORMS yourself if it has one"
)


def choose_cpu_beside_libtpu(pci: Path = Path("/sys/bus/pci/devices")) -> bool:
    """Set JAX_PLATFORMS=cpu if libtpu is installed and no accelerator is seen, and say whether it
    was. A value of the user's own stays."""
    if "JAX_PLATFORMS" in os.environ or importlib.util.find_spec("libtpu") is None:
        return False
    if any(map(os.path.exists, OTHERS)) or os.path.exists("/dev/vfio/0"):
        return False
    if any(_is_tpu(device) for device in pci.glob("*")):
        return False
    os.environ["JAX_PLATFORMS"] = "cpu"
    return True


def _is_tpu(device: Path) -> bool:
    vendor, number = (
        (device / name).read_text("ascii", "replace").strip() for name in ("vendor", "device")
    )
    return vendor == GOOGLE and number in TPUS
