"""What a board has beside processor and disks: its watchdog restarts it when the agent hangs, and at no other time; its tamper line locks
every volume; its console says what state it is in. Keys are looked for in the whole of the guest's RAM."""

import json
import os
import stat
import subprocess
import time

import nbd
import pytest

from conftest import BOARDS, UEFI_BOARDS
from machine import Guest, MachineError, MIB, SOURCE, load
from test_update import make_slot, slots

TIMEOUT_S = 10  # what boards/*/board.c says
MARGIN_S = 15   # an emulated machine on a busy one
CONFIG = "/state/etc/fallgate.conf"
# a pulse of the power button's line; x86 has no GPIO line that can be pulled from outside
TAMPER = {"qemu_aarch64": "gpio:/dev/gpiochip0:3", "qemu_x86_64": "fifo:/run/tamper"}
# init, which starts the agent again, gets something that waits instead
NOT_AGAIN = ("mount -o remount,exec /tmp && printf '#!/bin/sh\\nexec sleep 1000\\n' > /tmp/agent && chmod +x /tmp/agent && "
             "mount --bind /tmp/agent /usr/libexec/fallgate/agent")


def connect(guest):
    handle = nbd.NBD()
    handle.connect_uri(guest.uri)
    return handle


def findings(guest):
    return {f["what"]: f["good"] for f in json.loads(guest.cli("posture").stdout)["findings"]}


def restarts_recorded(guest):
    """How many restarts by the watchdog the ledger tells of."""
    mark = f"count{time.monotonic_ns()}"
    guest.type(f"echo {mark}''=$(cat /state/agent/ledger* | grep -c watchdog-restart)")
    return int(guest.wait_for(rf"{mark}=(\d+)", 60)[1])


def shell(guest, command, timeout=60):
    """Runs a line in the guest's shell and waits for its end."""
    mark = f"done{time.monotonic_ns()}"
    guest.type(f"{command}; echo {mark[:4]}''{mark[4:]}")
    guest.wait_for(mark, timeout)


def stays_up(guest, seconds):
    """No restart for so long: the console would begin anew."""
    end = time.monotonic() + seconds
    with guest.events() as events:
        while time.monotonic() < end:
            assert not events.next("WATCHDOG", end - time.monotonic()), guest.text[-2000:]


def restarts_within(guest, seconds):
    with guest.events() as events:
        began = time.monotonic()
        assert events.next("WATCHDOG", seconds), f"no restart within {seconds} s:\n{guest.text[-2000:]}"
        took = time.monotonic() - began
    guest.text = ""
    return took


@pytest.mark.parametrize("board", BOARDS)
def test_a_hung_agent_restarts_the_board(board, tmp_path, build):
    guest = Guest(board, tmp_path / "vm", build, reboots=True)
    content = os.urandom(MIB)
    try:
        guest.boot()
        guest.enrolled()
        guest.wait_state("AVAILABLE")
        assert any("watchdog: i6300ESB" in what and good for what, good in findings(guest).items()), findings(guest)
        assert any("virtio_rng.0 tested at start and since" in what and good for what, good in findings(guest).items()), findings(guest)
        assert restarts_recorded(guest) == 0
        disk = connect(guest)
        disk.pwrite(content, 0)
        disk.flush()
        patterns = guest.key_patterns()
        assert guest.keys_in_ram(patterns)[0], "the search is blind: it must find the keys while the volume serves"

        # the supervisor hangs: the data plane wipes its keys after 2 s, the machine restarts after 10
        guest.type("kill -STOP $(pidof fallgated)")
        time.sleep(4)
        found, what = guest.keys_in_ram(patterns)
        assert not found, f"the supervisor hung for 4 s:\n{what[:2000]}"
        took = restarts_within(guest, TIMEOUT_S + MARGIN_S)
        guest.wait_state("AVAILABLE")
        disk = connect(guest)
        assert disk.pread(len(content), 0) == content
        assert restarts_recorded(guest) == 1
        disk.pwrite(content, len(content))
        disk.flush()  # the salt of this opening's keys is on the disk from its first write on
        assert guest.keys_in_ram(guest.key_patterns())[0]
        print(f"\n{board}: hung; keys gone at 4 s, restarted {took:.1f} s after that")

        # a killed agent that nobody starts again is no better than a hung one
        shell(guest, f"{NOT_AGAIN}; kill -KILL $(pidof fallgated)")
        took = restarts_within(guest, TIMEOUT_S + MARGIN_S)
        guest.wait_state("AVAILABLE")
        assert restarts_recorded(guest) == 2

        # the HSM is cut off: no reason to restart anything
        shell(guest, "mv /state/tokens /state/tokens.away")
        guest.wait_state("INACCESSIBLE")
        stays_up(guest, TIMEOUT_S + 5)
        shell(guest, "mv /state/tokens.away /state/tokens")
        guest.wait_state("AVAILABLE")

        # an orderly stop disarms
        shell(guest, f"{NOT_AGAIN}; kill -TERM $(pidof fallgated)")
        stays_up(guest, TIMEOUT_S + 5)
        shell(guest, "umount /usr/libexec/fallgate/agent; killall sleep")
        guest.wait_state("AVAILABLE")
        assert any("watchdog: i6300ESB" in what and good for what, good in findings(guest).items())
        assert restarts_recorded(guest) == 2

        guest.text = ""
        guest.power_off()  # the process ends: a restart would have gone on
        assert "fallgate: STOPPED" in guest.text
    finally:
        guest.close()


@pytest.mark.parametrize("board", BOARDS)
def test_the_tamper_line_locks_and_latches(board, tmp_path, build):
    guest = Guest(board, tmp_path / "vm", build)
    try:
        guest.boot()
        guest.enrolled()
        guest.wait_state("AVAILABLE")
        guest.wait_for("fallgate: AVAILABLE: 1 of 1 volumes open")
        shell(guest, f"mkfifo -m 0600 /run/tamper; printf '[tamper]\\nsource = {TAMPER[board]}\\n' >> {CONFIG}; sync")
        guest.text = ""
        shell(guest, "kill -TERM $(pidof fallgated)")
        guest.wait_for("fallgate: AVAILABLE: 1 of 1 volumes open")
        guest.wait_state("AVAILABLE")
        patterns = guest.key_patterns()
        assert guest.keys_in_ram(patterns)[0], "the search is blind: it must find the keys while the volume serves"

        guest.text = ""
        if board == "qemu_aarch64":
            guest.qmp("system_powerdown")
        else:
            shell(guest, "echo x > /run/tamper")
        status = guest.wait_state("INACCESSIBLE", 10)
        assert (status["cause"], status["latched"]) == ("tamper", True), status
        guest.wait_for("fallgate: ALARM: 0 of 1 volumes open", 10)
        found, what = guest.keys_in_ram(patterns)
        assert not found, f"after the tamper line, in the whole RAM of the guest:\n{what[:2000]}"
        with pytest.raises(nbd.Error):
            connect(guest).pread(4096, 0)
        with pytest.raises(MachineError):
            guest.cli("attach", "data", role="operator")
        print(f"\n{board}: {status['lock']}")

        # it outlasts the power, and an officer lifts it
        guest.cut_power()
        guest.boot()
        if board == "qemu_x86_64":
            guest.wait_for("make it with mkfifo")  # the agent is not up without the line it was told of
            shell(guest, "mkfifo -m 0600 /run/tamper")
        assert guest.wait_state("INACCESSIBLE")["latched"]
        guest.cli("restore", "data", role="officer")
        guest.wait_state("AVAILABLE")
        assert connect(guest).pread(4096, 0)
        guest.power_off()
    finally:
        guest.close()


@pytest.mark.parametrize("board", BOARDS)
def test_noise_that_is_bad_or_hangs_makes_no_key(board, tmp_path, build):
    """A board that has a source of noise does not start its agent on a broken one, and does not wait for it for ever either."""
    guest = Guest(board, tmp_path / "vm", build)
    good = guest.machine.noise
    try:
        guest.machine.noise = "rng-random,id=r0,filename=/dev/zero"
        guest.boot()
        guest.wait_for(r"entropy = /dev/hwrng: /dev/hwrng \(virtio_rng\.0\) failed its health test: it repeats itself; nothing is made or opened")
        shell(guest, "ls /state/agent/device.key; cat /state/agent/ledger*")
        assert "No such file" in guest.text and "fallgate: AVAILABLE" not in guest.text
        guest.cut_power()

        guest.machine.noise = "rng-egd,id=r0,chardev=c0"
        guest.machine.more = ["-chardev", f"socket,id=c0,path={tmp_path}/egd,server=on,wait=off"]  # nobody is there
        guest.boot()
        guest.wait_for(r"entropy = /dev/hwrng: /dev/hwrng \(virtio_rng\.0\) gave 0 of 1024 bytes in 3 s; nothing is made or opened")
        assert "fallgate: AVAILABLE" not in guest.text
        shell(guest, f"sed -i '/^.agent/a entropy = kernel' {CONFIG}; sync")  # whoever knows why
        guest.wait_for("fallgate: AVAILABLE: 1 of 1 volumes open")
        guest.cut_power()

        guest.machine.noise, guest.machine.more = good, []
        guest.boot()
        guest.enrolled()
        guest.wait_state("AVAILABLE")
        assert any("no hardware source is looked at" in what for what in findings(guest))
        guest.power_off()
    finally:
        guest.close()


HANGS = b"""#!/bin/sh
/usr/sbin/fallgated --config /state/etc/fallgate.conf 2>/dev/console &
until [ -S /run/fallgate/console.sock ]; do usleep 100000; done
sleep 3
kill -STOP $!
echo "agent: hung" >/dev/console
wait
"""


def initramfs_with(image, out, path, data):
    """The image's initramfs with one program replaced: what comes later in it counts."""
    tree = load(SOURCE / "tools/image").Tree()
    tree.entries[path] = (stat.S_IFREG | 0o755, data, 0)
    raw = subprocess.run(["zstd", "-dcq", image / "initramfs.zst"], capture_output=True, check=True).stdout
    out.write_bytes(subprocess.run(["zstd", "-q", "-1"], input=raw + tree.cpio(), capture_output=True, check=True).stdout)


@pytest.mark.parametrize("board", UEFI_BOARDS[:1])
def test_a_slot_whose_agent_hangs_is_left(board, tmp_path, build):
    guest = Guest(board, tmp_path / "vm", build, reboots=True)
    try:
        guest.boot()
        guest.wait_for(r"healthy: fallgate_0\.1\.0\.efi is good", 400)
        guest.enrolled()
        guest.wait_state("AVAILABLE")
        guest.cut_power()
        good = slots(guest)
        initramfs_with(guest.machine.image, tmp_path / "hangs.zst", "usr/libexec/fallgate/agent", HANGS)
        make_slot(guest, "0.1.2", tmp_path / "hangs.efi", tmp_path / "hangs.zst")

        guest.boot()
        for _ in range(3):
            guest.wait_for("agent: hung", 400)
            restarts_within(guest, TIMEOUT_S + MARGIN_S)
        guest.wait_for("fallgate: AVAILABLE: 1 of 1 volumes open", 400)
        assert guest.wait_state("AVAILABLE")["state"] == "AVAILABLE"
        stays_up(guest, TIMEOUT_S + 5)
        assert restarts_recorded(guest) == 3
        guest.cut_power()
        assert slots(guest) == good + ["fallgate_0.1.2+0-3.efi"]
    finally:
        guest.close()
