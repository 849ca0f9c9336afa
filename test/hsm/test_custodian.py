"""The custodian's tool from an empty token to a deleted key, on SoftHSM2, as an administrator would use it."""
import glob
import json
import os
import pty
import re
import select
import subprocess
import time

import pytest

TOOL = os.environ["FALLGATE_CUSTODIAN"]
MODULE = os.environ["SOFTHSM_MODULE"]
EXIT = {"usage": 2, "exists": 8, "not-found": 9, "range": 10, "refused": 14, "unsupported": 20}

pytestmark = pytest.mark.skipif(not os.path.exists(MODULE), reason=f"there is no {MODULE} here")


class Token:
    module = MODULE

    def __init__(self, folder):
        self.folder = folder
        (folder / "tokens").mkdir()
        conf = folder / "softhsm2.conf"
        conf.write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
        self.env = {"SOFTHSM2_CONF": str(conf), "PATH": "/usr/bin:/bin"}
        for name, pin in (("pin", "24681357"), ("so", "87654321"), ("new", "11223344"), ("wrong", "00000000"), ("short", "1")):
            (folder / name).write_text(pin + "\n")

    def raw(self, *argv):
        env = dict(self.env)
        if argv and argv[0] == "public-key":
            env["ASAN_OPTIONS"] = "detect_leaks=0"  # libp11 never frees its RSA method, nor the key that refers to it
        return subprocess.run([TOOL, *map(str, argv)], capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL, timeout=60,
                              start_new_session=True)

    def run(self, verb, *argv, pin="pin", code=0, token="ceremony"):
        done = self.raw(verb, "--module", self.module, "--token", token, "--pin-file", self.folder / pin, *argv)
        assert done.returncode == code, (done.args, done.stdout, done.stderr)
        if code != 0:
            assert done.stderr.count("\n") == 1 and done.stderr.startswith("fallgate-custodian: "), done.stderr
        for secret in ("24681357", "87654321", "11223344", "00000000"):
            assert secret not in done.stdout + done.stderr
        return done.stdout

    def keys(self, **more):
        return {k["label"]: k for k in json.loads(self.run("list", "--json", **more))}


@pytest.fixture
def token(tmp_path):
    t = Token(tmp_path)
    t.run("init-token", "--so-pin-file", tmp_path / "so")
    return t


@pytest.mark.parametrize("kind", ["rsa2048", "rsa3072", "rsa4096", "aes256"])
def test_a_keys_whole_life(token, kind):
    uri = token.run("make-kek", "--type", kind, "--label", "my key", "--id", "0aFF").strip()
    assert uri == f"pkcs11:token=ceremony;object=my%20key;id=%0A%FF;type={'secret-key' if kind == 'aes256' else 'private'}"
    key = token.keys()["my key"]
    rsa = kind != "aes256"
    assert key == {"uri": uri, "label": "my key", "id": "0aff", "type": kind, "enabled": True, "sensitive": True, "extractable": False,
                   "modifiable": True, "decrypt": rsa, "wrap": not rsa, "unwrap": not rsa, "start": "", "end": ""}
    token.run("disable", "--label", "my key")
    key = token.keys()["my key"]
    assert not (key["enabled"] or key["decrypt"] or key["wrap"] or key["unwrap"])
    assert "disabled" in token.run("list")
    token.run("enable", "--id", "0aff")
    key = token.keys()["my key"]
    assert key["enabled"] and key["decrypt"] == rsa and key["unwrap"] == (not rsa)
    token.run("delete", "--label", "my key", code=EXIT["usage"])  # nobody can be asked here
    token.run("delete", "--ye", "--label", "my key", code=EXIT["usage"])
    assert "my key" in token.keys()
    token.run("delete", "--yes", "--label", "my key")
    assert token.keys() == {}
    token.run("delete", "--yes", "--label", "my key", code=EXIT["not-found"])
    objects = [n for _, _, names in os.walk(token.folder / "tokens") for n in names if n.endswith(".object") and n != "token.object"]
    assert objects == []  # the public half went with it


def test_a_token_at_the_end_of_a_wire(token):
    """p11-kit's client gives each that asks for its functions an instance of its own: nothing of one's login is known to the next."""
    client = glob.glob("/usr/lib/*/pkcs11/p11-kit-client.so")
    if not client:
        pytest.skip("there is no p11-kit-client.so: install p11-kit-modules")
    place = token.folder / "socket"
    server = subprocess.Popen(["p11-kit", "server", "-f", "--provider", MODULE, "--name", str(place), "pkcs11:"], env=token.env,
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 30
        while not place.exists():
            assert time.monotonic() < deadline and server.poll() is None, "p11-kit's server did not start"
            time.sleep(0.02)
        far = Token.__new__(Token)
        far.folder, far.module = token.folder, client[0]
        far.env = {**token.env, "P11_KIT_SERVER_ADDRESS": f"unix:path={place}"}
        for kind in ("rsa2048", "aes256"):
            far.run("make-kek", "--type", kind, "--label", kind)
            far.run("disable", "--label", kind)
            assert not far.keys()[kind]["enabled"] and not token.keys()[kind]["enabled"]
            far.run("enable", "--label", kind)
        assert "BEGIN PUBLIC KEY" in far.run("public-key", "--label", "rsa2048")
        far.run("list", pin="wrong", code=EXIT["refused"])
        far.run("delete", "--yes", "--label", "aes256")
        assert list(token.keys()) == ["rsa2048"] and token.keys()["rsa2048"]["enabled"]
    finally:
        os.killpg(server.pid, 9)
        server.wait()


def test_a_label_is_padded_as_the_standard_says(token):
    # What another tool sees must be the label alone, or a URI with token= would not find it.
    listed = subprocess.run(["softhsm2-util", "--show-slots"], capture_output=True, env=token.env, check=True).stdout
    assert re.search(rb"Label: +ceremony +\n", listed), listed


def test_a_second_token_or_key_of_the_same_name_is_refused(token):
    token.run("init-token", "--so-pin-file", token.folder / "so", code=EXIT["exists"])
    token.run("make-kek", "--type", "aes256", "--label", "a", "--id", "01")
    token.run("make-kek", "--type", "rsa2048", "--label", "a", "--id", "02", code=EXIT["exists"])
    token.run("make-kek", "--type", "rsa2048", "--label", "b", "--id", "01", code=EXIT["exists"])
    assert list(token.keys()) == ["a"]
    token.run("init-token", "--so-pin-file", token.folder / "so", token="second")
    tokens = json.loads(token.raw("list", "--module", MODULE, "--json").stdout)
    assert sorted(t["label"] for t in tokens) == ["ceremony", "second"]


def test_pins_are_changed_and_reset(token):
    token.run("set-pin", "--new-pin-file", token.folder / "new")
    token.run("list", code=EXIT["refused"])
    token.run("list", pin="new")
    token.run("set-pin", "--new-pin-file", token.folder / "pin", pin="wrong", code=EXIT["refused"])
    token.run("set-pin", "--so-pin-file", token.folder / "so", "--new-pin-file", token.folder / "pin")
    token.run("list")
    token.run("set-pin", "--new-pin-file", token.folder / "short", code=EXIT["range"])
    token.run("list")


def test_dates(token):
    token.run("make-kek", "--type", "rsa2048", "--label", "r")
    token.run("set-dates", "--label", "r", "--start", "20260101", "--end", "20991231")
    assert (token.keys()["r"]["start"], token.keys()["r"]["end"]) == ("20260101", "20991231")
    token.run("set-dates", "--label", "r", "--start", "20270101", "--end", "20260101", code=EXIT["usage"])
    assert token.keys()["r"]["end"] == "20991231", "a key that is never valid"
    token.run("set-dates", "--label", "r", "--end", "none")
    assert (token.keys()["r"]["start"], token.keys()["r"]["end"]) == ("20260101", "")
    for bad in ("2026-01-01", "20261301", "20260100", "20260230", "20260229", "21000229", "tomorrow", "2026010"):
        token.run("set-dates", "--label", "r", "--end", bad, code=EXIT["usage"])
    # SoftHSM2 takes a secret key's date and never gives it back: that must not look like success.
    token.run("make-kek", "--type", "aes256", "--label", "a")
    token.run("set-dates", "--label", "a", "--end", "20991231", code=EXIT["unsupported"])


def test_public_key(token):
    token.run("make-kek", "--type", "rsa3072", "--label", "r")
    pem = token.run("public-key", "--label", "r")
    shown = subprocess.run(["openssl", "pkey", "-pubin", "-noout", "-text"], input=pem, capture_output=True, text=True, check=True).stdout
    assert "3072 bit" in shown
    token.run("make-kek", "--type", "aes256", "--label", "a")
    token.run("public-key", "--label", "a", code=EXIT["usage"])


def test_commands_that_make_no_sense(token):
    for argv in ([], ["frobnicate"], ["list"], ["list", "extra", "--module", MODULE], ["list", "--pin", "1234"],
                 ["make-kek", "--module", MODULE, "--type", "rsa1024", "--label", "x"], ["make-kek", "--module", MODULE, "--type", "aes256"],
                 ["disable", "--module", MODULE], ["disable", "--module", MODULE, "--id", "0"], ["disable", "--module", MODULE, "--id", "zz"],
                 ["set-dates", "--module", MODULE, "--label", "x"]):
        done = token.raw(*argv)
        assert done.returncode == EXIT["usage"] and done.stderr, argv
    assert token.raw("list", "--module", "/nonexistent.so").returncode == EXIT["not-found"]
    token.run("list", token="nobody", code=EXIT["not-found"])
    (token.folder / "empty").write_text("")
    token.run("list", pin="empty", code=EXIT["range"])
    token.run("list", pin="missing", code=EXIT["not-found"])
    # Without a file and without a terminal there is no PIN.
    assert token.raw("list", "--module", MODULE, "--token", "ceremony").returncode == EXIT["usage"]
    assert token.raw("--version").stdout.startswith("fallgate-custodian ")
    assert "make-kek" in token.raw("--help").stdout


def test_a_typed_pin_is_not_echoed(token):
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(TOOL, [TOOL, "list", "--module", MODULE, "--token", "ceremony"], token.env)
    shown, typed, deadline = b"", False, time.monotonic() + 30
    while time.monotonic() < deadline:
        if select.select([fd], [], [], 1)[0]:
            try:
                piece = os.read(fd, 4096)
            except OSError:
                break
            if not piece:
                break
            shown += piece
        if not typed and b"user PIN: " in shown:
            os.write(fd, b"24681357\n")
            typed = True
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, shown
    assert typed and b"24681357" not in shown and b"holds no key" in shown
