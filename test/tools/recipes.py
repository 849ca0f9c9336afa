"""The recipes of tools/packaging as their build systems would read them: make evaluates Buildroot's, Python expands the layer's. What
comes out is the CMake call that a vendor's build makes; tests run it. What must stay true: no option stands here, all are read."""

import os
import re
import shlex
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGING = ROOT / "tools/packaging"
BUILDROOT = PACKAGING / "buildroot"
MK = BUILDROOT / "package/fallgate/fallgate.mk"
LAYER = PACKAGING / "meta-fallgate"
BB = LAYER / "recipes-security/fallgate/fallgate_0.1.0.bb"

# What Buildroot's own makefiles define and this recipe uses; %s: what its Config.in came to, then what is asked for.
SURROUNDINGS = r"""
empty :=
space := $(empty) $(empty)
qstrip = $(strip $(subst ",,$(1)))
cmake-package =
STAGING_DIR = /staging
HOST_DIR = /host
HOSTCC = /usr/bin/gcc
%s
include %s
all: ; @true
$(foreach v,%s,$(info $(v)=$($(v))))
"""


def buildroot_symbols(arch, **chosen):
    """Config.in, read by kconfiglib in a configuration of Buildroot for arch: {symbol: value} of all of Fallgate's, and warnings."""
    import kconfiglib
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        outer = Path(folder) / "Config.in"
        given = [f"BR2_{arch}", "BR2_TOOLCHAIN_HAS_THREADS", "BR2_TOOLCHAIN_USES_GLIBC", "BR2_INIT_SYSTEMD"]
        lines = [f"config {name}\n\tbool\n\tdefault y\n" for name in given]
        lines += [f"config BR2_{other}\n\tbool\n" for other in ("x86_64", "aarch64", "STATIC_LIBS") if other != arch]
        selected = ("INIH", "JANSSON", "LIBFFI", "LIBURING", "P11_KIT", "UTIL_LINUX", "UTIL_LINUX_LIBBLKID", "OPENSSL", "TPM2_TSS")
        lines += [f"config BR2_PACKAGE_{name}\n\tbool\n" for name in selected]
        outer.write_text("".join(lines) + f'source "{BUILDROOT}/Config.in"\n')
        os.environ["BR2_EXTERNAL_FALLGATE_PATH"] = str(BUILDROOT)
        kconf = kconfiglib.Kconfig(str(outer), warn_to_stderr=False)
        for name, value in {"BR2_PACKAGE_FALLGATE": "y", **chosen}.items():
            assert kconf.syms[name].set_value(value), (name, value)
        values = {name: s.str_value for name, s in kconf.syms.items() if name.startswith("BR2_") and s.nodes and s.str_value not in ("n", "")}
        return values, kconf.warnings


def buildroot_variables(values, *names):
    """Variables of fallgate.mk as make sees them."""
    settings = "".join(f"{name} = {value}\n" for name, value in values.items())
    settings += f"BR2_EXTERNAL_FALLGATE_PATH = {BUILDROOT}\nFALLGATE_PKGDIR = {MK.parent}\n"
    text = SURROUNDINGS % (settings, str(MK).replace(" ", r"\ "), " ".join(names))
    done = subprocess.run(["make", "--no-print-directory", "--warn-undefined-variables", "-f", "-", "all"], input=text, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(line.split("=", 1) for line in done.stdout.splitlines()), done.stderr


def buildroot_options(arch, **chosen):
    values, _ = buildroot_symbols(arch, **chosen)
    return shlex.split(buildroot_variables(values, "FALLGATE_CONF_OPTS")[0]["FALLGATE_CONF_OPTS"])


class Metadata:
    """BitBake's d, as far as the recipe asks it."""

    def __init__(self, text, **given):
        self.values = {"PN": "fallgate", "bindir": "/usr/bin", "systemd_system_unitdir": "/usr/lib/systemd/system", **given}
        joined = re.sub(r"\\\n", "", text)
        for name, value in re.findall(r'(?m)^([A-Z_]+) \??= "([^"]*)"', joined):
            self.values.setdefault(name, value)
        self.flags = {m[0]: [part.strip() for part in m[1].split(",")] for m in
                      re.findall(r'(?m)^PACKAGECONFIG\[(\w+)\] = "([^"]*)"', joined)}
        self.functions = {}
        for source in re.findall(r"(?m)^def .*\n(?:[ \t].*\n|\n)+", text):
            exec(source, self.functions)  # the recipe's own

    def getVar(self, name):  # noqa: N802, BitBake's name
        return self.values.get(name)

    def expand(self, text):
        text = re.sub(r"\$\{@(\w+)\(d\)\}", lambda m: self.functions[m[1]](self), text)
        return re.sub(r"\$\{(\w+)\}", lambda m: self.expand(self.values[m[1]]), text)


def yocto(arch, packageconfig="ublk systemd", **given):
    return Metadata(BB.read_text(), PACKAGECONFIG=packageconfig, TARGET_ARCH=arch, **given)


def yocto_options(arch, packageconfig="ublk systemd", **given):
    d = yocto(arch, packageconfig, **given)
    own = shlex.split(d.expand(d.getVar("EXTRA_OECMAKE")))
    return own + [d.expand(d.flags[word][0]) for word in packageconfig.split() if d.flags[word][0]]
