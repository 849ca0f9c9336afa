"""A unified kernel image and a GPT disk for boards with UEFI, without root and without loop mounts.

What must stay true: the same parts give the same bytes; a slot is one file on the ESP, named fallgate_VERSION+TRIES.efi, so that
systemd-boot counts its tries and falls back by itself; the image only ever takes the counter away, when it has found itself healthy.
"""
import os
import shutil
import struct
from pathlib import Path

from private_apt import run

STUB = {"x86_64": "linuxx64.efi.stub", "aarch64": "linuxaa64.efi.stub"}
LOADER = {"x86_64": ("systemd-bootx64.efi", "BOOTX64.EFI"), "aarch64": ("systemd-bootaa64.efi", "BOOTAA64.EFI")}
OBJCOPY = {"x86_64": "x86_64-linux-gnu-objcopy", "aarch64": "aarch64-linux-gnu-objcopy"}
TRIES = 3
EPOCH = "1704067200"  # FAT cannot say 1970
LOADER_CONF = "timeout 0\neditor no\nauto-firmware no\n"
ENROL_CONF = "secure-boot-enroll force\n"  # only firmware in setup mode takes keys


def end_of_sections(path):
    """The first page behind everything in a PE file, and the page size, as virtual addresses."""
    data = path.read_bytes()
    pe = struct.unpack_from("<I", data, 0x3C)[0]
    count, optional = struct.unpack_from("<H", data, pe + 6)[0], struct.unpack_from("<H", data, pe + 20)[0]
    base, align = struct.unpack_from("<Q", data, pe + 24 + 24)[0], struct.unpack_from("<I", data, pe + 24 + 32)[0]
    end = 0
    for number in range(count):
        at = pe + 24 + optional + 40 * number
        size, address = struct.unpack_from("<II", data, at + 8)
        end = max(end, address + size)
    return base, max(align, 4096), end


def make_uki(arch, stub, kernel, initramfs, command_line, version, release, out, log):
    """Kernel, initramfs and command line in one file that the firmware's signature check covers as a whole."""
    work = out.with_suffix(".parts")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    texts = {"osrel": f'ID=fallgate\nNAME=Fallgate\nPRETTY_NAME="Fallgate {version}"\nVERSION_ID={version}\nIMAGE_VERSION={version}\n',
             "cmdline": command_line + "\0", "uname": release + "\0"}
    parts = {}
    for name, text in texts.items():
        parts[name] = work / name
        parts[name].write_text(text, encoding="ascii")
    parts |= {"initrd": initramfs, "linux": kernel}  # the kernel last: it may grow in place
    base, align, end = end_of_sections(stub)
    options = []
    for name, path in parts.items():
        end = (end + align - 1) // align * align
        options += ["--add-section", f".{name}={path}", "--change-section-vma", f".{name}={base + end:#x}",
                    "--set-section-flags", f".{name}=data,readonly"]
        end += path.stat().st_size
    run([OBJCOPY[arch], *options, stub, out], log)
    data = bytearray(out.read_bytes())  # objcopy stamps the time of the build
    pe = struct.unpack_from("<I", data, 0x3C)[0]
    struct.pack_into("<I", data, pe + 8, 0)
    struct.pack_into("<I", data, pe + 24 + 64, 0)  # and a checksum over it, which no firmware looks at
    out.write_bytes(data)
    shutil.rmtree(work)


def make_disk(config, arch, loaders, uki, version, out, log, keys=()):
    """GPT with ESP (loader, one slot with its tries) and state partition, by the board's genimage.cfg. `keys`: what firmware in setup
    mode is to take at the first boot."""
    work = out.with_suffix(".work")
    shutil.rmtree(work, ignore_errors=True)
    inputs, root = work / "in", work / "root"
    for folder in (root / "EFI/BOOT", root / "EFI/systemd", root / "EFI/Linux", root / "loader", inputs, work / "empty"):
        folder.mkdir(parents=True)
    source, name = LOADER[arch]
    shutil.copyfile(loaders / source, root / "EFI/BOOT" / name)
    shutil.copyfile(loaders / source, root / "EFI/systemd" / source)
    shutil.copyfile(uki, root / "EFI/Linux" / slot_name(version))
    (root / "loader/loader.conf").write_text(LOADER_CONF + (ENROL_CONF if keys else ""), encoding="ascii")
    for key in keys:
        (root / "loader/keys/auto").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(key, root / "loader/keys/auto" / key.name)
    for path in root.rglob("*"):
        os.utime(path, (int(EPOCH), int(EPOCH)))
    environment = ["env", f"SOURCE_DATE_EPOCH={EPOCH}", f"E2FSPROGS_FAKE_TIME={EPOCH}", f"E2FSCK_TIME={EPOCH}", "TZ=UTC", "MTOOLS_SKIP_CHECK=1",
                   f"PATH={os.environ.get('PATH', '/usr/bin')}:/usr/sbin:/sbin"]
    run([*environment, "genimage", "--config", config, "--rootpath", root, "--tmppath", work / "tmp", "--inputpath", inputs,
         "--outputpath", work / "out"], log)
    (work / "out/disk.img").rename(out)
    shutil.rmtree(work)


def slot_name(version):
    """A slot on trial; the loader and the image change the part behind the plus."""
    return f"fallgate_{version}+{TRIES}.efi"


def loaders_of(root):
    return Path(root) / "usr/lib/systemd/boot/efi"
