"""Volumes as block devices of the machine (export = ublk), on the board's own kernel, with ext4 above them: what is mounted lives through
a lock where the volume is held, ends with an error where it is not, and loses nothing that was flushed, whoever dies."""

import random
import re
import time

import pytest

from conftest import BOARDS
from machine import Guest

BLOCK, HELD = "/dev/fallgate/block", "/dev/fallgate/held"
# One file after the other, each durable before it is told ($2: where); the last 200 are kept. $1: the folder. An error ends it.
WRITER = r"""
rm -f /tmp/written /tmp/failed /tmp/stop /tmp/ended
n=0
until [ -e /tmp/stop ]; do
	n=$((n + 1))
	head -c 65536 /dev/urandom >/tmp/piece
	sum=$(md5sum </tmp/piece)
	dd if=/tmp/piece of="$1/$n" bs=16k conv=fsync 2>/tmp/why || { echo "$n: $(cat /tmp/why)" >/tmp/failed; break; }
	echo "${sum%% *}  $n" >>/tmp/written
	echo "FILE $n ${sum%% *}" >$2
	[ $n -le 200 ] || rm -f "$1/$((n - 200))"
done
touch /tmp/ended
"""


@pytest.fixture(params=BOARDS, scope="module")
def machine(request, tmp_path_factory, build):
    machine = Guest(request.param, tmp_path_factory.mktemp("vm") / "vm", build, disks=("block", "held"))
    try:
        machine.boot()
        machine.enrolled()
        for volume in ("block", "held"):
            machine.wait_state("AVAILABLE", 240, volume)
        # an emulated machine may be slow: what is looked at here is not how long an HSM takes
        machine.shell("sed -i 's/^outage_budget.*/outage_budget = 120s\\nhsm_deadline = 30s/' /state/etc/fallgate.conf && killall fallgated; sleep 3",
                      check=False)
        yield machine
    finally:
        machine.close()


@pytest.fixture
def guest(machine):
    """The board as each test is to find it: both volumes there, nothing mounted, no old complaints."""
    for volume in ("block", "held"):
        status = machine.wait_state("AVAILABLE", 240, volume)
        assert status["export"] == f"/dev/fallgate/{volume}"
    machine.shell("touch /tmp/stop; sleep 1; umount /tmp/mnt; mkdir -p /tmp/mnt; dmesg -c >/dev/null", check=False)
    return machine


def make_fs(guest, device):
    guest.shell(f"/sbin/mke2fs -q -F -t ext4 {device} && /sbin/e2fsck -fn {device} >/dev/null 2>&1 && mount {device} /tmp/mnt", 300)


def start_writer(guest, told="/dev/null"):
    for line in ("rm -f /tmp/writer", *(f"echo '{line}' >>/tmp/writer" for line in WRITER.strip().splitlines())):
        guest.shell(line)
    guest.shell(f"sh /tmp/writer /tmp/mnt {told} & sleep 1")
    wait_count(guest, 3)


def count(guest):
    return int(re.search(r"count=(\d+)", guest.shell("echo count=$(cat /tmp/written 2>/dev/null | wc -l)"))[1])


def failed(guest):
    return re.search(r"failed=(.*)", guest.shell("echo failed=$(cat /tmp/failed 2>/dev/null)"))[1].strip()


def wait_count(guest, more, timeout=120):
    """The writer goes on."""
    begin, end = count(guest), time.monotonic() + timeout
    while (now := count(guest)) < begin + more:
        assert not failed(guest), failed(guest)
        assert time.monotonic() < end, f"the writer stands at {now}"
        time.sleep(0.5)


def verify(guest, directory="/tmp/mnt"):
    """The last sum of each file that was told to be durable, held against what the device has."""
    out = guest.shell(f"cd {directory}; sync; echo 3 >/proc/sys/vm/drop_caches; tail -n 200 /tmp/written >/tmp/sums; "
                      "md5sum -c /tmp/sums >/tmp/verdicts 2>&1; cd /; echo good=$(grep -c ': OK$' /tmp/verdicts) of=$(wc -l </tmp/sums); "
                      "grep -v ': OK$' /tmp/verdicts; true", 300)
    good, of = re.search(r"good=(\d+) of=(\d+)", out).groups()
    assert good == of and int(of) > 0, out


def stop_writer(guest):
    guest.shell("touch /tmp/stop; until [ -e /tmp/ended ]; do sleep 1; done")


def no_complaints(guest):
    kernel = guest.shell("dmesg")
    bad = [line for line in kernel.splitlines() if re.search(r"I/O error|EXT4-fs.*(error|warning|remount)|Buffer I/O|hung task|blocked for", line)]
    assert not bad, "\n".join(bad)


def unmount_clean(guest, device):
    guest.shell("umount /tmp/mnt")
    guest.shell(f"/sbin/e2fsck -fn {device}", 300)


def test_reads_what_was_written(guest):
    """Past the page cache, at random places, on both kinds."""
    for device in (BLOCK, HELD):
        sectors = int(guest.shell(f"cat /sys/block/$(basename $(readlink {device}))/size").split()[0])
        for _ in range(8):
            blocks = random.randrange(1, 64)
            at = random.randrange(0, sectors // 8 - blocks)
            guest.shell(f"dd if=/dev/urandom of=/tmp/piece bs=4k count={blocks} 2>/dev/null; "
                        f"dd if=/tmp/piece of={device} bs=4k seek={at} oflag=direct 2>/dev/null && "
                        f"dd if={device} of=/tmp/again bs=4k skip={at} count={blocks} iflag=direct 2>/dev/null && cmp /tmp/piece /tmp/again")
    no_complaints(guest)


def test_held_lives_through_locks_and_deaths(guest):
    make_fs(guest, HELD)
    node = guest.shell(f"readlink {HELD}").strip()
    start_writer(guest)
    for _ in range(3):
        guest.cli("revoke", "held", role="officer")
        guest.wait_state("INACCESSIBLE", volume="held")
        time.sleep(random.uniform(0.5, 4))
        guest.cli("restore", "held", role="officer")
        guest.wait_state("AVAILABLE", volume="held")
        wait_count(guest, 3)
    for _ in range(3):
        guest.shell("kill -9 $(ps | awk '/[s]erve name=held/ { print $1 }')")
        time.sleep(random.uniform(0.1, 2))
        guest.wait_state("AVAILABLE", volume="held")
        wait_count(guest, 3)
    stop_writer(guest)
    assert guest.shell(f"readlink {HELD}").strip() == node, "another device took its place"
    verify(guest)
    no_complaints(guest)
    unmount_clean(guest, HELD)


def test_a_hold_ends_with_an_error_and_nothing_hangs(guest):
    guest.shell("sed -i 's/hold_timeout = .*/hold_timeout = 8s/' /state/etc/volumes.d/held.conf && killall fallgated && sleep 3")
    guest.wait_state("AVAILABLE", volume="held")
    make_fs(guest, HELD)
    start_writer(guest)
    guest.cli("revoke", "held", role="officer")
    guest.wait_state("INACCESSIBLE", volume="held")
    time.sleep(3)
    assert not failed(guest), "it was to wait"
    end = time.monotonic() + 90
    while not failed(guest):
        assert time.monotonic() < end, "the hold is over, and the writer still waits"
        time.sleep(1)
    guest.shell("umount /tmp/mnt; sync", 60, check=False)
    assert guest.shell("ls /dev/fallgate").split().count("held") == 0
    guest.cli("restore", "held", role="officer")
    guest.wait_state("AVAILABLE", volume="held")
    guest.shell(f"/sbin/e2fsck -p {HELD} || [ $? -le 1 ]; mount {HELD} /tmp/mnt", 300)
    verify(guest)
    unmount_clean(guest, HELD)


def test_fail_ends_the_device_and_brings_it_back(guest):
    make_fs(guest, BLOCK)
    start_writer(guest)
    patterns = guest.key_patterns("block")
    found, _ = guest.keys_in_ram(patterns)
    assert found, "the search is blind: it must find the keys while the volume serves"
    guest.cli("revoke", "block", role="officer")
    guest.wait_state("INACCESSIBLE", volume="block")
    found, what = guest.keys_in_ram(patterns)
    assert not found, f"after the revoke, in the whole RAM of the guest:\n{what[:2000]}"
    end = time.monotonic() + 60
    while not failed(guest):
        assert time.monotonic() < end, "the gate is shut, and the writer still waits"
        time.sleep(1)
    assert "block" not in guest.shell("ls /dev/fallgate").split()
    guest.shell("umount /tmp/mnt; sync", 60, check=False)
    guest.cli("restore", "block", role="officer")
    guest.wait_state("AVAILABLE", volume="block")
    guest.shell(f"/sbin/e2fsck -p {BLOCK} || [ $? -le 1 ]; mount {BLOCK} /tmp/mnt", 300)
    verify(guest)
    unmount_clean(guest, BLOCK)


def test_the_agent_is_killed(guest):
    """Its devices go, held or not, and come back with the next agent; the broker too may be killed, with it or alone."""
    make_fs(guest, HELD)
    for who in ("fallgated", "fallgate-ublk", "fallgated fallgate-ublk"):
        start_writer(guest)
        guest.shell(f"killall -9 {who}")
        end = time.monotonic() + 60
        while not failed(guest):
            assert time.monotonic() < end, f"{who} killed, and the writer still waits"
            time.sleep(1)
        guest.shell("umount /tmp/mnt; sync", 60, check=False)
        for volume in ("block", "held"):
            guest.wait_state("AVAILABLE", volume=volume)
        guest.shell(f"/sbin/e2fsck -p {HELD} || [ $? -le 1 ]; mount {HELD} /tmp/mnt", 300)
        verify(guest)
    left = guest.shell("ls -d /dev/ublkb*").split()
    assert len(left) == 2, f"devices of killed brokers are left: {left}"
    unmount_clean(guest, HELD)


def test_a_kernel_without_ublk_is_said(guest):
    guest.shell("mv /dev/ublk-control /dev/ublk-away")
    said = guest.shell("fallgate config check --config /state/etc/fallgate.conf; echo code=$?", 120)
    guest.shell("mv /dev/ublk-away /dev/ublk-control")
    for volume in ("block", "held"):
        assert f"volume {volume}: export = ublk: the kernel has no ublk (/dev/ublk-control is missing): modprobe ublk_drv" in said.replace("\n", "")
    assert "code=20" in said


def test_what_was_synced_survives_a_power_cut(guest, cuts):
    for volume in (BLOCK, HELD):
        make_fs(guest, volume)
        guest.shell("umount /tmp/mnt")
    for cut in range(cuts):
        device = (BLOCK, HELD)[cut % 2]
        guest.shell(f"mkdir -p /tmp/mnt; mount {device} /tmp/mnt && rm -f /tmp/mnt/[0-9]*")
        mark = len(guest.text)
        start_writer(guest, "/dev/console")
        guest.wait_for(rf"FILE {random.randrange(4, 20)} ", 240, mark)
        guest.cut_power()
        told = dict(re.findall(r"FILE (\d+) ([0-9a-f]{32})", guest.text[mark:]))
        guest.boot()
        guest.wait_state("AVAILABLE", 240, device.rpartition("/")[2])
        guest.shell(f"mkdir -p /tmp/mnt; mount {device} /tmp/mnt", 300)
        found = dict(reversed(line.split()) for line in guest.shell("cd /tmp/mnt; md5sum [0-9]*; cd /").splitlines() if len(line.split()) == 2)
        lost = {name: sum for name, sum in told.items() if found.get(name) != sum}
        assert not lost, f"cut {cut} of {device}: told to be durable, and not there: {lost}"
        unmount_clean(guest, device)
