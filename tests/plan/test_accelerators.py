# SPDX-License-Identifier: Apache-2.0
"""Beside the TPU's compiler JAX looks for a TPU only where there may be one."""

import os

import pytest

from itx import accelerators, cli

pytest.importorskip("libtpu", reason="libtpu, the compiler of TPUs, is not installed")

GVNIC = ("0x1ae0", "0x0042")  # the network card of Google's virtual machines
INTEL = ("0x8086", "0x0063")  # another vendor's device with a TPU's number


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with these devices on its PCI bus and these files of drivers."""

    def made(*found: tuple[str, str], drivers=()):
        for i, (vendor, number) in enumerate(found):
            device = tmp_path / f"0000:00:0{i}.0"
            device.mkdir()
            (device / "vendor").write_text(vendor + "\n")
            (device / "device").write_text(number + "\n")
        exists = os.path.exists
        own = (*accelerators.OTHERS, "/dev/vfio/0")
        monkeypatch.setattr(os.path, "exists", lambda p: p in drivers if p in own else exists(p))
        monkeypatch.delenv("JAX_PLATFORMS")
        return tmp_path

    return made


@pytest.mark.parametrize(
    ("found", "drivers", "chosen"),
    [
        ([GVNIC, ("0x1ae0", "0x0063")], (), None),
        ([GVNIC, INTEL], (), "cpu"),
        ([], (), "cpu"),
        ([], ("/dev/dxg",), None),
        ([INTEL], ("/dev/nvidiactl",), None),
    ],
)
def test_jax_looks_for_a_tpu_only_where_one_is(machine, found, drivers, chosen):
    """WSL2 shows its GPU as /dev/dxg alone."""
    pci = machine(*found, drivers=drivers)
    assert accelerators.choose_cpu_beside_libtpu(pci) is (chosen == "cpu")
    assert os.environ.get("JAX_PLATFORMS") == chosen


def test_tpus_are_those_that_jax_knows():
    known = pytest.importorskip("jax._src.hardware_utils")
    assert frozenset(known._TPU_PCI_DEVICE_IDS) == accelerators.TPUS


@pytest.mark.parametrize(("words", "lines"), [(["train"], 1), (["recipes"], 0)])
def test_that_the_cpu_was_chosen_is_said_where_something_is_computed(
    machine, monkeypatch, capsys, words, lines
):
    machine()
    monkeypatch.setattr(accelerators, "choose_cpu_beside_libtpu", lambda: True)
    monkeypatch.setattr(cli, "_run", lambda words: 0)
    cli.main(words)
    out = capsys.readouterr()
    assert (out.out, out.err.count("JAX_PLATFORMS=cpu")) == ("", lines)
