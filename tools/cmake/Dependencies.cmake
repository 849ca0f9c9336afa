# Third-party libraries as targets deps::NAME. mbedTLS and libcoap are built by tools/build-deps into a cache, once for a compiler;
# the rest comes from the system by pkg-config, and each one missing is named with the Debian package that has it.
#
#   deps::mbedcrypto deps::mbedtls (with x509) deps::coap     from the cache, or with -DFALLGATE_SYSTEM_DEPS=ON from the system
#   deps::p11kit deps::inih deps::blkid deps::cbor deps::jansson deps::nbdkit deps::uring deps::crypto deps::libp11
#   deps::esys deps::tss_mu deps::tcti_device with HAL_TPM
#   deps::cmocka deps::nbd                                    for tests
find_package(PkgConfig REQUIRED)

option(FALLGATE_SYSTEM_DEPS "Take mbedTLS and libcoap from the system by pkg-config; never use the network" OFF)
set(FALLGATE_CACHE "$ENV{FALLGATE_CACHE}" CACHE PATH "Where tools/build-deps keeps tarballs and libraries; empty: .cache in the source")

set(FALLGATE_MISSING "")

# fallgate_pkg(NAME MODULE PACKAGE): deps::NAME is what pkg-config calls MODULE; PACKAGE is where Debian keeps it.
function(fallgate_pkg name module package)
	pkg_check_modules(DEP_${name} QUIET IMPORTED_TARGET GLOBAL ${module})
	if(DEP_${name}_FOUND)
		add_library(deps::${name} ALIAS PkgConfig::DEP_${name})
	else()
		set(FALLGATE_MISSING "${FALLGATE_MISSING}  ${module}: apt-get install ${package}\n" PARENT_SCOPE)
	endif()
endfunction()

fallgate_pkg(p11kit p11-kit-1 libp11-kit-dev)
fallgate_pkg(inih inih libinih-dev)
fallgate_pkg(blkid blkid libblkid-dev)
fallgate_pkg(cbor libcbor libcbor-dev)
fallgate_pkg(jansson jansson libjansson-dev)
if(CONFIG_DATAPLANE_NBD)
	fallgate_pkg(nbdkit nbdkit nbdkit-plugin-dev)
endif()
if(CONFIG_DATAPLANE_UBLK)
	fallgate_pkg(uring liburing liburing-dev)
endif()
if(NOT CONFIG_DATAPLANE_NBD AND NOT CONFIG_DATAPLANE_UBLK)
	message(FATAL_ERROR "Without DATAPLANE_NBD and DATAPLANE_UBLK nobody could read a volume: switch one of them on.")
endif()
if(CONFIG_TOOLS_CUSTODIAN OR BUILD_TESTING)
	fallgate_pkg(crypto libcrypto libssl-dev)
endif()
if(CONFIG_TOOLS_CUSTODIAN)
	fallgate_pkg(libp11 libp11 libp11-dev)
endif()
if(CONFIG_HAL_TPM)
	fallgate_pkg(esys tss2-esys libtss2-dev)
	fallgate_pkg(tss_mu tss2-mu libtss2-dev)
	fallgate_pkg(tcti_device tss2-tcti-device libtss2-dev)
endif()
if(BUILD_TESTING)
	fallgate_pkg(cmocka cmocka libcmocka-dev)
	fallgate_pkg(nbd libnbd libnbd-dev)
endif()

# deps::NAME as a static library of the cache's prefix.
function(fallgate_built name archive)
	add_library(deps::${name} STATIC IMPORTED GLOBAL)
	set_target_properties(deps::${name} PROPERTIES
		IMPORTED_LOCATION ${FALLGATE_DEPS_PREFIX}/lib/${archive}
		INTERFACE_INCLUDE_DIRECTORIES ${FALLGATE_DEPS_PREFIX}/include
		INTERFACE_LINK_LIBRARIES "${ARGN}")
endfunction()

if(FALLGATE_SYSTEM_DEPS)
	include(SystemCoap)
else()
	set(build_deps ${FALLGATE_PYTHON} ${CMAKE_SOURCE_DIR}/tools/build-deps --cc ${CMAKE_C_COMPILER})
	if(FALLGATE_CACHE)
		list(APPEND build_deps --cache ${FALLGATE_CACHE})
	endif()
	if(CMAKE_TOOLCHAIN_FILE)
		list(APPEND build_deps --toolchain ${CMAKE_TOOLCHAIN_FILE})
	endif()
	execute_process(COMMAND ${build_deps} --print-prefix OUTPUT_VARIABLE FALLGATE_DEPS_PREFIX
		OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
	if(NOT IS_DIRECTORY ${FALLGATE_DEPS_PREFIX})
		execute_process(COMMAND ${build_deps} RESULT_VARIABLE result)
		if(result)
			message(FATAL_ERROR "mbedTLS and libcoap could not be built; the lines above say why. "
				"-DFALLGATE_SYSTEM_DEPS=ON takes the system's own instead.")
		endif()
	endif()
	set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
		${CMAKE_SOURCE_DIR}/tools/build-deps ${CMAKE_SOURCE_DIR}/tools/cmake/mbedtls_config.h)
	fallgate_built(mbedcrypto libmbedcrypto.a)
	fallgate_built(mbedx509 libmbedx509.a deps::mbedcrypto)
	fallgate_built(mbedtls libmbedtls.a deps::mbedx509)
	fallgate_built(coap libcoap-3.a deps::mbedtls)
endif()

if(FALLGATE_MISSING)
	message(FATAL_ERROR "Missing on this machine (tools/install-packages gets them all):\n${FALLGATE_MISSING}")
endif()
