"""fallgate volume, as whoever has the disk and no key uses it: what a good, a damaged and a served volume are told to be, what is mended,
what is asked, and what the exit code says."""

import fcntl
import json
import os
import pty
import shutil
import signal
import struct
import subprocess
import time
import uuid

import pytest

from conftest import BUILD, running_lab

FALLGATE = BUILD / "bin" / "fallgate"
HEADER = 65536
GOOD, USAGE, BUSY, EXISTS, CORRUPT, FOREIGN, STATE, REPAIRABLE, LOSS = 0, 2, 7, 8, 11, 12, 18, 32, 33


def fallgate(*argv, **options):
    return subprocess.run([str(FALLGATE), *[str(a) for a in argv]], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          timeout=60, **options)


def volume(verb, *argv, code=GOOD, **options):
    result = fallgate("volume", verb, *argv, **options)
    assert result.returncode == code, (result.returncode, result.stdout, result.stderr)
    return result


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A volume that the agent made and wrote to, and that nobody serves any more."""
    lab = running_lab()
    try:
        served = volume("check", lab.root / "volumes" / "demo.img", code=BUSY)
        assert "detach" in served.stderr
        volume("repair-header", lab.root / "volumes" / "demo.img", code=BUSY)
        data = os.urandom(1 << 20)
        (lab.root / "data").write_bytes(data)
        lab.run("qemu-io", "-f", "raw", lab.uri(), "-c", f"write -s {lab.root}/data 0 1M", "-c", "write -P 7 32M 1M", "-c", "flush")
        # A volume is locked, never closed: it is the next opening that brings the log's work into the tree.
        lab.cli("detach", "demo", role="operator")
        lab.wait_state("LOCKED", "demo")
        lab.cli("attach", "demo", role="operator")
        lab.wait_state("AVAILABLE", "demo")
        lab.stop()
        place = tmp_path_factory.mktemp("made") / "demo.img"
        shutil.copy(lab.root / "volumes" / "demo.img", place)
    finally:
        lab.close()
    return place


@pytest.fixture
def image(made, tmp_path):
    place = tmp_path / "v.img"
    shutil.copy(made, place)
    return place


def scratch(image, at, size=4096):
    with image.open("r+b") as f:
        f.seek(at)
        f.write(os.urandom(size))


def turn(image, at):
    with image.open("r+b") as f:
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 0xff]))


def header_b(image):
    return image.stat().st_size - HEADER


def regions(image):
    """name -> offset, out of dump."""
    found = {}
    for line in volume("dump", image).stdout.splitlines():
        words = line.split()
        if len(words) > 3 and words[0].isdigit() and words[2] == "blocks":
            found[" ".join(words[3:])] = int(words[0])
    return found


def test_a_good_volume_is_good(image):
    before = image.read_bytes()
    result = volume("check", image)
    assert "0 mended, 0 repairable, 0 lost" in result.stdout and "without the key" in result.stdout
    lines = [json.loads(line) for line in fallgate("--json", "volume", "check", image).stdout.splitlines()]
    assert lines[-1]["exit"] == 0 and lines[-1]["verb"] == "check" and lines[-1]["checked"] > 200
    assert all(line["severity"] == "note" for line in lines[:-1])
    volume("dump", image)
    path = volume("dump", image, "--sector", "8192").stdout
    assert "node 0 of level 3" in path and "node 81 of level 1" in path and "sector 8192 at " in path
    assert image.read_bytes() == before


def test_it_is_known_for_what_it_is(image, tmp_path):
    """From either header, while somebody has it locked, and not for another kind."""
    lines = dict(line.split("=") for line in volume("identify", image).stdout.splitlines())
    assert lines["ID_FS_TYPE"] == "fallgate_volume" and lines["ID_FS_USAGE"] == "crypto"
    assert lines["ID_FS_UUID"] == str(uuid.UUID(bytes=image.read_bytes()[16:32]))
    with open(image, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.fcntl(file, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))  # F_OFD_SETLK
        volume("identify", image)
        file.write(bytes(HEADER))
        file.flush()
        assert "ID_FS_UUID=" + lines["ID_FS_UUID"] in volume("identify", image).stdout.splitlines(), "the backup stands at the end"
    for name, content, code in (("text", b"no volume\n" * 1000, FOREIGN), ("empty", b"", FOREIGN), ("blank", bytes(1 << 20), FOREIGN)):
        (tmp_path / name).write_bytes(content)
        assert volume("identify", tmp_path / name, code=code).stdout == ""
    volume("identify", tmp_path / "nothing", code=9)
    volume("identify", "/dev/null", code=20)


def test_it_is_only_opened_for_reading(image):
    os.chmod(image, 0o400)
    if os.geteuid() != 0:
        volume("check", image)
        volume("repair-header", image, code=17)
        return
    trace = subprocess.run(["strace", "-f", "-e", "trace=openat,open", str(FALLGATE), "volume", "check", str(image)], capture_output=True,
                           text=True, check=False) if shutil.which("strace") else None
    if trace is None:
        pytest.skip("root may write everything, and there is no strace to look at it")
    opened = [line for line in trace.stderr.splitlines() if image.name in line]
    assert opened and all("O_RDONLY" in line for line in opened), opened


def test_headers_are_mended(image):
    whole = image.read_bytes()
    for at in (0, header_b(image), 5 * 4096):
        scratch(image, at)
        assert "repair-header" in volume("check", image, code=REPAIRABLE).stdout
        assert "written again" in volume("repair-header", image).stdout
        assert image.read_bytes() == whole


def test_both_headers_gone(image, tmp_path):
    whole, backup = image.read_bytes(), tmp_path / "backup"
    volume("header-backup", image, "--out", backup)
    assert backup.stat().st_size == 4096 + HEADER and backup.stat().st_mode & 0o777 == 0o600
    volume("header-backup", image, "--out", backup, code=EXISTS)
    scratch(image, 0, HEADER)
    scratch(image, header_b(image), HEADER)
    gone = image.read_bytes()
    result = volume("check", image, code=FOREIGN)
    assert len(result.stderr.splitlines()) == 1 and "no header can be used" in result.stderr
    assert "header-restore" in volume("check", image, "--header", backup, code=REPAIRABLE).stdout
    volume("repair-header", image, code=CORRUPT)
    refused = volume("header-restore", image, "--header", backup, code=USAGE)
    assert "--yes" in refused.stderr and image.read_bytes() == gone
    volume("header-restore", image, "--header", backup, "--yes")
    assert image.read_bytes() == whole
    assert "nothing to do" in volume("header-restore", image, "--header", backup, "--yes").stdout


def test_restore_asks(image, tmp_path):
    """On a terminal: what it would do is said first; anything but yes leaves everything as it is."""
    backup = tmp_path / "backup"
    volume("header-backup", image, "--out", backup)
    scratch(image, 0, HEADER)
    damaged = image.read_bytes()
    for answer, code in (("no\n", STATE), ("yes\n", GOOD)):
        parent, child = pty.openpty()
        run = subprocess.Popen([str(FALLGATE), "volume", "header-restore", str(image), "--header", str(backup)], stdin=child,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        os.write(parent, answer.encode())
        out, err = run.communicate(timeout=60)
        os.close(parent)
        os.close(child)
        assert run.returncode == code, (out, err)
        assert "would be overwritten" in out and "type yes" in err
        assert (image.read_bytes() == damaged) == (code == STATE)


def test_a_backup_that_has_no_room(image, tmp_path):
    backup = tmp_path / "backup"
    done = subprocess.run(["bash", "-c", 'trap "" XFSZ; ulimit -f 8; exec "$@"', "-", str(FALLGATE), "volume", "header-backup", str(image), "--out",
                           str(backup)], capture_output=True, text=True)
    assert done.returncode == 6 and "make room" in done.stderr and done.stderr.count("\n") == 1, done
    assert not backup.exists(), "half a backup was left behind"


def test_a_backup_that_is_none(image, tmp_path):
    backup, before = tmp_path / "backup", image.read_bytes()
    volume("header-backup", image, "--out", backup)
    good = backup.read_bytes()
    for bad, code in ((good[:-1], CORRUPT), (good + b"x", CORRUPT), (b"", FOREIGN), (os.urandom(len(good)), FOREIGN),
                      (good[:5000] + bytes([good[5000] ^ 1]) + good[5001:], CORRUPT)):
        backup.write_bytes(bad)
        assert "backup" in volume("header-restore", image, "--header", backup, "--yes", code=code).stderr
    assert image.read_bytes() == before


def test_a_header_is_not_restored_over_a_file_system(image, tmp_path):
    backup, other = tmp_path / "backup", tmp_path / "other.img"
    volume("header-backup", image, "--out", backup)
    with other.open("wb") as f:
        f.truncate(image.stat().st_size)
    subprocess.run(["/sbin/mke2fs", "-q", "-F", str(other)], check=True, capture_output=True)
    before = other.read_bytes()
    assert "ext2" in volume("header-restore", other, "--header", backup, "--yes", code=EXISTS).stderr
    assert other.read_bytes() == before


def test_damage_elsewhere(image):
    at = regions(image)
    turn(image, at["nodes of level 2, copy B"] + 200)
    assert "scrub --repair" in volume("check", image, code=REPAIRABLE).stdout
    turn(image, at["nodes of level 1, copy A"] + 200)
    assert "sectors 0 to 99" in volume("check", image, code=LOSS).stdout
    for ring in ("root ring A", "root ring B"):
        scratch(image, at[ring], 16384)
    assert "no root record is left" in volume("check", image, code=LOSS).stdout


def test_what_needs_a_key_says_so(image, tmp_path):
    for verb, more in (("scrub", []), ("repair-log", ["--yes"]), ("salvage", ["--out", tmp_path / "out"])):
        result = volume(verb, image, *more, code=USAGE)
        assert "key" in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.map").exists()


@pytest.mark.parametrize("content,code", [(b"", 10), (b"x" * 5000, 10), (b"\0" * 4096, FOREIGN), (b"\0" * (1 << 20), FOREIGN)],
                         ids=["empty", "odd", "tiny", "blank"])
def test_what_is_no_volume(tmp_path, content, code):
    place = tmp_path / "no.img"
    place.write_bytes(content)
    for verb in ("check", "dump"):
        result = volume(verb, place, code=code)
        assert result.stdout == "" and len(result.stderr.splitlines()) == 1
    volume("check", tmp_path / "nothing.img", code=9)
    assert place.read_bytes() == content


def test_the_command_line(image):
    for line in (["volume"], ["volume", "frob", image], ["volume", "check"], ["volume", "check", image, "--repair"],
                 ["volume", "dump", image, "--sector", "x"], ["volume", "dump", image, "--sector", "-1"],
                 ["volume", "salvage", "demo"], ["volume", "header-restore", image]):
        result = fallgate(*line)
        assert result.returncode == USAGE and len(result.stderr.splitlines()) == 1, (line, result)
    assert fallgate("volume", "dump", image, "--sector", str(10**12)).returncode == 10


def test_interrupted(tmp_path):
    """A search of a large hole takes a while; ^C ends it soon, with one line."""
    place = tmp_path / "large.img"
    with place.open("wb") as f:
        f.truncate(1 << 40)
    run = subprocess.Popen([str(FALLGATE), "volume", "repair-header", str(place)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(1)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=20)
    assert run.returncode == STATE and "interrupted" in err, (run.returncode, out, err)
