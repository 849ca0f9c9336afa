"""What a transition sets off: an entry in the journal or syslog, an observer's notification, a program, a mount hook. All of it is queued
before the order that cuts the first I/O is given, and none of it is waited for."""

import os
import socket
import subprocess
import threading
import time

import pytest

from conftest import make_lab

SCRIPT = """#!/bin/sh
env | grep -v ^PWD > "{out}/$FALLGATE_SEQUENCE.$FALLGATE_STATE.part"
id -u >> "{out}/$FALLGATE_SEQUENCE.$FALLGATE_STATE.part"
{more}
mv "{out}/$FALLGATE_SEQUENCE.$FALLGATE_STATE.part" "{out}/$FALLGATE_SEQUENCE.$FALLGATE_STATE"
"""


class Journal(threading.Thread):
    """Takes what the journal would get."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.entries = []
        self.start()

    def run(self):
        while True:
            data = self.socket.recv(65536).decode()
            self.entries.append(dict(line.split("=", 1) for line in data.splitlines()) if "MESSAGE_ID=" in data else data)

    def of(self, state):
        return [e for e in list(self.entries) if isinstance(e, dict) and e["FALLGATE_STATE"] == state]


def alert_lab(alerts, more="", script=None, volume=""):
    lab = make_lab()
    try:
        lab.out = lab.root / "out"
        lab.out.mkdir()
        os.chmod(lab.out, 0o777)
        if script is not None:
            lab.program = lab.root / "program"
            lab.program.write_text(SCRIPT.format(out=lab.out, more=script))
            os.chmod(lab.program, 0o755)
            alerts += f"program = {lab.program}\n" + ("user = 64779\n" if os.geteuid() == 0 else "")
        lab.make_token()
        lab.make_kek()
        lab.write_config(kek=f"probe_interval = 200ms\n[alerts]\n{alerts.replace('ROOT', str(lab.root))}{more}")
        lab.write_volume("demo", "64M", more=volume.replace("ROOT", str(lab.root)))
        lab.journal = Journal(lab.root / "journal")
        lab.start()
        lab.enroll_all()
        lab.cli("create", "demo", role="operator")
        lab.wait_state("AVAILABLE")
    except BaseException:
        lab.close()
        raise
    return lab


def test_the_journal_has_fields_and_came_first():
    lab = alert_lab("log = journal:ROOT/journal\n")
    try:
        observer = subprocess.Popen([str(lab.bin / "fallgate"), "--credentials", str(lab.credentials["auditor"]), "--json", "status", "demo", "--watch"],
                                    stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=lab.env(), text=True)
        lab.background.append(observer)
        time.sleep(1)
        for i in range(5):
            lab.cli("revoke", "demo")
            lab.wait_state("INACCESSIBLE")
            lab.cli("restore", "demo")
            lab.wait_state("AVAILABLE")
        wiped = lab.wait_ledger("wiped", 5)
        lab.wait_for(lambda: len(lab.journal.of("LOCKING")) >= 5, 15, "what the journal got")
        locking = lab.journal.of("LOCKING")
        assert len(locking) == len(wiped) == 5
        for entry, line in zip(locking, wiped):
            assert entry["FALLGATE_VOLUME"] == "demo" and entry["FALLGATE_CAUSE"] == "commanded" and entry["FALLGATE_LATCHED"] == "yes"
            assert entry["FALLGATE_EVENT"] == "revoke" and "officer" in entry["FALLGATE_REMEDY"] and entry["PRIORITY"] == "4"
            assert int(entry["FALLGATE_SEQUENCE"]) < line["order_sequence"], "queued before the order that cuts I/O"
            assert int(entry["FALLGATE_QUEUED_NS"]) <= line["cut_ns"]
        assert len({e["FALLGATE_SEQUENCE"] for e in lab.journal.entries}) == len(lab.journal.entries)
        observer.terminate()
        seen = observer.communicate(timeout=10)[0]
        assert "INACCESSIBLE" in seen and "AVAILABLE" in seen
        # a log that takes nothing keeps nobody waiting
        lab.journal.socket.close()
        os.unlink(lab.root / "journal")
        lab.cli("revoke", "demo")
        lab.wait_state("INACCESSIBLE")
        lab.wait_for(lambda: "takes none" in lab.log(), 15, "a line about it")
    finally:
        lab.close()


def test_syslog_has_them_on_a_line():
    lab = alert_lab("log = syslog:ROOT/journal\n")
    try:
        lab.kek("disable")
        lab.wait_state("INACCESSIBLE")
        lines = lab.wait_for(lambda: [e for e in list(lab.journal.entries) if isinstance(e, str) and "state=LOCKING" in e], 15, "a line for syslog")
        assert len(lines) == 1 and lines[0].startswith("<28>fallgated[") and "cause=disabled" in lines[0] and "volume=demo" in lines[0]
    finally:
        lab.close()


def test_a_program_runs_walled_in():
    lab = alert_lab("log = off\n", script="(grep -E 'NoNewPrivs|Seccomp:|CapEff' /proc/self/status; ls -l /proc/self/fd) >> \"$0.seen\" 2>&1 || true; "
                    "grep -E 'NoNewPrivs|Seccomp:|CapEff' /proc/self/status >> \"{0}\"".format("${FALLGATE_X:-/dev/null}"))
    try:
        lab.kek("disable")
        lab.wait_state("INACCESSIBLE")
        shut = lab.wait_for(lambda: sorted(lab.out.glob("*.INACCESSIBLE")), 10, "what the program wrote")
        text = shut[0].read_text()
        assert "FALLGATE_CAUSE=disabled" in text and "FALLGATE_VOLUME=demo" in text and "FALLGATE_REMEDY=enable the KEK" in text
        known = {"FALLGATE_" + k for k in ("VOLUME", "EVENT", "FROM", "STATE", "CAUSE", "LATCHED", "REMEDY", "TEXT", "GATE_SEQ", "SEQUENCE", "PURGE_AT_NS")}
        keys = {line.split("=")[0] for line in text.splitlines() if "=" in line}
        assert keys <= known | {"PATH", "_", "SHLVL", "OLDPWD"}
        assert text.splitlines()[-1] == ("64779" if os.geteuid() == 0 else str(os.getuid()))
    finally:
        lab.close()


def test_a_slow_program_is_killed_and_waited_for_by_nobody():
    lab = alert_lab("log = off\n", more="time_limit = 5s\n", script="sleep 600")
    try:
        began = time.monotonic()
        for _ in range(4):
            lab.cli("revoke", "demo")
            lab.wait_state("INACCESSIBLE")
            lab.cli("restore", "demo")
            lab.wait_state("AVAILABLE")
        assert time.monotonic() - began < 40, "some twenty programs of 5 s each were waited for"
        hooks = [p for p, line in lab.processes().items() if "fallgate-hooks" in line]
        assert len(hooks) == 1

        def running():
            out = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(hooks[0])], capture_output=True, text=True).stdout
            return [line for line in out.splitlines() if "program" in line]

        assert len(running()) <= 4
        lab.wait_for(lambda: "it ran for longer than it may" in lab.log(), 20, "a program killed")
        assert not list(lab.out.glob("*.LOCKING"))
        subprocess.run(["kill", "-9", str(hooks[0])], check=True)
        lab.wait_for(lambda: "hooks ended; started again" in lab.log(), 15, "hooks started again")
        assert lab.state() == "AVAILABLE"
    finally:
        lab.close()


def test_a_flood_of_alerts_starts_a_bounded_number():
    """More transitions than the queue holds, each with a program that hangs."""
    lab = alert_lab("log = off\n", more="time_limit = 600s\n", script="sleep 600")
    try:
        (hooks,) = [p for p, line in lab.processes().items() if "fallgate-hooks" in line]
        def flood():
            for _ in range(100):  # signals that come at once are one
                lab.agent.send_signal(10)  # SIGUSR1: revoke all
                time.sleep(0.005)
            return "hooks were left out" in lab.log()

        lab.wait_for(flood, 60, "a count of what was left out")
        children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(hooks)], capture_output=True, text=True).stdout.split()
        assert len(children) <= 4
        lab.stop()
        lab.wait_for(lambda: not [p for p in children if os.path.exists(f"/proc/{p}")], 15, "programs gone with the agent")
    finally:
        lab.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount and unmount")
def test_mount_hooks():
    lab = alert_lab("log = off\n", volume="mount = unmount:ROOT/mounted\n")
    mounted = lab.root / "mounted"
    try:
        mounted.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "none", str(mounted)], check=True)
        busy = open(mounted / "busy", "w")  # a lazy unmount does not wait for who is in there
        lab.kek("disable")
        lab.wait_state("INACCESSIBLE")
        lab.wait_for(lambda: not os.path.ismount(mounted), 15, "the mount gone")
        busy.close()
        status = lab.status()
        assert status["lock"]["wiped_ns"] - status["lock"]["detected_ns"] < 1_000_000_000
    finally:
        subprocess.run(["umount", "-l", str(mounted)], capture_output=True)
        lab.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to drop caches")
def test_drop_caches_and_a_mount_program():
    lab = alert_lab("log = off\n", volume="mount = drop_caches\n")
    try:
        lab.kek("disable")
        lab.wait_state("INACCESSIBLE")
        time.sleep(1)
        assert "drop_caches: exit code" not in lab.log()
        lab.stop()
        program = lab.root / "mount-program"
        program.write_text(SCRIPT.format(out=lab.out, more=""))
        os.chmod(program, 0o755)
        lab.write_volume("demo", "64M", more=f"mount = program:{program}\n")
        lab.kek("enable")
        lab.start()
        lab.wait_state("AVAILABLE")
        lab.kek("disable")
        lab.wait_for(lambda: list(lab.out.glob("*.LOCKING")), 10, "what the mount program wrote")
    finally:
        lab.close()
