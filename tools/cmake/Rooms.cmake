# How rooms are declared. A room is a static library named after its folder; who may link whom is who may include whom, and
# tools/check-rooms holds the sources to it.
#
#   fallgate_library(NAME SOURCES a.c ... LINKS room ... deps::x ...)
#   fallgate_program(NAME SOURCES ... LINKS ... [INSTALL sbin|bin|libexec])
#   fallgate_test(NAME SOURCES ... LINKS ... [ARGS ...] [LABELS ...] [TIMEOUT seconds])   cmocka, under ctest, label "unit"
#   fallgate_man(PAGE.SECTION...)   man pages from PAGE.SECTION.scd beside the list, built and installed where scdoc is
# Include paths: "room/header.h" from firmware/, "hal/header.h" from hal/include/.

set(FALLGATE_INCLUDES ${CMAKE_SOURCE_DIR}/firmware ${CMAKE_SOURCE_DIR}/hal/include ${CMAKE_BINARY_DIR}/generated)

function(fallgate_target_setup name)
	target_include_directories(${name} PRIVATE ${FALLGATE_INCLUDES})
	target_compile_definitions(${name} PRIVATE _GNU_SOURCE FALLGATE_VERSION="${PROJECT_VERSION}")
	target_link_libraries(${name} PRIVATE fallgate_flags)
endfunction()

function(fallgate_library name)
	cmake_parse_arguments(A "" "" "SOURCES;LINKS" ${ARGN})
	add_library(${name} STATIC ${A_SOURCES})
	fallgate_target_setup(${name})
	target_link_libraries(${name} PUBLIC ${A_LINKS})
endfunction()

function(fallgate_program name)
	cmake_parse_arguments(A "" "INSTALL" "SOURCES;LINKS" ${ARGN})
	add_executable(${name} ${A_SOURCES})
	fallgate_target_setup(${name})
	target_link_libraries(${name} PRIVATE ${A_LINKS})
	set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
	if(A_INSTALL STREQUAL "sbin")
		install(TARGETS ${name} DESTINATION ${CMAKE_INSTALL_SBINDIR})
	elseif(A_INSTALL STREQUAL "bin")
		install(TARGETS ${name} DESTINATION ${CMAKE_INSTALL_BINDIR})
	elseif(A_INSTALL STREQUAL "libexec")
		install(TARGETS ${name} DESTINATION ${CMAKE_INSTALL_LIBEXECDIR}/fallgate)
	endif()
endfunction()

function(fallgate_test name)
	cmake_parse_arguments(A "" "TIMEOUT" "SOURCES;LINKS;ARGS;LABELS" ${ARGN})
	if(NOT A_TIMEOUT)
		set(A_TIMEOUT 120)
	endif()
	if(CMAKE_CROSSCOMPILING)
		math(EXPR A_TIMEOUT "${A_TIMEOUT} * 10") # an emulated processor's time
	endif()
	add_executable(${name} ${A_SOURCES})
	fallgate_target_setup(${name})
	target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/test)
	target_link_libraries(${name} PRIVATE ${A_LINKS} deps::cmocka)
	set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/test-bin)
	add_test(NAME ${name} COMMAND ${name} ${A_ARGS})
	set_tests_properties(${name} PROPERTIES TIMEOUT ${A_TIMEOUT} LABELS "unit;${A_LABELS}" SKIP_RETURN_CODE 77)
endfunction()

find_program(SCDOC scdoc)
if(NOT SCDOC)
	message(STATUS "No scdoc: no man pages are built (apt-get install scdoc)")
endif()

function(fallgate_man)
	if(NOT SCDOC)
		return()
	endif()
	foreach(page ${ARGN})
		set(built ${CMAKE_BINARY_DIR}/man/${page})
		string(REGEX REPLACE ".*\\.([0-9])$" "\\1" section ${page})
		add_custom_command(OUTPUT ${built}
			COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/man
			COMMAND sh -c "\"$0\" < \"$1\" > \"$2.new\" && mv \"$2.new\" \"$2\"" ${SCDOC} ${CMAKE_CURRENT_SOURCE_DIR}/${page}.scd ${built}
			DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${page}.scd VERBATIM)
		add_custom_target(man_${page} ALL DEPENDS ${built})
		install(FILES ${built} DESTINATION ${CMAKE_INSTALL_MANDIR}/man${section})
	endforeach()
endfunction()
