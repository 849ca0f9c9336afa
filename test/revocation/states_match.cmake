# Fails if STATES.md is not what the table says. Usage: cmake -DPROGRAM=... -DCOMMITTED=... -P states_match.cmake
execute_process(COMMAND ${PROGRAM} OUTPUT_VARIABLE now RESULT_VARIABLE result)
file(READ ${COMMITTED} committed)
if(NOT result EQUAL 0 OR NOT now STREQUAL committed)
	message(FATAL_ERROR "${COMMITTED} is not what the table says: build the target `states` and commit the page")
endif()
