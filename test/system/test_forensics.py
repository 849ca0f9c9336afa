"""After a revoke no key is anywhere: a search that finds the DEK, its derived keys, round keys and hash powers while the volume serves
finds none of them in any process of the agent once the gate has fallen. Once with keys in memfd_secret (read from inside, by a write
that is injected into the process), once in the fallback, which can be read from outside."""

import os
import struct

import nbd
import pytest

from conftest import make_lab

MAGIC = b"FGVOL\r\n\x1a"


def wrapped_key(image):
    """Header A: uuid, and the wrapped payload of the first KEK slot (SPEC.md, "Header")."""
    with open(image, "rb") as file:
        header = file.read(65536)
    assert header[:8] == MAGIC
    slot = header[4096:8192]
    kind, oaep = struct.unpack_from("<I", slot, 4)[0], struct.unpack_from("<I", slot, 0x1C)[0]
    length, _, generation = struct.unpack_from("<HHI", slot, 0x200)
    return {"uuid": header[0x10:0x20], "kind": kind, "hash": oaep, "generation": generation, "blob": slot[0x208:0x208 + length]}


def salts(image):
    """Every salt that stands in clear on the image: in root records and nodes."""
    found = set()
    with open(image, "rb") as file:
        while block := file.read(4096):
            if block[0x1C:0x20] in (b"FGR1", b"FGN1"):
                found.add(block[0x10:0x1C])
    return found


def patterns(lab, image):
    key = wrapped_key(image)
    blob = lab.root / "blob"
    blob.write_bytes(key["blob"])
    blob.chmod(0o644)
    uri = f"pkcs11:token={lab.token};object={lab.kek_label}"
    argv = [lab.bin / "unwrap_dek", "/usr/lib/softhsm/libsofthsm2.so", uri, lab.root / "pins/pin", "sha1" if key["kind"] == 2 else "aes-kw", blob, "-"]
    import subprocess
    done = subprocess.run([str(a) for a in argv], env=lab.env(), capture_output=True, cwd="/",
                          **({"user": 64771, "group": 64771, "extra_groups": []} if lab.as_root else {}))
    assert done.returncode == 0 and len(done.stdout) == 48, done.stderr
    lines = [f"payload {done.stdout.hex()}", f"uuid {key['uuid'].hex()}", f"gen {key['generation']}"]
    lines += [f"salt {s.hex()}" for s in sorted(salts(image))]
    derived = lab.run(lab.bin / "keyscan", "--derive", input="\n".join(lines) + "\n").out
    assert len(derived.splitlines()) > 100
    return derived


def search(lab, text, *options):
    """Of every process of the agent. A prover that ended before it was looked at was not looked at: then all of it again."""
    for _ in range(5):
        pids = [str(p) for p in lab.processes()]
        assert pids
        done = lab.run(lab.bin / "keyscan", *options, *pids, check=False, input=text, timeout=300)
        if done.code != 2 or set(pids) <= {str(p) for p in lab.processes()}:
            break
    return done


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to look into other processes")
@pytest.mark.parametrize("kek_type", ["rsa2048", "aes256"])
@pytest.mark.parametrize("memory", ["memfd_secret", "locked-memfd"])
def test_no_key_is_left_after_a_revoke(memory, kek_type):
    lab = make_lab(kek_type=kek_type, environment={"FALLGATE_SECRET_MEMORY": "memfd"} if memory == "locked-memfd" else None)
    try:
        lab.make_token()
        lab.make_kek()
        lab.write_config()
        image = lab.write_volume("demo", "64M")
        lab.start()
        lab.enroll_all()
        lab.cli("create", "demo", role="operator")
        status = lab.wait_state("AVAILABLE")
        if memory == "memfd_secret" and status["memory"] != "memfd_secret":
            pytest.skip(f"this kernel has no memfd_secret: keys are in {status['memory']}")
        assert status["memory"] == memory
        handle = nbd.NBD()
        handle.connect_uri(lab.uri())
        for i in range(16):
            handle.pwrite(os.urandom(1 << 20), i << 20)
        handle.flush()
        for i in range(16):
            handle.pread(1 << 20, i << 20)
        text = patterns(lab, image)
        found = search(lab, text, "--inject")
        assert found.code == 1, f"the search is blind: it must find the keys while the volume serves\n{found}"
        where = {line.split()[0] for line in found.out.splitlines() if line.split() and line.split()[0].isdigit()}
        assert where == {str(p) for p in lab.dataplanes()}, f"keys outside the data plane:\n{found.out[:3000]}"
        lab.cli("revoke", "demo")
        lab.wait_state("INACCESSIBLE")
        after = search(lab, text, "--inject")
        assert after.code == 0, f"after the revoke:\n{after.out[:3000]}{after.err[:1000]}"
        lab.cli("restore", "demo")
        lab.wait_state("AVAILABLE")
        lab.kek("disable")
        lab.wait_state("INACCESSIBLE")
        text = patterns_after(lab, image, text)
        assert search(lab, text, "--inject").code == 0
    finally:
        lab.close()


def patterns_after(lab, image, before):
    """The same DEK with the salts that were added since."""
    lab.kek("enable")
    lab.wait_state("AVAILABLE")
    text = patterns(lab, image)
    lab.cli("revoke", "demo")
    lab.wait_state("INACCESSIBLE")
    return text + before
