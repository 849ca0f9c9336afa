# One interface target that every room compiles with: warnings, hardening, and in sanitizer builds what those need instead.
add_library(fallgate_flags INTERFACE)

option(FALLGATE_WERROR "Treat warnings as errors" ON)
set(FALLGATE_SANITIZE "" CACHE STRING "Sanitizers, e.g. address,undefined")

if(NOT CMAKE_BUILD_TYPE)
	set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug or Release" FORCE)
endif()
set(CMAKE_C_FLAGS_RELEASE "-O2 -g")
set(CMAKE_C_FLAGS_DEBUG "-O1 -g3 -fno-omit-frame-pointer")

target_compile_options(fallgate_flags INTERFACE
	-Wall -Wextra -Wconversion -Wvla -Wswitch-enum -Wmissing-prototypes -Wstrict-prototypes -Wshadow -Wformat=2 -Wundef
	-fstack-protector-strong -fno-strict-aliasing -ftrivial-auto-var-init=zero)
if(FALLGATE_WERROR)
	target_compile_options(fallgate_flags INTERFACE -Werror)
endif()

if(FALLGATE_SANITIZE)
	target_compile_options(fallgate_flags INTERFACE -fsanitize=${FALLGATE_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
	target_link_options(fallgate_flags INTERFACE -fsanitize=${FALLGATE_SANITIZE})
	set(FALLGATE_SANDBOX none)
else()
	# glibc already says so where the compiler was built with FORTIFY on by default
	target_compile_options(fallgate_flags INTERFACE -U_FORTIFY_SOURCE $<$<CONFIG:Release>:-D_FORTIFY_SOURCE=2> -fstack-clash-protection)
	set(FALLGATE_SANDBOX seccomp)
endif()
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
	target_compile_options(fallgate_flags INTERFACE -fcf-protection=full)
endif()

add_link_options(-Wl,-z,relro,-z,now,-z,noexecstack)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
include(CheckPIESupported)
check_pie_supported(LANGUAGES C)
