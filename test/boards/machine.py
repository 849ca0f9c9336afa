"""A board under QEMU as a test sees it: its console as text, its CoAP and NBD on loopback, its RAM by QMP, its HSM's files from the
state partition. Everything lives in one folder; close() leaves no process."""

import importlib.machinery
import importlib.util
import json
import os
import pathlib
import re
import socket
import struct
import subprocess
import sys
import threading
import time

SOURCE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE / "tools"))
from board import Board  # noqa: E402


def load(path):
    loader = importlib.machinery.SourceFileLoader(path.name, str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(path.name, loader))
    loader.exec_module(module)
    return module


qemu = load(SOURCE / "tools/qemu")
MIB = 1 << 20
SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"


class MachineError(Exception):
    pass


class Events:
    def __init__(self, path):
        self.path = path

    def __enter__(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(self.path))
        self.socket.sendall(b'{"execute": "qmp_capabilities"}\n')
        self.data = b""
        return self

    def __exit__(self, *_):
        self.socket.close()

    def next(self, name, timeout):
        """True once that event came; False if it did not in time."""
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            line, newline, rest = self.data.partition(b"\n")
            if newline:
                self.data = rest
                if json.loads(line).get("event") == name:
                    return True
                continue
            self.socket.settimeout(left)
            try:
                got = self.socket.recv(4096)
            except TimeoutError:
                return False
            if not got:
                raise MachineError("QEMU has ended")
            self.data += got
        return False


class Guest:
    def __init__(self, name, folder, build, flavour="dev", kvm=False, data=64 * MIB, more=(), image=None, reboots=False, secure=False,
                 hsm=None, agent_state=None, disks=(), tpm=False, append="", state_files=None):
        """hsm: an OutsideHsm that the guest reaches over its network; agent_state: records made beforehand, with their credentials;
        append: more for the kernel's command line; state_files: as tools/qemu's Machine has them."""
        self.hsm, self.folder, self.bin = hsm, pathlib.Path(folder), pathlib.Path(build) / "bin"
        state_files = {"etc": hsm.etc} if hsm else state_files or {}
        if agent_state:
            state_files["agent"] = agent_state
        self.machine = qemu.Machine(Board(name), flavour, folder, image=image, kvm=kvm, data=data, more=more, reboots=reboots,
                                    secure=secure, hsm=hsm and hsm.socket, state_files=state_files,
                                    disks=disks, tpm=tpm, append=append)
        self.process, self.keys, self.text, self.shells = None, {}, "", 0

    # ---- power ----

    def boot(self):
        self.text = ""
        log = self.folder / "console.log"
        self.machine.qmp.unlink(missing_ok=True)
        self.machine.start_tpm()
        self.process = subprocess.Popen(self.machine.command(serial="stdio"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, cwd=self.folder)
        self.reader = threading.Thread(target=self._read, args=(self.process.stdout, log), daemon=True)
        self.reader.start()

    def _read(self, stream, log):
        with open(log, "ab") as file:
            while data := os.read(stream.fileno(), 65536):
                file.write(data)
                file.flush()
                self.text += data.decode(errors="replace")

    def wait_for(self, pattern, timeout=180, mark=0):
        """A match in what the console has said since this boot, or since `mark`, a length of its text."""
        end = time.monotonic() + timeout
        while True:
            if match := re.search(pattern, self.text[mark:]):
                return match
            if self.process.poll() is not None or time.monotonic() > end:
                raise MachineError(f"the console never said '{pattern}'; its end:\n{self.text[-3000:]}")
            time.sleep(0.1)

    def type(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def cut_power(self):
        """The machine is gone between two instructions; what its disks had been given stays."""
        self.process.kill()
        self.process.wait()
        self.reader.join(10)

    def power_off(self, timeout=120):
        self.type("poweroff")
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise MachineError(f"no power-off within {timeout} s:\n{self.text[-3000:]}") from None

    def close(self):
        if self.process and self.process.poll() is None:
            self.cut_power()
        self.machine.stop_tpm()

    # ---- QMP ----

    def qmp(self, command, **arguments):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(120)
            s.connect(str(self.machine.qmp))
            file = s.makefile("rw")
            json.loads(file.readline())
            for order in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
                file.write(json.dumps(order) + "\n")
                file.flush()
                while "event" in (answer := json.loads(file.readline())):
                    pass
            if "error" in answer:
                raise MachineError(f"QMP {command}: {answer['error']['desc']}")
            return answer["return"]

    def events(self):
        """A connection that hears QMP's events; while it is open nothing else speaks QMP."""
        return Events(self.machine.qmp)

    def dump_ram(self):
        """The whole of the guest's memory and its registers, as an ELF core file, of one moment."""
        path = self.folder / "ram"
        path.unlink(missing_ok=True)
        self.qmp("stop")
        self.qmp("dump-guest-memory", paging=False, protocol=f"file:{path}")
        self.qmp("cont")
        return path

    # ---- the agent ----

    def enrolled(self, keys=None):
        """Takes the credentials that the development flavour prints, or those that were made beforehand."""
        for role in ("officer", "operator", "auditor"):
            key = keys[role] if keys else self.wait_for(rf"credentials {role} ([0-9a-f]{{64}})")[1]
            path = self.folder / f"{role}.credentials"
            path.write_text(f"[agent]\naddress = 127.0.0.1:{self.machine.coap}\nidentity = {role}\nkey = {key}\n")
            path.chmod(0o600)
            self.keys[role] = path

    def cli(self, *argv, role="auditor", check=True):
        done = subprocess.run([str(self.bin / "fallgate"), "--credentials", str(self.keys[role]), "--json", *argv], capture_output=True,
                              text=True, timeout=120, check=False)
        if check and done.returncode != 0:
            raise MachineError(f"fallgate {' '.join(argv)}: {done.returncode} {done.stderr}")
        return done

    def wait_answer(self, timeout=120):
        """Until the agent answers at all."""
        end = time.monotonic() + timeout
        while self.cli("status", check=False).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > end:
                raise MachineError(f"the agent never answered:\n{self.text[-3000:]}")
            time.sleep(0.3)

    def shell(self, line, timeout=120, check=True):
        """What that line prints on the guest's console (development flavour). The agent's own lines can stand in between."""
        self.shells += 1
        mark = len(self.text)
        # the echo of the line itself has quotes in the marks
        self.type(f"echo B''EGIN{self.shells}; {line}; echo E''ND{self.shells} $?")
        match = self.wait_for(rf"(?s)BEGIN{self.shells}\r?\n(.*)END{self.shells} (\d+)", timeout, mark)
        if check and match[2] != "0":
            raise MachineError(f"in the guest: {line}: {match[2]}\n{match[1][-2000:]}")
        return match[1].replace("\r", "")

    def status(self, volume="data"):
        return json.loads(self.cli("status", volume).stdout)

    def wait_state(self, state, timeout=120, volume="data"):
        end, seen = time.monotonic() + timeout, None
        while True:
            try:
                seen = self.status(volume)
                if seen["state"] == state:
                    return seen
            except MachineError as error:
                seen = error
            if time.monotonic() > end:
                raise MachineError(f"never {state}; last: {seen}\n{self.text[-2000:]}")
            time.sleep(0.3)

    @property
    def uri(self):
        return f"nbd://127.0.0.1:{self.machine.nbd}"

    # ---- what the customer's HSM knows ----

    def token_files(self):
        """SoftHSM's files and the PIN, read from the state partition as it is, or the HSM's own that is outside."""
        if self.hsm:
            return self.hsm.folder
        out = self.folder / "hsm"
        if not out.exists():
            self.shell("sync")  # a token writes its files again at a login
            out.mkdir()
            for what in ("tokens", "etc"):
                subprocess.run(["/usr/sbin/debugfs", "-R", f"rdump /{what} {out}", f"{self.machine.state}?offset={self.machine.state_offset}"], check=True,
                               capture_output=True)
            (out / "softhsm2.conf").write_text(f"directories.tokendir = {out}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
        return out

    def key_patterns(self, volume="data"):
        """Every form in which this volume's key could lie in memory, for keyscan (SPEC.md, "Header" and "Keys")."""
        files = self.token_files()
        with open(self.machine.disks.get(volume, self.machine.data), "rb") as image:
            header = image.read(65536)
            assert header[:8] == b"FGVOL\r\n\x1a"
            salts = {b[0x10:0x1C] for b in iter(lambda: image.read(4096), b"") if b[0x1C:0x20] in (b"FGR1", b"FGN1")}
        slot = header[4096:8192]
        oaep = struct.unpack_from("<I", slot, 4)[0] == 2
        length, _, generation = struct.unpack_from("<HHI", slot, 0x200)
        (files / "blob").write_bytes(slot[0x208:0x208 + length])
        key = subprocess.run([str(self.bin / "unwrap_dek"), SOFTHSM, "pkcs11:token=customer;object=kek", str(files / "etc/pins/main"),
                              "sha1" if oaep else "aes-kw", str(files / "blob"), "-"], capture_output=True, check=True,
                             env={"SOFTHSM2_CONF": str(files / "softhsm2.conf"), "PATH": "/usr/bin:/bin"}).stdout
        lines = [f"payload {key.hex()}", f"uuid {header[0x10:0x20].hex()}", f"gen {generation}"] + [f"salt {s.hex()}" for s in sorted(salts)]
        return subprocess.run([str(self.bin / "keyscan"), "--derive"], input="\n".join(lines) + "\n", capture_output=True, text=True,
                              check=True).stdout

    def keys_in_ram(self, patterns):
        """(found anything, what keyscan said) of the whole guest's memory."""
        ram = self.dump_ram()
        done = subprocess.run([str(self.bin / "keyscan"), "--file", str(ram)], input=patterns, capture_output=True, text=True,
                              check=False, timeout=600)
        ram.unlink()
        if done.returncode not in (0, 1):
            raise MachineError(f"keyscan: {done.returncode} {done.stderr}")
        return done.returncode == 1, done.stdout
