# The service unit, installed if a folder for it is named; test/tools/test_packaging.py judges it by systemd-analyze and by running the
# agent with no more privileges than it leaves.
set(FALLGATE_SYSTEMD_UNITS "" CACHE STRING "Where fallgated.service is installed, e.g. /usr/lib/systemd/system; empty: nowhere")

# Users for the processes; backing files that are others'; sockets' owners; children of other users. For ublk its broker, and I/O that
# memory reclaim does not wait for.
set(FALLGATE_CAPABILITIES CAP_SETUID CAP_SETGID CAP_DAC_OVERRIDE CAP_CHOWN CAP_FOWNER CAP_KILL)
if(CONFIG_DATAPLANE_UBLK)
	list(APPEND FALLGATE_CAPABILITIES CAP_SYS_ADMIN CAP_SYS_RESOURCE)
endif()
list(JOIN FALLGATE_CAPABILITIES " " FALLGATE_CAPABILITIES)
configure_file(${CMAKE_SOURCE_DIR}/tools/packaging/fallgated.service.in ${CMAKE_BINARY_DIR}/generated/fallgated.service @ONLY)
if(FALLGATE_SYSTEMD_UNITS)
	install(FILES ${CMAKE_BINARY_DIR}/generated/fallgated.service DESTINATION ${FALLGATE_SYSTEMD_UNITS})
endif()
