#!/usr/bin/python3 -B
"""kill -9 of every process at every message and at every change of state: before it is sent, when it is sent, when it is received. After
each: keys gone or serving within the bound, no half state, no orphan, the data as it was, and a restart that is clean.
    kills.py [--times 3] [--only ROLE]     everything (FALLGATE_BUILD names the build); test_kills.py runs a sample
What is killed is found out first: a round without a kill tells every message that passes."""

import argparse
import os
import pathlib
import random
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import nbd  # noqa: E402

from shim import POINTS, shimmed_lab  # noqa: E402
from lab import LabError  # noqa: E402  (the path to it is conftest's, which shim takes in)

SPARE = 40  # volumes that are not created yet
CREATION = {"HSM_WRAP", "DP_CREATE", "PAGE_WRAP", "DP_CREATED"}
# What passes when a manager or a prover starts: one is killed for another to come.
AT_START = {"supervisor": {"MG_LISTEN", "MG_CREDENTIAL", "MG_AGENT"}, "mgmt": {"HELLO", "MG_LISTEN", "MG_CREDENTIAL", "MG_AGENT"},
            "prober": {"HELLO", "HSM_OPEN", "HSM_OPENED"}}
STARTED = {"supervisor": "fallgate-mgmt", "mgmt": "fallgate-mgmt", "prober": "fallgate-hsm"}
# A life without a supervisor (the keys go at once, which test_gate.py looks at; what was written is still flushed), and how long the whole
# may take to be well again.
ALONE_S, WELL_S, ASK_S = 5, 25, 2


class Campaign:
    def __init__(self, kek_type="rsa2048"):
        self.lab = shimmed_lab(kek_type=kek_type)
        self.created, self.creating = 0, None
        try:
            lab = self.lab
            lab.make_token()
            lab.make_kek()
            lab.write_config(kek="probe_interval = 100ms\noutage_budget = 1s\n", agent=lab.extra_agent)
            lab.write_volume("demo", "16M")
            for i in range(SPARE):
                lab.write_volume(f"v{i}", "1M", attach="manual")
            lab.start()
            lab.enroll_all()
            lab.cli("create", "demo", role="operator")
            lab.wait_state("AVAILABLE")
            self.data = os.urandom(1 << 20)
            handle = self.connect()
            handle.pwrite(self.data, 0)
            handle.flush()
            handle.shutdown()
            self.tokens = {p: p.read_bytes() for p in lab.root.glob("tokens/*/*") if p.is_file()}
        except BaseException:
            self.close()
            raise

    def close(self):
        self.lab.close()

    # ---- the round ----

    def connect(self):
        handle = nbd.NBD()
        handle.connect_uri(self.lab.uri())
        return handle

    def agent_lives(self):
        return self.lab.agent.poll() is None

    def ask(self, *argv, role):
        """An order that a kill may spoil: then nobody waits for its answer."""
        if not self.agent_lives():
            return
        lab = self.lab
        client = lab.spawn(lab.bin / "fallgate", "--credentials", lab.credentials[role], *argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + ASK_S
        while client.poll() is None and time.monotonic() < end:
            if not self.agent_lives() or lab.orders.fired():
                end = min(end, time.monotonic() + 0.3)
            time.sleep(0.003)
        client.kill()
        client.wait()
        lab.background.remove(client)

    def io(self):
        try:
            handle = self.connect()
            handle.pwrite(self.data[:65536], 0)
            handle.pread(65536, 1 << 19)
            handle.flush()
            handle.shutdown()
        except nbd.Error:
            pass  # the gate, or a killed process

    def trouble(self):
        """SUSPECT, OUTAGE and back: a prover that dies, and a token that is not there for a moment."""
        for pid, line in self.lab.processes().items():
            if "fallgate-hsm" in line:
                os.kill(pid, 9)
        (self.lab.root / "tokens").rename(self.lab.root / "elsewhere")
        time.sleep(0.5)
        (self.lab.root / "elsewhere").rename(self.lab.root / "tokens")
        self.settle(1.0)

    def round(self, create, trouble=False):
        self.io()
        if trouble:
            self.trouble()
        self.ask("revoke", "demo", role="officer")
        self.look_at_orphans()
        self.ask("restore", "demo", role="officer")
        self.settle(1.0)
        self.ask("detach", "demo", role="operator")
        self.look_at_orphans()
        self.ask("attach", "demo", role="operator")
        self.settle(1.0)
        self.io()
        if create:
            self.creating = f"v{self.created}"
            self.created += 1
            self.ask("create", self.creating, role="operator")
            self.look_at_orphans()

    def settle(self, seconds):
        end = time.monotonic() + seconds
        while self.agent_lives() and time.monotonic() < end:
            try:
                if self.lab.state() == "AVAILABLE":
                    return
            except (LabError, ValueError):
                pass
            time.sleep(0.02)

    # ---- what must hold ----

    def look_at_orphans(self):
        """A supervisor that is gone takes everything with it: the data planes wipe and end by themselves."""
        if self.agent_lives():
            return
        end = time.monotonic() + ALONE_S
        while self.lab.processes():
            if time.monotonic() > end:
                raise LabError(f"{ALONE_S} s after the supervisor's death these live: {self.lab.processes()}")
            time.sleep(0.01)

    def put_token_back(self):
        """SoftHSM rewrites its files at a login: killed there, it can leave them empty. That is its own weakness, and not looked at here."""
        for path, content in self.tokens.items():
            if not path.exists() or (path.read_bytes() == b"" and content):
                owner = path.parent.stat()
                path.write_bytes(content)
                os.chmod(path, 0o600)
                os.chown(path, owner.st_uid, owner.st_gid)

    def agree(self, status):
        """What is said is what is: a volume that is said to be shut does not answer."""
        if status["state"] in ("INACCESSIBLE", "LOCKED"):
            try:
                self.connect().pread(4096, 0)
            except nbd.Error:
                return
            if self.lab.status()["gate_seq"] == status["gate_seq"]:
                raise LabError(f"said to be {status['state']}, and it answers")

    def well_again(self):
        self.look_at_orphans()
        began = time.monotonic()
        while True:
            self.put_token_back()
            if not self.agent_lives():
                self.look_at_orphans()
                self.lab.start()
            try:
                status = self.lab.status()
                self.agree(status)
                if status["state"] == "FAULT":
                    raise RuntimeError("FAULT")
                if status["state"] == "AVAILABLE" and not status["latched"]:
                    break
                if status["latched"]:
                    self.ask("restore", "demo", role="officer")
                elif status["state"] == "LOCKED":
                    self.ask("attach", "demo", role="operator")
                elif status.get("cause") == "access-revoked":  # a login was killed: the PIN is given anew
                    self.lab._secret("pins/again", (self.lab.root / "pins/pin").read_text().strip())
                    (self.lab.root / "pins/again").rename(self.lab.root / "pins/pin")
            except (LabError, ValueError) as error:
                if "it answers" in str(error):
                    raise
            if time.monotonic() - began > WELL_S:
                raise LabError(f"not well again after {WELL_S} s: {self.lab.cli('status', 'demo', role='auditor', check=False)}\n{self.lab.log()[-3000:]}")
            time.sleep(0.05)
        handle = self.connect()
        if bytes(handle.pread(len(self.data), 0)) != self.data:
            raise LabError("the data is not as it was")
        handle.shutdown()
        if self.creating:
            self.look_at_creation()
        self.look_at_family()

    def look_at_creation(self):
        """A creation that was cut short is there, whole, or can be had; with --force, if the store was formatted and no record written:
        what holds a volume of somebody's is never overwritten without."""
        again = self.create_again()
        status = self.lab.status(self.creating)
        if again.code == 8 and not status["formatted"]:
            again = self.create_again("--force")
            status = self.lab.status(self.creating)
        if again.code not in (0, 8) or not status["formatted"]:
            raise LabError(f"a creation was left half done: {again} {status}")
        self.creating = None

    def create_again(self, *options):
        """The one that was cut short may still be on its way out: that is said, and soon over."""
        end = time.monotonic() + 5
        while True:
            again = self.lab.cli("create", *options, self.creating, role="operator", check=False)
            if again.code != 7 or time.monotonic() > end:
                return again
            time.sleep(0.05)

    def look_at_family(self):
        """Nobody is left over: one supervisor, one manager, one data plane for the volume, and provers that come and go."""
        end = time.monotonic() + 5
        while True:
            lines = list(self.lab.processes().values())
            count = {what: sum(what in line for line in lines) for what in ("fallgated ", "fallgate-mgmt", "name=demo", "fallgate-dataplane", "--one-shot")}
            if count["fallgated "] == 1 and count["fallgate-mgmt"] == 1 and count["name=demo"] == 1 and count["fallgate-dataplane"] == 0 and \
                    count["--one-shot"] == 0 and len(lines) <= 5 + sum("name=v" in line for line in lines):
                return
            if time.monotonic() > end:
                raise LabError("who is there: " + "; ".join(lines))
            time.sleep(0.05)

    # ---- points ----

    def find_points(self):
        """(role, point, message, state or None), every one that occurs."""
        self.lab.orders.forget()
        self.lab.stop()
        self.lab.start()
        self.lab.wait_state("AVAILABLE")
        self.round(create=True, trouble=True)
        self.well_again()
        time.sleep(1.2)  # statistics, and a fresh prober
        points = [(*key, None) for key in sorted(self.lab.orders.seen()) if key[0] != "creator" or key[2] != "HELLO" or key[1] != POINTS[2]]
        points += [(role, point, "MG_VOLUME", state) for role, point, state in sorted(self.lab.orders.states_told())]
        return points

    def kill_at(self, role, point, type_, state):
        """False: the point was not passed this time."""
        orders = self.lab.orders
        mark = len(self.lab.log())
        orders.arm(role, point, type_, state)
        try:
            if type_ in AT_START.get(role, ()):
                for pid, line in self.lab.processes().items():
                    if STARTED[role] in line and "one-shot" not in line:
                        os.kill(pid, 9)
                time.sleep(0.3)
            self.round(create=type_ in CREATION or role == "creator", trouble=state in ("SUSPECT", "OUTAGE"))
            end = time.monotonic() + (6 if role == "mgmt" else 1.5 if type_ in ("DP_STATS", "MG_VOLUME", "HSM_CLOSE") else 0.3)
            while not orders.fired() and self.agent_lives() and time.monotonic() < end:
                time.sleep(0.02)
            fired = orders.fired()
            orders.disarm()
            self.well_again()
        except Exception as error:
            raise LabError(f"killed {role} {point} {type_} {state or ''}: {error}\n{self.lab.log()[mark:][-6000:]}") from error
        finally:
            orders.disarm()
        return bool(fired)


def sample(points):
    """Every message of every process once, the point of it in turn; every state once."""
    chosen, turn = {}, {}
    for role, point, type_, state in points:
        chosen.setdefault((role, type_, state), []).append(point)
    for i, (key, found) in enumerate(sorted(chosen.items(), key=str)):
        turn[key] = found[i % len(found)]
    points = [(role, point, type_, state) for (role, type_, state), point in turn.items()]
    random.Random(0).shuffle(points)  # so that what time cuts off is not one process's
    return points


def run(choose, times=1, until=None, enough=lambda done: True, say=print):
    """What was killed and where; raises at the first that is not well again. until: seconds after which no more is begun, if what was done
    is enough; a slow machine gets four times as many."""
    began = time.monotonic()
    campaign = Campaign()
    done, passed_by = [], []
    try:
        points = choose(campaign.find_points())
        for n in range(times):
            for point in points:
                spent = time.monotonic() - began
                if until and spent > until and (enough(done) or spent > 4 * until):
                    break
                if campaign.created >= SPARE:
                    campaign.close()
                    campaign = Campaign()
                at = time.monotonic()
                hit = campaign.kill_at(*point)
                (done if hit else passed_by).append(point)
                say(f"{n + 1}: {' '.join(str(p) for p in point if p)}: {'well again' if hit else 'not passed'} {time.monotonic() - at:.1f} s")
    finally:
        campaign.close()
    return points, done, passed_by


def main():
    parser = argparse.ArgumentParser(description="kill -9 of every process at every message and change of state")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--only", help="a role")
    parser.add_argument("--sample", action="store_true")
    options = parser.parse_args()

    def choose(points):
        return [p for p in (sample(points) if options.sample else points) if options.only in (None, p[0])]

    points, done, passed_by = run(choose, options.times, say=lambda text: print(text, flush=True))
    print(f"{len(points)} points, {len(done)} kills, each well again; not passed: {sorted(set(passed_by) - set(done), key=str)}")
    return 1 if set(passed_by) - set(done) else 0


if __name__ == "__main__":
    sys.exit(main())
