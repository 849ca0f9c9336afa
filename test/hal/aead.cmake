# Every kernel of the build is tested by its name, never through the front door: one that this processor lacks is reported as
# skipped.
set(aead_names portable)
set(aead_candidates "")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
	set(aead_candidates vaes512 vaes256 aesni aesni_sse)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
	set(aead_candidates armv8)
endif()
foreach(name ${aead_candidates})
	string(TOUPPER ${name} option)
	if(NOT DEFINED CONFIG_AEAD_${option} OR CONFIG_AEAD_${option})
		list(APPEND aead_names ${name})
	endif()
endforeach()

# aead_test(NAME ...): fallgate_test's arguments; the program is built once and runs once for each kernel, or those KERNELS, as
# NAME-KERNEL.
function(aead_test name)
	cmake_parse_arguments(A "" "TIMEOUT" "SOURCES;LINKS;DEFINES;LABELS;KERNELS" ${ARGN})
	if(NOT A_KERNELS)
		set(A_KERNELS ${aead_names})
	endif()
	add_executable(${name} ${A_SOURCES})
	fallgate_target_setup(${name})
	target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/test)
	target_compile_definitions(${name} PRIVATE ${A_DEFINES})
	target_link_libraries(${name} PRIVATE ${A_LINKS} hal_aead deps::cmocka)
	set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/test-bin)
	foreach(kernel ${A_KERNELS})
		add_test(NAME ${name}-${kernel} COMMAND ${name} ${kernel})
		set_tests_properties(${name}-${kernel} PROPERTIES
			TIMEOUT ${A_TIMEOUT} LABELS "unit;aead;${A_LABELS}" SKIP_RETURN_CODE 77)
	endforeach()
endfunction()

# Debian: python3-cryptography-vectors. Without it the test says so and is skipped.
find_path(AEAD_CAVP_DIR gcmDecrypt256.rsp NO_DEFAULT_PATH
	PATHS /usr/lib/python3/dist-packages/cryptography_vectors/ciphers/AES/GCM)

aead_test(aead_vectors SOURCES aead_vectors.c DEFINES AEAD_CAVP_DIR="${AEAD_CAVP_DIR}" TIMEOUT 120)
aead_test(aead_agreement SOURCES aead_agreement.c LINKS deps::crypto deps::mbedcrypto TIMEOUT 300)
aead_test(aead_forgery SOURCES aead_forgery.c TIMEOUT 300)

# A sanitizer has frames of its own: there only the registers are looked at.
set(aead_sanitized 0)
if(FALLGATE_SANITIZE)
	set(aead_sanitized 1)
endif()
aead_test(aead_remains SOURCES aead_remains.c DEFINES AEAD_SANITIZED=${aead_sanitized} TIMEOUT 60)

# Its own table of kernels instead of the library's: broken ones that must not be chosen.
fallgate_test(aead_select SOURCES aead_select.c LINKS hal_aead LABELS aead)
target_include_directories(aead_select PRIVATE ${CMAKE_SOURCE_DIR}/hal/aead)

# Constant time, for kernels with instructions that valgrind knows. Sanitizers and valgrind do not run together.
set(aead_names_valgrind ${aead_names})
list(REMOVE_ITEM aead_names_valgrind vaes512 vaes256)
include(CheckIncludeFile)
check_include_file(valgrind/memcheck.h HAVE_MEMCHECK_H)
if(FALLGATE_SANITIZE)
	set(aead_no_memcheck "a sanitizer build does not run under valgrind")
elseif(NOT HAVE_MEMCHECK_H)
	set(aead_no_memcheck "valgrind/memcheck.h is missing: apt-get install valgrind")
endif()
if(aead_no_memcheck)
	add_test(NAME aead_constant_time COMMAND sh -c "echo 'skipped: ${aead_no_memcheck}'; exit 77")
	set_tests_properties(aead_constant_time PROPERTIES LABELS "unit;aead" SKIP_RETURN_CODE 77)
else()
	aead_test(aead_constant_time SOURCES aead_constant_time.c TIMEOUT 300 KERNELS ${aead_names_valgrind}
		DEFINES AEAD_SUPPRESSIONS="${CMAKE_CURRENT_SOURCE_DIR}/aead_constant_time.supp")
	# valgrind 3.19 gives up on clang's DWARF 5; symbols are enough for it
	target_link_options(aead_constant_time PRIVATE -Wl,--strip-debug)
endif()

# Constant time, for the others: one instruction at a time.
set(aead_names_lockstep ${aead_names})
list(REMOVE_ITEM aead_names_lockstep ${aead_names_valgrind})
if(aead_names_lockstep AND NOT FALLGATE_SANITIZE)
	aead_test(aead_lockstep SOURCES aead_lockstep.c TIMEOUT 300 KERNELS ${aead_names_lockstep})
endif()

# The same speed from gcc and from clang: each kernel that is more than portable C, built by both, as modules of one process.
find_program(AEAD_GCC NAMES gcc-14 gcc-13 gcc-12 gcc)
find_program(AEAD_CLANG NAMES clang clang-19 clang-18 clang-17 clang-16 clang-15 clang-14)
if(FALLGATE_SANITIZE OR NOT CMAKE_BUILD_TYPE STREQUAL "Release" OR CMAKE_CROSSCOMPILING)
	set(aead_one_compiler "only a native release build is compared")
elseif(NOT AEAD_GCC OR NOT AEAD_CLANG)
	set(aead_one_compiler "gcc and clang are needed: apt-get install gcc clang")
endif()

# aead_module(OUT KERNEL COMPILER NAME): the path of a module with that kernel as that compiler makes it.
function(aead_module out kernel compiler name)
	set(module ${CMAKE_CURRENT_BINARY_DIR}/aead_${kernel}_${name}.so)
	get_property(flags GLOBAL PROPERTY AEAD_FLAGS_${kernel})
	set(own ${CMAKE_SOURCE_DIR}/hal/aead)
	set(shared ${own}/wipe.c ${own}/registers_${CMAKE_SYSTEM_PROCESSOR}.c
		${CMAKE_SOURCE_DIR}/firmware/base/error.c ${CMAKE_SOURCE_DIR}/firmware/base/log.c)
	if(EXISTS ${own}/processor_${CMAKE_SYSTEM_PROCESSOR}.c)
		list(APPEND shared ${own}/processor_${CMAKE_SYSTEM_PROCESSOR}.c)
	endif()
	file(GLOB headers CONFIGURE_DEPENDS ${own}/*.h)
	separate_arguments(common UNIX_COMMAND "${CMAKE_C_FLAGS_RELEASE} -std=gnu17 -fPIC -fno-strict-aliasing -fstack-protector-strong")
	list(APPEND common -D_GNU_SOURCE -DFALLGATE_VERSION="x" -I${own})
	foreach(folder ${FALLGATE_INCLUDES})
		list(APPEND common -I${folder})
	endforeach()
	add_custom_command(OUTPUT ${module}
		COMMAND ${compiler} ${common} ${flags} -c ${own}/${kernel}.c -o ${module}.o
		COMMAND ${compiler} ${common} -shared ${shared} ${module}.o -o ${module}
		DEPENDS ${own}/${kernel}.c ${headers} ${shared} VERBATIM)
	set(${out} ${module} PARENT_SCOPE)
endfunction()

if(aead_one_compiler)
	add_test(NAME aead_compilers COMMAND sh -c "echo 'skipped: ${aead_one_compiler}'; exit 77")
	set_tests_properties(aead_compilers PROPERTIES LABELS "unit;aead" SKIP_RETURN_CODE 77)
else()
	add_executable(aead_compilers aead_compilers.c)
	fallgate_target_setup(aead_compilers)
	set_target_properties(aead_compilers PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/test-bin)
	foreach(kernel ${aead_names})
		if(kernel STREQUAL "portable")
			continue()
		endif()
		aead_module(by_gcc ${kernel} ${AEAD_GCC} gcc)
		aead_module(by_clang ${kernel} ${AEAD_CLANG} clang)
		add_custom_target(aead_modules_${kernel} DEPENDS ${by_gcc} ${by_clang})
		add_dependencies(aead_compilers aead_modules_${kernel})
		add_test(NAME aead_compilers-${kernel} COMMAND aead_compilers ${kernel} ${by_gcc} ${by_clang})
		set_tests_properties(aead_compilers-${kernel} PROPERTIES
			TIMEOUT 60 LABELS "unit;aead" SKIP_RETURN_CODE 77 RUN_SERIAL TRUE)
	endforeach()
endif()

# The kernel for ARMv8, built by a cross compiler and run under an emulator, where this is not such a processor.
find_program(AEAD_ARM_GCC NAMES aarch64-linux-gnu-gcc)
find_program(AEAD_ARM_QEMU NAMES qemu-aarch64-static qemu-aarch64)
if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$" AND NOT FALLGATE_SANITIZE)
	if(AEAD_ARM_GCC AND AEAD_ARM_QEMU)
		set(own ${CMAKE_SOURCE_DIR}/hal/aead)
		set(AEAD_ROWS "\t&aead_armv8,\n\t&aead_portable,\n")
		configure_file(${own}/table.c.in aead_cross_table.c @ONLY)
		set(armv8 ${CMAKE_CURRENT_BINARY_DIR}/aead_cross_armv8.o)
		set(program ${CMAKE_BINARY_DIR}/test-bin/aead_cross)
		set(common -O2 -g -std=gnu17 -Wall -Wextra -Wconversion -Wshadow -Werror -fno-strict-aliasing -fstack-protector-strong
			-D_GNU_SOURCE -DFALLGATE_VERSION="x" -I${own})
		foreach(folder ${FALLGATE_INCLUDES})
			list(APPEND common -I${folder})
		endforeach()
		set(sources aead_cross.c ${CMAKE_CURRENT_BINARY_DIR}/aead_cross_table.c)
		foreach(name portable registers_aarch64 select self_test wipe xaes)
			list(APPEND sources ${own}/${name}.c)
		endforeach()
		list(APPEND sources ${CMAKE_SOURCE_DIR}/firmware/base/error.c ${CMAKE_SOURCE_DIR}/firmware/base/log.c)
		add_custom_command(OUTPUT ${program}
			COMMAND ${AEAD_ARM_GCC} ${common} -Wframe-larger-than=1024 -march=armv8-a+crypto -c ${own}/armv8.c -o ${armv8}
			COMMAND ${AEAD_ARM_GCC} ${common} -static ${sources} ${armv8} -o ${program}
			WORKING_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR}
			DEPENDS ${own}/armv8.c ${own}/entries.h ${own}/kernel.h aead_registers.h ${sources} VERBATIM)
		add_custom_target(aead_cross ALL DEPENDS ${program})
		add_test(NAME aead_cross-armv8 COMMAND ${AEAD_ARM_QEMU} ${program} armv8)
	else()
		add_test(NAME aead_cross-armv8 COMMAND sh -c
			"echo 'skipped: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static'; exit 77")
	endif()
	set_tests_properties(aead_cross-armv8 PROPERTIES TIMEOUT 120 LABELS "unit;aead" SKIP_RETURN_CODE 77)
endif()
