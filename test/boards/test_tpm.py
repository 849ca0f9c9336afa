"""A board with a TPM: the PIN is sealed to the boot that the firmware measured, is there at the next power-on without a PIN file, and is
not there for another kernel image, nor once something was measured that is not part of the boot. (64-bit ARM: Debian's kernel has no driver
for the TPMs that QEMU's virt machine can have; test/tpm runs there by qemu-user.)"""

import shutil
import subprocess
import time

import pytest

from conftest import GUEST_TPM_BOARDS
from machine import Guest
from test_update import make_slot

pytestmark = pytest.mark.skipif(not shutil.which("swtpm"), reason="needs swtpm")

# TPM2_PCR_Extend of PCR 7, for the device that takes commands as they are
EXTEND = ("80020000004100000182" "00000007" "00000009" "400000090000000000" "00000001000b" + 32 * "5a")


def run(guest, command, done):
    """A line of the console's shell, until it says so (the echo of what is typed does not)."""
    guest.type(f"{command}; echo '{done[:2]}''{done[2:]}'")
    guest.wait_for(done)


def wait_cause(guest, cause):
    """On a machine that is busy the TPM may not have answered in time at first: unreachable, and asked again."""
    end = time.monotonic() + 300
    while True:
        status = guest.wait_state("INACCESSIBLE", 300)
        if status["cause"] == cause:
            return status
        assert status["cause"] == "unreachable" and time.monotonic() < end, status
        time.sleep(0.5)


def restart_agent(guest):
    """A line of the log that was not there before."""
    guest.text = ""
    guest.type("fallgate stop")
    guest.wait_for(r"fallgated[^\n]*: fallgated [0-9.]+: 1 volumes", 120)


def seal(guest):
    run(guest, "sed -i -e 's|^state_dir|tpm = /dev/tpmrm0\\n&|' -e 's|file:/state/etc/pins/main|tpm:|' /state/etc/fallgate.conf", "TPM-CONFIGURED")
    restart_agent(guest)
    guest.type("fallgate seal-pin main --pin-file /state/etc/pins/main && mv /state/etc/pins/main /state/kept && sync && echo 'PIN-''SEALED'")
    guest.wait_for("PIN-SEALED")


@pytest.mark.parametrize("board", GUEST_TPM_BOARDS)
def test_the_pin_is_there_in_the_boot_that_it_was_sealed_in(board, tmp_path, build):
    uefi = "uefi" in board
    guest = Guest(board, tmp_path / "vm", build, tpm=True, reboots=uefi)
    try:
        guest.boot()
        guest.enrolled()
        guest.wait_state("AVAILABLE", 300)
        if uefi:
            guest.wait_for(r"healthy: fallgate_[0-9.]+\.efi is good", 300)
        seal(guest)
        guest.wait_state("AVAILABLE")
        posture = guest.cli("posture").stdout
        assert "TPM 2.0" in posture and "sealed to the boot state" in posture
        if uefi:  # firmware and stub have measured it
            assert '"good":true,"what":"TPM 2.0' in posture and "still zero" not in posture, posture
        guest.power_off()

        guest.boot()
        guest.wait_state("AVAILABLE", 300)
        # something is measured that is not part of this boot
        run(guest, "printf '" + "".join(f"\\x{EXTEND[i:i + 2]}" for i in range(0, len(EXTEND), 2)) + "' >/dev/tpm0", "PCR-EXTENDED")
        restart_agent(guest)
        status = wait_cause(guest, "access-revoked")
        assert "boot state" in status["text"], status
        guest.cut_power()

        # where nobody has a shell: the PIN waits on the state partition, and the next start has it sealed
        guest.boot()
        guest.wait_state("AVAILABLE", 300)
        run(guest, "cp /state/kept /state/etc/pins/main.seal; rm /state/agent/keks/main.sealed; sync", "PIN-WAITS")
        guest.power_off()
        guest.boot()
        guest.wait_for("sealed to this boot state", 300)
        guest.wait_state("AVAILABLE", 300)
        run(guest, "ls /state/etc/pins", "PINS-LISTED")
        assert "main.seal" not in guest.text.rpartition("ls /state/etc/pins")[2]
        if not uefi:
            return
        guest.power_off()
        # another image is another boot state, until the PIN is sealed again
        make_slot(guest, "0.1.1", tmp_path / "next.efi")
        guest.boot()
        guest.wait_for(r"healthy: fallgate_0\.1\.1\.efi is good", 400)
        status = wait_cause(guest, "access-revoked")
        assert "boot state" in status["text"], status
        guest.type("fallgate seal-pin main --pin-file /state/kept && echo 'PIN-''AGAIN'")
        guest.wait_for("PIN-AGAIN")
        guest.wait_state("AVAILABLE")
        guest.power_off()
    finally:
        guest.close()


def test_an_older_data_disk_is_refused(tmp_path, build):
    guest = Guest("qemu_x86_64", tmp_path / "vm", build, tpm=True)
    old = tmp_path / "old.img"
    try:
        guest.boot()
        guest.enrolled()
        guest.wait_state("AVAILABLE", 300)
        run(guest, "sed -i 's|^state_dir|tpm = /dev/tpmrm0\\n&|' /state/etc/fallgate.conf; "
                   "echo 'anti_rollback = tpm' >>/state/etc/volumes.d/data.conf; sync", "COUNTER-CONFIGURED")
        restart_agent(guest)
        guest.wait_state("AVAILABLE")
        guest.power_off()
        subprocess.run(["cp", "--sparse=always", guest.machine.data, old], check=True)
        guest.boot()
        guest.wait_state("AVAILABLE", 300)
        guest.cut_power()
        guest.boot()  # a cut is no rollback
        guest.wait_state("AVAILABLE", 300)
        guest.power_off()
        subprocess.run(["cp", "--sparse=always", old, guest.machine.data], check=True)
        guest.boot()
        status = wait_cause(guest, "integrity")
        assert status["latched"] and "rolled back" in status["text"], status
        run(guest, "fallgate accept-rollback data", "ROLLBACK-ACCEPTED")
        guest.cli("restore", "data", role="officer")
        guest.wait_state("AVAILABLE")
        guest.power_off()
    finally:
        guest.close()
