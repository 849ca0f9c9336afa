# One interface target that every room compiles with: warnings, hardening, and in sanitizer builds what those need instead.
# What the linked programs must then show (PIE, full RELRO, ...) is checked by test/tools/check_hardening.py.
include(CheckCCompilerFlag)
add_library(fallgate_flags INTERFACE)

option(FALLGATE_WERROR "Treat warnings as errors" ON)
set(FALLGATE_SANITIZE "" CACHE STRING "Sanitizers, e.g. address,undefined")

if(NOT CMAKE_BUILD_TYPE)
	set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug or Release" FORCE)
endif()
if(NOT CMAKE_BUILD_TYPE MATCHES "^(Debug|Release)$")
	message(FATAL_ERROR "CMAKE_BUILD_TYPE is '${CMAKE_BUILD_TYPE}': only Debug and Release have flags here.")
endif()
set(CMAKE_C_FLAGS_RELEASE "-O2 -g")
set(CMAKE_C_FLAGS_DEBUG "-O1 -g3 -fno-omit-frame-pointer")

# fallgate_flag(FLAG...): the first of the spellings that this compiler takes, else nothing.
function(fallgate_flag)
	foreach(flag ${ARGN})
		string(MAKE_C_IDENTIFIER "FLAG_${flag}" known)
		check_c_compiler_flag("${flag}" ${known})
		if(${known})
			separate_arguments(flags UNIX_COMMAND "${flag}")
			target_compile_options(fallgate_flags INTERFACE ${flags})
			return()
		endif()
	endforeach()
endfunction()

target_compile_options(fallgate_flags INTERFACE
	-Wall -Wextra -Wconversion -Wvla -Wswitch-enum -Wmissing-prototypes -Wstrict-prototypes -Wshadow -Wformat=2 -Wundef
	-fstack-protector-strong -fno-strict-aliasing -ffunction-sections -fdata-sections
	# gcc leaves rows of tables alone whose last fields are zero; clang would not
	$<$<C_COMPILER_ID:Clang>:-Wno-missing-field-initializers>)
# clang before 16 takes the first only together with the second
fallgate_flag("-ftrivial-auto-var-init=zero"
	"-ftrivial-auto-var-init=zero -enable-trivial-auto-var-init-zero-knowing-it-will-be-removed-from-clang")
if(FALLGATE_WERROR)
	target_compile_options(fallgate_flags INTERFACE -Werror)
endif()

if(FALLGATE_SANITIZE)
	target_compile_options(fallgate_flags INTERFACE -fsanitize=${FALLGATE_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
	target_link_options(fallgate_flags INTERFACE -fsanitize=${FALLGATE_SANITIZE})
else()
	# -U first: some compilers define it by themselves, to another level
	target_compile_options(fallgate_flags INTERFACE -U_FORTIFY_SOURCE $<$<CONFIG:Release>:-D_FORTIFY_SOURCE=2>)
	fallgate_flag(-fstack-clash-protection)
endif()
fallgate_flag(-fcf-protection=full -mbranch-protection=standard)

add_link_options(-Wl,-z,relro,-z,now,-z,noexecstack -Wl,--gc-sections)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
include(CheckPIESupported)
check_pie_supported(LANGUAGES C)
