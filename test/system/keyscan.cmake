# The forensic search and what tells it which key to look for. They are test tools: nothing of them is installed.
fallgate_program(keyscan SOURCES keyscan.c keyscan_tracee.c keyscan_derive.c LINKS hal_hash hal_aead base)
fallgate_test(test_keyscan SOURCES test_keyscan.c LINKS hal_secret_memory hal_hash hal_aead base
	ARGS $<TARGET_FILE:keyscan> LABELS system)
add_dependencies(test_keyscan keyscan)

foreach(tool unwrap_dek make_loose_key)
	fallgate_program(${tool} SOURCES ${tool}.c token_session.c LINKS deps::p11kit)
	target_include_directories(${tool} PRIVATE ${CMAKE_SOURCE_DIR}/test)
endforeach()

# Preloaded into the agent's processes by tests that kill them at a message, or lie to them about the time.
add_library(kill_shim MODULE kill_shim.c)
fallgate_target_setup(kill_shim)
set_target_properties(kill_shim PROPERTIES PREFIX "" LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
