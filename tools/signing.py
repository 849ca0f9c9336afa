"""Secure Boot's keys and signatures: making a set of own keys, signing loader and slot, the files by which a machine takes the keys.

What must stay true: what is signed is checked against the certificate before it is called signed; a private key is a file of its
owner's alone and never leaves it; the unsigned files stay as they are, because a signature carries its time and they do not.
"""
import hashlib
import shutil
import ssl
import struct
import subprocess
import uuid
from pathlib import Path

from private_apt import Failure, run

# variable: whose key signs its change; the platform key signs itself
VARIABLES = {"PK": "PK", "KEK": "PK", "db": "KEK"}
X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
OWNER = uuid.UUID("6c1a1f0e-4b1e-4a77-8f0c-5a1f5e000006")
STAMP = "2024-01-01 00:00:00"
DAYS = "7300"


def need(*programs):
    for program in programs:
        if not shutil.which(program):
            raise Failure(f"{program} is not installed: tools/install-packages boards")


def der_of(certificate):
    """A PEM certificate's bytes; an error that names the file for anything else."""
    try:
        text = Path(certificate).read_text(encoding="ascii")
        begin = text.index("-----BEGIN CERTIFICATE-----")
        return ssl.PEM_cert_to_DER_cert(text[begin:text.index("-----END CERTIFICATE-----", begin) + 25])
    except OSError as error:
        raise Failure(f"{certificate}: {error.strerror}") from None
    except ValueError:
        raise Failure(f"{certificate} is no certificate in PEM form") from None


def signature_list(certificate):
    """EFI_SIGNATURE_LIST with one certificate."""
    der = der_of(certificate)
    return X509.bytes_le + struct.pack("<III", 28 + 16 + len(der), 0, 16 + len(der)) + OWNER.bytes_le + der


def make_keys(folder, name):
    """PK, KEK and db: private key, certificate, and the signed update by which firmware in setup mode takes it. All of it or nothing."""
    need("openssl", "sign-efi-sig-list")
    if folder.exists():
        raise Failure(f"{folder} is there already: keys are never written over; name another folder")
    part = folder.with_name(f"{folder.name}.part")
    part.mkdir(mode=0o700)
    log = part / "log"
    try:
        for variable in VARIABLES:
            key, certificate = part / f"{variable}.key", part / f"{variable}.crt"
            run(["openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-sha256", "-nodes", "-days", DAYS, "-subj", f"/CN={name} {variable}/",
                 "-keyout", key, "-out", certificate], log)
            key.chmod(0o600)
            (part / f"{variable}.esl").write_bytes(signature_list(certificate))
        for variable, signer in VARIABLES.items():
            run(["sign-efi-sig-list", "-t", STAMP, "-g", str(OWNER), "-k", part / f"{signer}.key", "-c", part / f"{signer}.crt",
                 variable, part / f"{variable}.esl", part / f"{variable}.auth"], log)
            (part / f"{variable}.esl").unlink()
        log.unlink()
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def public_of(kind, *options):
    """The public key of a private one (pkey) or of a certificate (x509), as text; None if it is not one."""
    what = "-pubout" if kind == "pkey" else "-pubkey"
    done = subprocess.run(["openssl", kind, what, *[str(o) for o in options]], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          check=False)
    return done.stdout if done.returncode == 0 else None


def check_pair(key, certificate):
    """A key and a certificate, as files that belong together and are fit to be used without asking anybody."""
    need("openssl")
    der_of(certificate)
    try:
        with open(key, "rb"):
            pass
    except OSError as error:
        raise Failure(f"{key}: {error.strerror}") from None
    mine = public_of("pkey", "-in", key, "-passin", "pass:")
    if mine is None:
        raise Failure(f"{key} is no private key in PEM form without a passphrase")
    if mine != public_of("x509", "-noout", "-in", certificate):
        raise Failure(f"{key} is not the key of {certificate}")


class Signer:
    """A key and its certificate, both as files; made only if they belong together."""

    def __init__(self, key, certificate, log):
        need("sbsign", "sbverify")
        check_pair(key, certificate)
        self.key, self.certificate, self.log = Path(key).resolve(), Path(certificate).resolve(), log
        self.fingerprint = hashlib.sha256(der_of(self.certificate)).hexdigest()

    def sign(self, source, target):
        """A signed copy; what is called signed has been checked."""
        part = Path(target).with_suffix(".part")
        run(["sbsign", "--key", self.key, "--cert", self.certificate, "--output", part, source], self.log)
        run(["sbverify", "--cert", self.certificate, part], self.log)
        part.rename(target)


def enrolment(folder, certificate):
    """The three files of a folder by which a machine takes the keys. They must let it start what the certificate's key signed: a machine
    that took others would never start again."""
    files = [Path(folder) / f"{variable}.auth" for variable in VARIABLES]
    for file in files:
        try:
            if file.stat().st_size < 40:
                raise Failure(f"{file} is no signed update of a Secure Boot variable")
        except OSError as error:
            raise Failure(f"{file}: {error.strerror}: tools/secure-boot-keys makes it") from None
    if der_of(certificate) not in files[-1].read_bytes():
        raise Failure(f"{files[-1]} does not carry {certificate}: a machine that took these keys would not start this image")
    return files
