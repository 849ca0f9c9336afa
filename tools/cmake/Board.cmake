# -DBOARD=NAME: a folder of boards/. Its defconfig goes through Kconfig and comes out as CMake variables CONFIG_* (ON, OFF or text)
# and as generated/autoconf.h. -DFALLGATE_CONFIG="CONFIG_X=n;CONFIG_Y=..." changes single options after the defconfig.
set(BOARD dev_host CACHE STRING "A folder of boards/")
set(FALLGATE_CONFIG "" CACHE STRING "Kconfig settings after the board's defconfig, e.g. CONFIG_AEAD_AESNI=n")
# The system's own python3: others in PATH lack Debian's modules.
set(FALLGATE_PYTHON /usr/bin/python3 CACHE FILEPATH "The python3 that has kconfiglib, pytest, cbor2 and libnbd")

set(board_dir ${CMAKE_SOURCE_DIR}/boards/${BOARD})
foreach(file defconfig board.c)
	if(EXISTS ${board_dir} AND NOT EXISTS ${board_dir}/${file})
		message(FATAL_ERROR "Board '${BOARD}' has no ${file}; boards/README.md says what a board is.")
	endif()
endforeach()
if(NOT EXISTS ${board_dir}/defconfig)
	file(GLOB boards RELATIVE ${CMAKE_SOURCE_DIR}/boards ${CMAKE_SOURCE_DIR}/boards/*)
	list(JOIN boards ", " boards)
	message(FATAL_ERROR "There is no board '${BOARD}'. Boards: ${boards}.")
endif()

set(arch ${CMAKE_SYSTEM_PROCESSOR})
if(arch STREQUAL "AMD64")
	set(arch x86_64)
elseif(arch STREQUAL "arm64")
	set(arch aarch64)
endif()

set(set_arguments "")
foreach(line ${FALLGATE_CONFIG})
	list(APPEND set_arguments --set ${line})
endforeach()

execute_process(
	COMMAND ${CMAKE_COMMAND} -E env srctree=${CMAKE_SOURCE_DIR} FALLGATE_ARCH=${arch} FALLGATE_SANITIZE=${FALLGATE_SANITIZE}
		FALLGATE_BUILD_TYPE=${CMAKE_BUILD_TYPE} FALLGATE_BOARD=${BOARD}
		${FALLGATE_PYTHON} -B ${CMAKE_SOURCE_DIR}/tools/cmake/kconfig.py --kconfig Kconfig --out ${CMAKE_BINARY_DIR}/generated
		${set_arguments} ${board_dir}/defconfig
	OUTPUT_VARIABLE kconfig_files OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE result)
if(result)
	message(FATAL_ERROR "Kconfig refused the configuration of board ${BOARD}; the lines above say what to change.")
endif()
include(${CMAKE_BINARY_DIR}/generated/config.cmake)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${kconfig_files} ${board_dir}/defconfig
	${CMAKE_SOURCE_DIR}/tools/cmake/kconfig.py)

if(CONFIG_SANDBOX_SECCOMP)
	set(FALLGATE_SANDBOX seccomp)
else()
	set(FALLGATE_SANDBOX none)
endif()
message(STATUS "Board ${BOARD} (${arch}, ${CMAKE_BUILD_TYPE}), sandbox ${FALLGATE_SANDBOX}")
