# -DBOARD=NAME: a folder of boards/. Its defconfig through Kconfig gives CONFIG_* as CMake variables and generated/autoconf.h.
set(BOARD dev_host CACHE STRING "A folder of boards/")
# The system's own python3: others in PATH lack Debian's modules.
set(FALLGATE_PYTHON /usr/bin/python3 CACHE FILEPATH "The python3 that has kconfiglib, pytest, cbor2 and libnbd")
