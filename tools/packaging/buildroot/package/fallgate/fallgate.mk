################################################################################
#
# fallgate
#
################################################################################

FALLGATE_VERSION = 0.1.0
FALLGATE_SITE = $(call qstrip,$(BR2_PACKAGE_FALLGATE_SOURCE_DIR))
FALLGATE_SITE_METHOD = local
FALLGATE_OVERRIDE_SRCDIR_RSYNC_EXCLUSIONS = --exclude .cache --exclude build
FALLGATE_LICENSE = Apache-2.0
FALLGATE_LICENSE_FILES = LICENSE
FALLGATE_DEPENDENCIES = host-pkgconf inih jansson libcbor p11-kit util-linux
FALLGATE_SUPPORTS_IN_SOURCE_BUILD = NO

FALLGATE_SETTINGS = \
	CONFIG_DATAPLANE_UBLK=$(if $(BR2_PACKAGE_FALLGATE_UBLK),y,n) \
	CONFIG_DATAPLANE_NBD=$(if $(BR2_PACKAGE_FALLGATE_NBD),y,n) \
	CONFIG_HAL_TPM=$(if $(BR2_PACKAGE_FALLGATE_TPM),y,n) \
	CONFIG_TOOLS_CUSTODIAN=$(if $(BR2_PACKAGE_FALLGATE_CUSTODIAN),y,n) \
	$(call qstrip,$(BR2_PACKAGE_FALLGATE_KCONFIG))

FALLGATE_CONF_OPTS = \
	-DBOARD=$(call qstrip,$(BR2_PACKAGE_FALLGATE_BOARD)) \
	-DBUILD_TESTING=OFF \
	-DFALLGATE_SYSTEM_DEPS=ON \
	-DFALLGATE_CONFIG="$(subst $(space),;,$(strip $(FALLGATE_SETTINGS)))" \
	-DFALLGATE_PYTHON=/usr/bin/python3 \
	-DFALLGATE_HOST_CC="$(HOSTCC)" \
	-DFALLGATE_NBDKIT=/usr/bin/nbdkit

ifeq ($(BR2_PACKAGE_FALLGATE_UBLK),y)
FALLGATE_DEPENDENCIES += liburing
endif

ifeq ($(BR2_PACKAGE_FALLGATE_NBD),y)
FALLGATE_DEPENDENCIES += nbdkit
endif

ifeq ($(BR2_PACKAGE_FALLGATE_TPM),y)
FALLGATE_DEPENDENCIES += tpm2-tss
endif

ifeq ($(BR2_PACKAGE_FALLGATE_CUSTODIAN),y)
FALLGATE_DEPENDENCIES += openssl libp11
endif

# Where pkg-config finds what tools/build-deps has laid into staging
ifeq ($(BR2_PACKAGE_FALLGATE_OWN_DEPS),y)
FALLGATE_CONF_ENV = PKG_CONFIG_PATH=$(STAGING_DIR)/usr/lib/fallgate-deps/lib/pkgconfig
define FALLGATE_BUILD_OWN_DEPS
	mkdir -p $(@D)/.deps/tarballs
	cp $(call qstrip,$(BR2_PACKAGE_FALLGATE_TARBALLS))/tarballs/* $(@D)/.deps/tarballs/
	/usr/bin/python3 $(@D)/tools/build-deps --offline --cache $(@D)/.deps \
		--cc $(TARGET_CC) --toolchain $(HOST_DIR)/share/buildroot/toolchainfile.cmake \
		--jobs $(PARALLEL_JOBS) --stage $(STAGING_DIR)
endef
FALLGATE_PRE_CONFIGURE_HOOKS += FALLGATE_BUILD_OWN_DEPS
else
FALLGATE_DEPENDENCIES += mbedtls libcoap
endif

ifeq ($(BR2_INIT_SYSTEMD),y)
FALLGATE_CONF_OPTS += -DFALLGATE_SYSTEMD_UNITS=/usr/lib/systemd/system
endif

define FALLGATE_INSTALL_INIT_SYSV
	$(INSTALL) -D -m 0755 $(FALLGATE_PKGDIR)/S60fallgate $(TARGET_DIR)/etc/init.d/S60fallgate
endef

define FALLGATE_INSTALL_CONFIGURATION
	$(INSTALL) -d -m 0755 $(TARGET_DIR)/etc/fallgate/volumes.d
	$(INSTALL) -d -m 0711 $(TARGET_DIR)/etc/fallgate/pins
endef
FALLGATE_POST_INSTALL_TARGET_HOOKS += FALLGATE_INSTALL_CONFIGURATION

# A user for each process that is not the supervisor; none logs in
define FALLGATE_USERS
	fallgate-hsm -1 fallgate-hsm -1 * - - - Fallgate, HSM side
	fallgate-data -1 fallgate-data -1 * - - - Fallgate, data planes
	fallgate-mgmt -1 fallgate-mgmt -1 * - - - Fallgate, management
endef

$(eval $(cmake-package))
