"""What the tests of this folder drive: fallgate-mgmt with a supervisor made of lines, a DTLS client made of lines, a relay that sees
and forges datagrams, and the command line client."""

import os
import pathlib
import queue
import re
import secrets
import socket
import subprocess
import threading
import time

import cbor2

BUILD = pathlib.Path(os.environ["FALLGATE_BUILD"])
ROLES = {"auditor": 1, "operator": 2, "officer": 3}
STATES = {"LOCKED": 0, "AVAILABLE": 2, "LOCKING": 5, "INACCESSIBLE": 7}
COMMANDED = 12


def free_port(taken=[0]):
    """Below those that the kernel gives to whoever asks for any: between here and its use no client of a test beside this one gets it."""
    while True:
        taken[0] += 1
        port = 10000 + (os.getpid() * 101 + taken[0]) % 10000
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


class Lines:
    """A child that is told lines and says lines."""

    def __init__(self, argv):
        self.process = subprocess.Popen([str(a) for a in argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.said = queue.Queue()
        self.errors = []
        for stream, sink in ((self.process.stdout, self.hear), (self.process.stderr, self.errors.append)):
            threading.Thread(target=self._read, args=(stream, sink), daemon=True).start()

    @staticmethod
    def _read(stream, sink):
        for line in stream:
            sink(line.decode(errors="replace").rstrip("\n"))

    def hear(self, line):
        self.said.put(line)

    def tell(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def next(self, timeout=5):
        try:
            return self.said.get(timeout=timeout)
        except queue.Empty:
            return None

    def expect(self, pattern, timeout=20):
        """The next line that matches; others are passed over."""
        end = time.monotonic() + timeout
        seen = []
        while (left := end - time.monotonic()) > 0:
            line = self.next(left)
            if line is None:
                break
            seen.append(line)
            if re.search(pattern, line):
                return line
        raise AssertionError(f"no line {pattern!r} within {timeout} s; seen: {seen}; errors: {self.errors[-5:]}")

    def expect_error(self, *words, timeout=20):
        """A line of standard error with all the words: it may come after what standard output says of it."""
        end = time.monotonic() + timeout
        while not any(all(word in line for word in words) for line in self.errors):
            assert time.monotonic() < end, f"no line with {words} within {timeout} s: {self.errors}"
            time.sleep(0.01)

    def close(self):
        if self.process.poll() is None:
            try:
                self.process.stdin.close()
                self.process.wait(10)
            except (subprocess.TimeoutExpired, BrokenPipeError):
                self.process.kill()
                self.process.wait()


class Agent(Lines):
    """fallgate-mgmt and its supervisor."""

    def __init__(self, listen=True, start=True):
        self.told = threading.Semaphore(0)
        super().__init__([BUILD / "test-bin/mgmt_harness", BUILD / "bin/fallgate-mgmt"])
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.pid = int(self.expect("^child").split()[1])
        self.keys = {}
        if start:
            self.expect("^hello .* own-pid")
        if listen:
            self.tell("agent 1 good: keys in memfd_secret|weak: a software token")
            self.tell(f"listen {self.address}")
            self.wait_until_it_listens()

    def hear(self, line):
        if line == "told":
            self.told.release()
        else:
            super().hear(line)

    def tell(self, line):
        """Returns when the line's message is on its way, before anything a client sends afterwards."""
        super().tell(line)
        assert line == "quit" or self.told.acquire(timeout=10), line

    def wait_until_it_listens(self):
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if any("listening" in line for line in self.errors):
                return
            time.sleep(0.01)
        raise AssertionError(self.errors)

    def enroll(self, identity, role, key=None):
        self.keys[identity] = key or secrets.token_hex(32)
        self.tell(f"credential {identity} {ROLES[role]} {self.keys[identity]}")

    def remove(self, identity):
        self.tell(f"credential {identity} 0 -")

    def volume(self, name, state="AVAILABLE", cause=0, latched=0, latch_cause=0, seq=1, formatted=1, text=""):
        self.tell(f"volume {name} {STATES[state]} {cause} {latched} {latch_cause} {seq} {formatted} {text}")

    def probe(self, identity, key=None, address=None):
        return Probe(address or self.address, identity, key or self.keys[identity])

    def credentials(self, path, identity, **changes):
        values = {"address": self.address, "identity": identity, "key": self.keys[identity], **changes}
        path.write_text("[agent]\n" + "".join(f"{k} = {v}\n" for k, v in values.items()))
        path.chmod(0o600)
        return path


class Answer:
    def __init__(self, line):
        words = line.split()
        self.kind = words[0]
        self.fields = dict(w.split("=", 1) for w in words[1:])
        self.code = self.fields.get("code")
        self.raw = bytes.fromhex(self.fields.get("body", ""))

    @property
    def body(self):
        assert self.fields["ct"] == "3c", self.fields
        value = cbor2.loads(self.raw)
        assert cbor2.dumps(value) == self.raw  # shortest forms, nothing behind it
        return value

    def __repr__(self):
        return f"{self.kind} {self.fields}"


class Probe(Lines):
    def __init__(self, address, identity, key):
        super().__init__([BUILD / "test-bin/coap_probe", address, identity, key])

    def ask(self, line, timeout=20):
        self.tell(line)
        return Answer(self.expect("^reply", timeout))

    def notified(self, timeout=10):
        return Answer(self.expect("^notify", timeout))


class Relay:
    """Stands between a client and the agent: keeps what passes, and sends what it is told from the client's own side."""

    def __init__(self, port):
        self.front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.front.bind(("127.0.0.1", 0))
        self.back = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.back.connect(("127.0.0.1", port))
        self.address = f"127.0.0.1:{self.front.getsockname()[1]}"
        self.client = None
        self.passed = []
        threading.Thread(target=self._up, daemon=True).start()
        threading.Thread(target=self._down, daemon=True).start()

    def _up(self):
        while True:
            try:
                data, self.client = self.front.recvfrom(4096)
                self.passed.append((">", data))
                self.back.send(data)
            except OSError:
                return

    def _down(self):
        while True:
            try:
                data = self.back.recv(4096)
                self.passed.append(("<", data))
                self.front.sendto(data, self.client)
            except OSError:
                return

    def forge(self, data):
        self.back.send(data)

    def answers(self):
        """What an onlooker can tell of the agent's datagrams: first record type, size, and what an alert in clear says."""
        return [(data[0], len(data), data[13:] if data[0] == 21 and data[3:5] == b"\0\0" else b"") for way, data in self.passed if way == "<"]

    def close(self):
        self.front.close()
        self.back.close()


def cli(*argv, credentials=None, timeout=60, env=None):
    head = [str(BUILD / "bin/fallgate")] + (["--credentials", str(credentials)] if credentials else [])
    return subprocess.run(head + [str(a) for a in argv], capture_output=True, text=True, timeout=timeout, env=env)
