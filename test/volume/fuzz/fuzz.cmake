# The decoders under libFuzzer with both sanitizers: the volume's sources compiled once more by clang, whatever compiles the rest.
# ctest runs each kind for a few seconds from the seeds kept here; for longer:
# test/volume/fuzz/run BUILD-DIR/test-bin/fuzz_volume SECONDS
find_program(VOLUME_CLANG NAMES clang clang-14 clang-15 clang-16 clang-17 clang-18 clang-19)
if(NOT VOLUME_CLANG OR FALLGATE_SANITIZE OR CMAKE_CROSSCOMPILING)
	return()
endif()
set(fuzzer ${CMAKE_BINARY_DIR}/test-bin/fuzz_volume)
set(fuzz_libraries $<TARGET_FILE:hal_secret_memory> $<TARGET_FILE:hal_entropy> $<TARGET_FILE:hal_hash> $<TARGET_FILE:base>
	$<TARGET_FILE:deps::mbedcrypto>)
add_custom_command(OUTPUT ${fuzzer}
	COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/test-bin
	COMMAND ${VOLUME_CLANG} -std=gnu17 -D_GNU_SOURCE -O1 -g -fno-omit-frame-pointer -Wall -Wextra -Werror
		-fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all
		-I${CMAKE_SOURCE_DIR}/firmware -I${CMAKE_SOURCE_DIR}/hal/include -I${CMAKE_BINARY_DIR}/generated
		-o ${fuzzer} ${CMAKE_CURRENT_LIST_DIR}/fuzz.c ${volume_sources} $<TARGET_FILE:hal_aead> ${fuzz_libraries} -lpthread
	DEPENDS ${CMAKE_CURRENT_LIST_DIR}/fuzz.c ${volume_sources} hal_aead hal_secret_memory hal_entropy hal_hash base
	COMMENT "Building fuzz_volume with clang" VERBATIM)
add_custom_target(fuzz_volume ALL DEPENDS ${fuzzer})
foreach(kind header root log node backup)
	add_test(NAME volume_fuzz_${kind} COMMAND ${CMAKE_CURRENT_LIST_DIR}/run ${fuzzer} 12 ${kind})
	set_tests_properties(volume_fuzz_${kind} PROPERTIES TIMEOUT 300 LABELS "unit;fuzz")
endforeach()
