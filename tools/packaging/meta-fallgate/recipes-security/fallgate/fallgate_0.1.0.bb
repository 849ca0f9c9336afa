SUMMARY = "Key agent for storage appliances"
DESCRIPTION = "Seals volumes with AES-256-GCM under a key that the customer's HSM guards, and wipes its keys within a bound \
when that key is taken away."
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://LICENSE;md5=3b83ef96387f14655fc854ddc3c6bd57"

# The machine that builds needs python3 with kconfiglib and the headers of libseccomp: the filters are made there, as data.
# libcoap must have its DTLS from mbedTLS: PACKAGECONFIG:pn-libcoap = "async mbedtls" in the distribution's configuration.
DEPENDS = "jansson libcbor libcoap libinih mbedtls p11-kit util-linux-libblkid"

inherit externalsrc cmake pkgconfig useradd systemd
EXTERNALSRC = "${FALLGATE_SOURCE}"
EXTERNALSRC_BUILD = "${WORKDIR}/build"

COMPATIBLE_HOST = "(x86_64|aarch64).*-linux"
COMPATIBLE_HOST:libc-musl = "null"

# Faces of a volume (one, or both) and what else is there to choose. nbdkit is in none of the layers named in layer.conf; tpm2-tss is
# in meta-tpm.
PACKAGECONFIG ?= "ublk ${@bb.utils.filter('DISTRO_FEATURES', 'systemd', d)}"
PACKAGECONFIG[ublk] = ",,liburing"
PACKAGECONFIG[nbd] = ",,nbdkit,nbdkit"
PACKAGECONFIG[tpm] = ",,tpm2-tss"
PACKAGECONFIG[custodian] = ",,openssl libp11"
PACKAGECONFIG[systemd] = "-DFALLGATE_SYSTEMD_UNITS=${systemd_system_unitdir},"

FALLGATE_BOARD ?= "generic_${TARGET_ARCH}_uefi"
# CONFIG_X=y or =n, separated by blanks
FALLGATE_KCONFIG ?= ""

def fallgate_config(d):
    chosen = {'CONFIG_DATAPLANE_UBLK': 'ublk', 'CONFIG_DATAPLANE_NBD': 'nbd', 'CONFIG_HAL_TPM': 'tpm',
              'CONFIG_TOOLS_CUSTODIAN': 'custodian'}
    words = (d.getVar('PACKAGECONFIG') or '').split()
    lines = ['%s=%s' % (option, 'y' if word in words else 'n') for option, word in chosen.items()]
    return ';'.join(lines + (d.getVar('FALLGATE_KCONFIG') or '').split())

EXTRA_OECMAKE = " \
    -DBOARD=${FALLGATE_BOARD} \
    -DBUILD_TESTING=OFF \
    -DCMAKE_BUILD_TYPE=Release \
    -DFALLGATE_SYSTEM_DEPS=ON \
    -DFALLGATE_CONFIG='${@fallgate_config(d)}' \
    -DFALLGATE_PYTHON=/usr/bin/python3 \
    -DFALLGATE_HOST_CC=/usr/bin/gcc \
    -DFALLGATE_NBDKIT=${bindir}/nbdkit \
"

do_install:append() {
    install -d -m 0755 ${D}${sysconfdir}/fallgate/volumes.d
    install -d -m 0711 ${D}${sysconfdir}/fallgate/pins
}

USERADD_PACKAGES = "${PN}"
USERADD_PARAM:${PN} = "\
    --system --no-create-home --home-dir / --shell /sbin/nologin --user-group fallgate-hsm; \
    --system --no-create-home --home-dir / --shell /sbin/nologin --user-group fallgate-data; \
    --system --no-create-home --home-dir / --shell /sbin/nologin --user-group fallgate-mgmt \
"

SYSTEMD_SERVICE:${PN} = "${@bb.utils.contains('PACKAGECONFIG', 'systemd', 'fallgated.service', '', d)}"
# It starts when somebody has configured it
SYSTEMD_AUTO_ENABLE = "enable"

# The plugin and the tools that the supervisor starts
FILES:${PN} += "${libexecdir}/fallgate ${nonarch_libdir}/udev"
RDEPENDS:${PN} = "p11-kit"
RRECOMMENDS:${PN} = "${@bb.utils.contains('PACKAGECONFIG', 'ublk', 'kernel-module-ublk-drv', '', d)}"
