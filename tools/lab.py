"""A small world on real parts: a token (SoftHSM2, or another: see HSMS) with a KEK, a configuration, the agent, its command line. Used by tools/demo and by
the system tests, so that both see the same product. Everything lives in one directory and is stopped and removed by close()."""

import glob
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"
# Numbers, not names: the laboratory adds no user to the machine. Only used as root.
UIDS = {"hsm": 64771, "dataplane": 64772, "mgmt": 64773, "tpm": 64774}


class LabError(Exception):
    pass


class Result:
    """What a command did: exit code, both outputs, and its JSON if it was asked for that."""

    def __init__(self, argv, completed, seconds):
        self.argv = argv
        self.code = completed.returncode
        self.out = completed.stdout
        self.err = completed.stderr
        self.seconds = seconds

    def json(self):
        return json.loads(self.out)

    def __repr__(self):
        return f"{' '.join(self.argv)} -> {self.code}\n{self.out}{self.err}"


class SoftHsm:
    """SoftHSM2, as it is. What the agent loads, and what the customer's tool does, are two sides of one token."""

    module, init_args, custodian_module = SOFTHSM, "", SOFTHSM

    def __init__(self, lab):
        self.lab = lab

    def environment(self):
        return [f"SOFTHSM2_CONF={self.lab.softhsm_conf}"]

    def make_token(self, label):
        self.lab.custodian("init-token", "--token", label, "--so-pin-file", self.lab.root / "pins/so-pin", "--pin-file", self.lab.root / "pins/pin")

    def close(self):
        pass


class FaultyHsm(SoftHsm):
    """SoftHSM2 behind the module that fails on order (test/fakes/fault_module.c), as a file of its own that can be taken away."""

    def __init__(self, lab):
        super().__init__(lab)
        self.module = lab.root / "module.so"
        self.folder = lab.root / "faults"
        self.install()
        self.folder.mkdir()
        if lab.as_root:
            os.chown(self.folder, UIDS["hsm"], UIDS["hsm"])

    def install(self):
        """Renamed into place: who has the old file mapped goes on with it."""
        fresh = self.lab.root / "module.new"
        shutil.copy(self.lab.build / "test-bin/fault-module.so", fresh)
        os.chmod(fresh, 0o755)
        fresh.rename(self.module)

    def environment(self):
        return [*super().environment(), f"FALLGATE_FAULT_FOLDER={self.folder}"]

    def order(self, *lines):
        """What the module does from now on; nothing: it is well."""
        fresh = self.folder / "script.new"
        fresh.write_text("".join(f"{line}\n" for line in lines))
        os.chmod(fresh, 0o644)
        fresh.rename(self.folder / "script")

    def calls(self, function):
        log = self.folder / "log"
        return [line.split()[0] for line in log.read_text().splitlines()].count(function) if log.exists() else 0


class NssHsm(FaultyHsm):
    """NSS softokn, the second real module, behind the same."""

    def __init__(self, lab):
        super().__init__(lab)
        found = sorted(glob.glob("/usr/lib/*/libsoftokn3.so") + glob.glob("/usr/lib/*/nss/libsoftokn3.so"))
        if not found:
            raise LabError("there is no libsoftokn3.so: install libnss3")
        self.custodian_module = found[0]

    def environment(self):
        return [f"FALLGATE_FAULT_MODULE={self.custodian_module}", f"FALLGATE_FAULT_FOLDER={self.folder}"]

    def make_token(self, label):
        place = self.lab.root / "tokens/nss"
        self.lab.run("mkdir", place, user="hsm")
        self.lab.run("certutil", "-N", "-d", f"sql:{place}", "-f", self.lab.root / "pins/pin", user="hsm")
        self.init_args = f"configdir='sql:{place}' certPrefix='' keyPrefix='' secmod='secmod.db' flags= dbTokenDescription='{label}'"


class ServedHsm(SoftHsm):
    """SoftHSM2 behind p11-kit's server: a token at the end of a wire."""

    module = "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so"

    def __init__(self, lab):
        super().__init__(lab)
        found = glob.glob("/usr/lib/*/pkcs11/p11-kit-client.so")
        if not found:
            raise LabError("there is no p11-kit-client.so: install p11-kit-modules")
        self.module = found[0]
        self.place = lab.root / "wire"
        self.place.mkdir()
        if lab.as_root:
            os.chown(self.place, UIDS["hsm"], UIDS["hsm"])
        self.server = None

    def environment(self):
        return [f"P11_KIT_SERVER_ADDRESS=unix:path={self.place}/socket"]

    def make_token(self, label):
        super().make_token(label)
        self.start()

    def start(self):
        kwargs = {"user": UIDS["hsm"], "group": UIDS["hsm"], "extra_groups": []} if self.lab.as_root else {}
        (self.place / "socket").unlink(missing_ok=True)
        self.server = subprocess.Popen(["p11-kit", "server", "-f", "--provider", SOFTHSM, "--name", str(self.place / "socket"), "pkcs11:"],
                                       env=self.lab.env(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                       cwd="/", start_new_session=True, **kwargs)
        self.lab.wait_for((self.place / "socket").exists, 10, "the server's socket")

    def signal(self, number):
        """To the server and the child that it forked for each connection."""
        os.killpg(self.server.pid, number)

    def stop(self):
        if self.server is not None:
            self.signal(signal.SIGKILL)
            self.server.wait()
        self.server = None

    def close(self):
        self.stop()


HSMS = {"softhsm": SoftHsm, "faulty": FaultyHsm, "nss": NssHsm, "served": ServedHsm}


class Lab:
    count = 0

    def __init__(self, build, keep=False, kek_type="rsa2048", environment=None, libexec=None, hsm="softhsm"):
        self.build = pathlib.Path(build).resolve()
        self.bin = self.build / "bin"
        self.libexec = pathlib.Path(libexec) if libexec else self.bin
        self.keep = keep
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="fallgate-"))
        os.chmod(self.root, 0o711)
        self.as_root = os.geteuid() == 0
        self.kek_type = kek_type
        self.environment = environment or {}
        self.agent_environment = {}  # of the agent alone
        self.agent = None
        self.background = []
        self.log_path = self.root / "agent.log"
        Lab.count += 1
        self.port = 20000 + (os.getpid() * 37 + Lab.count * 101) % 12000
        self.sessions = set()
        for name in ("tokens", "state", "volumes.d", "run", "volumes", "pins"):
            (self.root / name).mkdir()
        os.chmod(self.root / "volumes.d", 0o755)
        if self.as_root:
            os.chown(self.root / "tokens", UIDS["hsm"], UIDS["hsm"])
            os.chmod(self.root / "run", 0o755)
        os.chmod(self.root / "state", 0o700)
        self.softhsm_conf = self.root / "softhsm2.conf"
        self.softhsm_conf.write_text(f"directories.tokendir = {self.root}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
        self._secret("pins/so-pin", "so-" + os.urandom(6).hex())
        self._secret("pins/pin", "pin-" + os.urandom(6).hex())
        self.credentials = {}
        self.hsm = HSMS[hsm](self)

    def _secret(self, name, text):
        path = self.root / name
        path.write_text(text + "\n")
        os.chmod(path, 0o600)
        if self.as_root:
            os.chmod(path.parent, 0o711)
            os.chown(path, UIDS["hsm"], UIDS["hsm"])
        return path

    # ---- running things ----

    def env(self):
        env = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS")}
        env["PATH"] = env.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"  # mke2fs, debugfs: not in a plain user's
        env["SOFTHSM2_CONF"] = str(self.softhsm_conf)
        env.update(self.environment)
        return env

    def run(self, *argv, check=True, timeout=60, user=None, input=None):
        argv = [str(a) for a in argv]
        kwargs = {}
        if user is not None and self.as_root:
            kwargs = {"user": UIDS[user], "group": UIDS[user], "extra_groups": []}
        began = time.monotonic()
        completed = subprocess.run(argv, capture_output=True, text=True, env=self.env(), timeout=timeout, cwd="/", input=input, **kwargs)
        result = Result(argv, completed, time.monotonic() - began)
        if check and result.code != 0:
            raise LabError(repr(result))
        return result

    def custodian(self, *argv, check=True, **kwargs):
        """The customer's own tool, run as the user who owns the token's files."""
        head = [self.bin / "fallgate-custodian", "--module", self.hsm.custodian_module]
        if self.hsm.init_args:
            head += ["--init-args", self.hsm.init_args]
        return self.run(*head, *argv, check=check, user="hsm", **kwargs)

    def cli(self, *argv, role="officer", check=True, js=False, timeout=60):
        head = [self.bin / "fallgate"]
        if role in self.credentials:
            head += ["--credentials", self.credentials[role]]
        if js:
            head += ["--json"]
        return self.run(*head, *argv, check=check, timeout=timeout)

    # ---- the HSM ----

    def make_token(self, label="customer"):
        self.token = label
        self.hsm.make_token(label)

    def make_kek(self, label="kek", type=None):
        self.kek_label = label
        return self.custodian("make-kek", "--token", self.token, "--pin-file", self.root / "pins/pin", "--label", label,
                              "--type", type or self.kek_type)

    def kek(self, verb, *more, label=None):
        return self.custodian(verb, "--token", self.token, "--pin-file", self.root / "pins/pin", "--label", label or self.kek_label, *more)

    # ---- configuration ----

    def write_config(self, agent="", kek="", name="main", uri_extra="", pin="pins/pin", label=None):
        users = "".join(f"user_{n} = {u}\n" for n, u in UIDS.items()) if self.as_root else ""
        (self.root / "fallgate.conf").write_text(
            f"[agent]\nstate_dir = {self.root}/state\nrun_dir = {self.root}/run\ncoap = 127.0.0.1:{self.port}\n"
            f"libexec_dir = {self.libexec}\n{users}{agent}\n"
            f"[kek {name}]\nmodule = {self.hsm.module}\n" + "".join(f"environment = {e}\n" for e in self.hsm.environment()) +
            (f"init_args = {self.hsm.init_args}\n" if self.hsm.init_args else "") +
            f"uri = pkcs11:token={self.token};object={label or self.kek_label}?pin-source=file:{self.root}/{pin}{uri_extra}\n{kek}")

    def write_volume(self, name="demo", size="1G", kek="main", attach="auto", more="", backing=None):
        backing = backing or self.root / "volumes" / f"{name}.img"
        size_line = f"size = {size}\n" if size else ""
        (self.root / "volumes.d" / f"{name}.conf").write_text(
            f"[volume]\nbacking = {backing}\n{size_line}kek = {kek}\nattach = {attach}\n{more}")
        return pathlib.Path(backing)

    # ---- the agent ----

    def start(self, wait=True):
        log = open(self.log_path, "ab")
        self.agent = subprocess.Popen([str(self.bin / "fallgated"), "--config", str(self.root / "fallgate.conf"), "--libexec", str(self.libexec)],
                                      stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**self.env(), **self.agent_environment}, cwd="/",
                                      start_new_session=True)
        self.sessions.add(self.agent.pid)
        log.close()
        if wait:
            self.wait_for(lambda: (self.root / "run/console.sock").exists() or self.agent.poll() is not None, 20, "the agent's console")
            if self.agent.poll() is not None:
                raise LabError(f"the agent ended with {self.agent.returncode}:\n{self.log()}")
            self.wait_management(10)

    def wait_management(self, timeout):
        """The console comes first; a client of the manager that is not there yet is told so at once. Without one by then it is the caller's to see."""
        end = time.monotonic() + timeout
        while time.monotonic() < end and self.agent.poll() is None:
            rows = pathlib.Path("/proc/net/udp").read_text().splitlines()[1:]
            if any(row.split()[1] == f"0100007F:{self.port:04X}" for row in rows):
                break
            time.sleep(0.01)

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def enroll(self, role, identity=None):
        path = self.root / f"{identity or role}.credentials"
        self.run(self.bin / "fallgate", "--run-dir", self.root / "run", "enroll", "--role", role, identity or role, "--out", path)
        self.credentials[identity or role] = path
        return path

    def enroll_all(self):
        for role in ("officer", "operator", "auditor"):
            self.enroll(role)

    def status(self, name="demo", role="auditor"):
        return self.cli("status", name, role=role, js=True).json()

    def state(self, name="demo"):
        return self.status(name)["state"]

    def ledger(self, event=None):
        """The ledger's whole lines, or those of an event. They are written by a thread of its own, each made durable before the next: on a
        slow disk they come after the state that they tell of, so what is to be in it is waited for (wait_ledger, ledger_settled)."""
        path = self.root / "state/ledger"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [line for line in map(json.loads, lines) if event in (None, line["event"])]

    def wait_ledger(self, event, count=1, timeout=20, **members):
        """Its lines of that event with these members, once there are so many."""
        def found():
            lines = [line for line in self.ledger(event) if all(line.get(k) == v for k, v in members.items())]
            return lines if len(lines) >= count else None
        return self.wait_for(found, timeout, f"{count} lines of {event} {members or ''} in the ledger")

    def ledger_settled(self, name="demo", timeout=20):
        """The ledger, once the volume's last change of state is in it."""
        def settled():
            lines = self.ledger()
            mine = [line["gate_seq"] for line in lines if line.get("volume") == name and "gate_seq" in line]
            return lines if mine and mine[-1] >= self.status(name)["gate_seq"] else None
        return self.wait_for(settled, timeout, f"the last of volume {name} in the ledger")

    def wait_state(self, state, name="demo", timeout=20):
        seen = []

        def reached():
            s = self.status(name)
            seen.append(f"{s['state']}({s.get('cause')})")
            return s if s["state"] == state else None

        return self.wait_for(reached, timeout, f"volume {name} in state {state}", lambda: seen[-1] if seen else "nothing")

    def serve(self, name="demo", timeout=20):
        """Attached, unless it is on its way by itself (a status is a moment old), and waited for."""
        if self.state(name) == "LOCKED":
            done = self.cli("attach", name, role="operator", check=False)
            if done.code not in (0, 18):
                raise LabError(repr(done))
        return self.wait_state("AVAILABLE", name, timeout)

    def wait_after(self, gate_seq, state, name="demo", timeout=20):
        """In this state after a change that may not be in the status yet: the gate's sequence was this before it."""
        def reached():
            s = self.status(name)
            return s if s["state"] == state and s["gate_seq"] > gate_seq else None
        return self.wait_for(reached, timeout, f"volume {name} in state {state}, past its change {gate_seq}")

    def wait_for(self, predicate, timeout, what, seen=None):
        end = time.monotonic() + timeout
        while True:
            last = None
            try:
                value = predicate()
                if value:
                    return value
            except LabError as error:
                last = error
            if time.monotonic() > end:
                extra = f"; last seen: {seen()}" if seen else ""
                raise LabError(f"{what}: not within {timeout} s{extra}{'; ' + str(last) if last else ''}\n{self.log()[-4000:]}")
            time.sleep(0.05)

    def uri(self, name="demo"):
        return f"nbd+unix:///?socket={self.root}/run/{name}.sock"

    def processes(self):
        """Every living process of this agent, of all its starts: {pid: command line}."""
        found = {}
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                if int(fields[3]) in self.sessions and fields[0] != "Z":
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except (OSError, IndexError):
                continue
        return found

    def dataplanes(self, name="demo"):
        return [pid for pid, line in self.processes().items() if "fallgate-nbd.so" in line and f"name={name}" in line]

    def token_files(self):
        """What the token's files hold. SoftHSM rewrites one at each login: in that moment it is empty, and is looked at again."""
        files = {}
        for path in (self.root / "tokens").rglob("*"):
            for _ in range(20):
                try:
                    files[path] = path.read_bytes() if path.is_file() else b""
                except OSError:
                    continue
                if files[path] or path.is_dir() or path.suffix == ".lock":
                    break
                time.sleep(0.005)
        return files

    def put_back(self, files):
        """Those that are empty now: a process that was killed in its login left them so. That is SoftHSM's own weakness, and not looked at."""
        for path, content in files.items():
            if content and path.exists() and path.stat().st_size == 0:
                path.write_bytes(content)

    def stop(self, sig=signal.SIGTERM, timeout=15):
        if self.agent and self.agent.poll() is None:
            files = self.token_files()
            self.agent.send_signal(sig)
            try:
                self.agent.wait(timeout)
            except subprocess.TimeoutExpired:
                self.agent.kill()
                self.agent.wait()
                raise LabError(f"the agent did not stop within {timeout} s\n{self.log()[-4000:]}")
            self.put_back(files)
        return self.agent.returncode if self.agent else None

    def kill(self):
        """kill -9; its hsm processes go with it."""
        files = self.token_files()
        self.agent.kill()
        self.agent.wait()
        self.put_back(files)

    def spawn(self, *argv, **kwargs):
        process = subprocess.Popen([str(a) for a in argv], env=self.env(), stdin=subprocess.DEVNULL, cwd="/", **kwargs)
        self.background.append(process)
        return process

    def close(self):
        for process in self.background:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
        try:
            self.stop()
        finally:
            self.hsm.close()
            for pid in self.processes():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            if not self.keep:
                shutil.rmtree(self.root, ignore_errors=True)
