# SPDX-License-Identifier: Apache-2.0
"""Where the TPU's compiler is installed and no TPU is there, JAX is not to look for one.

libtpu is installed on machines without a TPU too: `itx plan` compiles with it. JAX would start it
in every command, which takes seconds, prints errors, and fails while another process has it.
"""

import importlib.util
import os
from pathlib import Path

GOOGLE = "0x1ae0"  # the vendor of TPUs on the PCI bus
OTHERS = ("/proc/driver/nvidia", "/dev/kfd")  # there with NVIDIA's and AMD's drivers


def choose_cpu_beside_libtpu(pci: Path = Path("/sys/bus/pci/devices")) -> None:
    """Set JAX_PLATFORMS=cpu if libtpu is installed and no accelerator is seen. A value of the
    user's own stays."""
    if "JAX_PLATFORMS" in os.environ or importlib.util.find_spec("libtpu") is None:
        return
    if any(map(os.path.exists, OTHERS)) or os.path.exists("/dev/vfio/0"):
        return
    vendors = (f.read_text("ascii", "replace").strip() for f in pci.glob("*/vendor"))
    if GOOGLE not in vendors:
        os.environ["JAX_PLATFORMS"] = "cpu"
