"""An HSM outside the board, as a customer has it: SoftHSM2 on this machine behind p11-kit's server, a token at the end of a wire. It can
be cut off (no server), be silent (stopped), come back, and be administered by the custodian without the board having a part in it."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import time

SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"
AT = "10.0.2.100 5657"  # where tools/qemu --hsm puts it in the guest
INTERVAL, BUDGET, DEADLINE = 1, 10, 3  # seconds; p11-kit's client may take two probes to their deadlines to find that a wire was cut
CONFIG = """[agent]
state_dir = /state/agent
run_dir = /run/fallgate
coap = 0.0.0.0:5684
user_hsm = fallgate-hsm
user_dataplane = fallgate-data
user_mgmt = fallgate-mgmt

[kek main]
module = /usr/lib/pkcs11/p11-kit-client.so
environment = P11_KIT_SERVER_ADDRESS=|/bin/nc -w 3 {at}
uri = pkcs11:token=customer;object=kek?pin-source=file:/state/etc/pins/main
probe_interval = {interval}s
outage_budget = {budget}s
hsm_deadline = {deadline}s
"""
VOLUME = "[volume]\nbacking = /dev/fallgate/disk\nkek = main\nattach = auto\nlisten = tcp:0.0.0.0:10809\n"


class OutsideHsm:
    def __init__(self, folder, build, interval=INTERVAL, budget=BUDGET, deadline=DEADLINE):
        self.folder, self.bin, self.server = pathlib.Path(folder), pathlib.Path(build) / "bin", None
        self.socket, self.etc = self.folder / "socket", self.folder / "etc"
        (self.folder / "tokens").mkdir(parents=True)
        for name in ("etc/pins", "etc/volumes.d"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "softhsm2.conf").write_text(f"directories.tokendir = {self.folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
        (self.folder / "so-pin").write_text(os.urandom(6).hex() + "\n")
        (self.etc / "pins/main").write_text(os.urandom(6).hex() + "\n")
        (self.etc / "fallgate.conf").write_text(CONFIG.format(at=AT, interval=interval, budget=budget, deadline=deadline))
        (self.etc / "volumes.d/data.conf").write_text(VOLUME)
        self.custodian("init-token", "--token", "customer", "--so-pin-file", self.folder / "so-pin", "--pin-file", self.etc / "pins/main")
        self.custodian("make-kek", "--token", "customer", "--pin-file", self.etc / "pins/main", "--label", "kek", "--type", "rsa2048")
        self.give()

    def environment(self):
        return {"SOFTHSM2_CONF": str(self.folder / "softhsm2.conf"), "PATH": "/usr/bin:/bin"}

    def custodian(self, verb, *argv):
        subprocess.run([str(self.bin / "fallgate-custodian"), verb, "--module", SOFTHSM, *map(str, argv)], check=True, capture_output=True,
                       env=self.environment(), timeout=60)

    def key(self, verb):
        """disable or enable, as the customer does it: on the HSM itself."""
        self.custodian(verb, "--token", "customer", "--pin-file", self.etc / "pins/main", "--label", "kek")

    def give(self):
        """The HSM is there."""
        self.socket.unlink(missing_ok=True)
        self.server = subprocess.Popen(["p11-kit", "server", "-f", "--provider", SOFTHSM, "--name", str(self.socket), "pkcs11:"], cwd="/",
                                       env=self.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL, start_new_session=True)
        end = time.monotonic() + 10
        while not self.socket.exists():
            assert time.monotonic() < end and self.server.poll() is None, "p11-kit's server did not start"
            time.sleep(0.05)

    def signal(self, number):
        """To the server and to the child that it has for each connection."""
        os.killpg(self.server.pid, number)

    def cut(self):
        """The HSM is gone, and every connection to it."""
        if self.server:
            self.signal(signal.SIGKILL)
            self.server.wait()
            self.socket.unlink(missing_ok=True)
        self.server = None

    def close(self):
        self.cut()


def enrol_beforehand(folder, build):
    """What a factory does for an image in which nobody logs in: the agent runs once on the state directory that will be the board's, and
    the first identities are enrolled at its console. (records, {role: key})"""
    folder, bin_ = pathlib.Path(folder), pathlib.Path(build) / "bin"
    (folder / "run").mkdir(parents=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    (folder / "volumes.d").mkdir()
    (folder / "fallgate.conf").write_text(f"[agent]\nstate_dir = {folder}/agent\nrun_dir = {folder}/run\ncoap = 127.0.0.1:{port}\n")
    with open(folder / "log", "wb") as log:
        agent = subprocess.Popen([str(bin_ / "fallgated"), "--config", str(folder / "fallgate.conf"), "--libexec", str(bin_)], stderr=log,
                                     cwd="/")
    try:
        end = time.monotonic() + 30
        while not (folder / "run/console.sock").exists():
            assert time.monotonic() < end and agent.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)
        keys = {}
        for role in ("officer", "operator", "auditor"):
            subprocess.run([str(bin_ / "fallgate"), "--run-dir", str(folder / "run"), "enroll", "--role", role, role, "--out",
                            str(folder / role)], check=True, capture_output=True, timeout=30)
            keys[role] = re.search(r"^key *= *([0-9a-f]{64})", (folder / role).read_text(), re.M)[1]
    finally:
        agent.terminate()
        agent.wait(30)
    return folder / "agent", keys
