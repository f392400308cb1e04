# SPDX-License-Identifier: Apache-2.0
"""Before any import of JAX: eight virtual CPU devices, nothing remote, strict dtypes."""

import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["EPATH_USE_TF"] = "false"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import pytest

REPO = Path(__file__).resolve().parent.parent
SHARED = REPO.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real public data; a test that needs it is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("../shared/data is absent")
    return SHARED
