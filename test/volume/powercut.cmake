# The power-cut replay and its relatives (see powercut.c). They run against the volume library built once more with mutants
# compiled in; volume_options.mutant is 0 unless a test asks for one.
get_target_property(volume_sources volume SOURCES)
get_target_property(volume_dir volume SOURCE_DIR)
list(TRANSFORM volume_sources PREPEND ${volume_dir}/)
add_library(volume_mutants STATIC ${volume_sources})
fallgate_target_setup(volume_mutants)
target_compile_definitions(volume_mutants PUBLIC FALLGATE_MUTANTS)
target_link_libraries(volume_mutants PUBLIC base hal_aead hal_secret_memory hal_hash)

add_library(powercut_rig STATIC powercut_world.c powercut_play.c powercut_memo.c powercut_images.c powercut_recorder.c
	${CMAKE_SOURCE_DIR}/test/fakes/block_power.c)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" AND CMAKE_OBJCOPY AND NOT FALLGATE_SANITIZE)
	target_sources(powercut_rig PRIVATE powercut_crc_x86.c)
	target_link_options(powercut_rig PUBLIC -Wl,-u,crc32c)
	set_source_files_properties(powercut_crc_x86.c PROPERTIES COMPILE_OPTIONS -msse4.2)
	add_custom_command(TARGET volume_mutants POST_BUILD VERBATIM
		COMMAND ${CMAKE_OBJCOPY} --weaken-symbol=crc32c $<TARGET_FILE:volume_mutants>)
endif()
fallgate_target_setup(powercut_rig)
target_include_directories(powercut_rig PRIVATE ${CMAKE_SOURCE_DIR}/test)
target_link_libraries(powercut_rig PUBLIC volume_mutants base hal_hash deps::nbd)
target_link_options(powercut_rig PUBLIC -Wl,--wrap=hash_sha256,-u,__wrap_hash_sha256
	-Wl,--wrap=hash_hmac,-u,__wrap_hash_hmac
	-Wl,--wrap=secret_memory_alloc,-u,__wrap_secret_memory_alloc
	-Wl,--wrap=secret_memory_free,-u,__wrap_secret_memory_free
	-Wl,--wrap=mmap,-u,__wrap_mmap -Wl,--wrap=munmap,-u,__wrap_munmap)

if(FALLGATE_SANITIZE)
	set(points 2000)
	set(operations 50000)
	set(many_operations 1000000)
	set(shapes 1)
	set(swept 4)
else()
	set(points 20000)
	set(operations 1000000)
	set(many_operations 10000000)
	set(shapes 6)
	set(swept 24)
endif()

fallgate_test(powercut SOURCES powercut.c LINKS powercut_rig
	ARGS --points ${points} --second-cuts --seed 1 LABELS powercut TIMEOUT 600)
add_test(NAME powercut_standard COMMAND powercut --geometry standard --points 1000 --second-cuts --seed 1)
set_tests_properties(powercut_standard PROPERTIES TIMEOUT 600 LABELS "unit;powercut")
add_test(NAME powercut_threaded COMMAND powercut --threaded --points 2000 --second-cuts --seed 1)
set_tests_properties(powercut_threaded PROPERTIES TIMEOUT 600 LABELS "unit;powercut")
# The same with a recorder that is not ours.
if(NOT FALLGATE_SANITIZE)
	add_test(NAME powercut_qemu COMMAND powercut --recorder qemu --points 1500 --second-cuts --seed 1)
	set_tests_properties(powercut_qemu PROPERTIES TIMEOUT 600 LABELS "unit;powercut")
endif()

# What the engine reads on images that cuts left, an independent reader reads, too.
if(VOLUME_PYTHON AND NOT FALLGATE_SANITIZE)
	add_test(NAME powercut_images COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/powercut_images.sh $<TARGET_FILE:powercut> ${VOLUME_PYTHON}
		${CMAKE_CURRENT_BINARY_DIR}/cut-images 200)
	set_tests_properties(powercut_images PROPERTIES TIMEOUT 600 LABELS "unit;powercut" SKIP_RETURN_CODE 77)
endif()
fallgate_test(powercut_random SOURCES powercut_random.c LINKS powercut_rig
	ARGS --operations ${many_operations} --calm 10 --volume-operations 50000 LABELS powercut TIMEOUT 1200)
add_test(NAME powercut_random_restless COMMAND powercut_random --operations 100000 --seed 7)
set_tests_properties(powercut_random_restless PROPERTIES TIMEOUT 600 LABELS "unit;powercut")
fallgate_test(powercut_io_errors SOURCES powercut_io_errors.c LINKS powercut_rig
	ARGS ${shapes} LABELS powercut TIMEOUT 600)
fallgate_test(powercut_blocks SOURCES powercut_blocks.c LINKS powercut_rig
	ARGS --volumes ${swept} LABELS powercut TIMEOUT 600)
add_test(NAME powercut_blocks_can_fail COMMAND powercut_blocks --volumes 1 --bits 1 --wrong)
set_tests_properties(powercut_blocks_can_fail PROPERTIES WILL_FAIL ON TIMEOUT 300 LABELS "unit;powercut")
fallgate_test(powercut_device SOURCES powercut_device.c LINKS powercut_rig LABELS powercut)
fallgate_test(powercut_nonces SOURCES powercut_nonces.c LINKS powercut_rig ARGS ${operations} LABELS powercut TIMEOUT 1200)
target_link_options(powercut_nonces PRIVATE -Wl,--wrap=keyring_seal)

# Each rule broken on purpose: the replay must find it.
if(NOT FALLGATE_SANITIZE)
	foreach(mutant r1-data-before-log r2-no-prefix r3-old-after-new r4-entry-dropped r5-unsettled-in-node r6-no-level-flush
			r7-tail-before-root r8-no-reserve r9-losers-left r10-no-flush-in-open r11-flush-retried r13-read-past-held
			r14-zero-not-in-node d-ahead)
		add_test(NAME powercut_mutant_${mutant} COMMAND powercut --points 60000 --second-cuts --mutant ${mutant} --expect-failure)
		set_tests_properties(powercut_mutant_${mutant} PROPERTIES TIMEOUT 600 LABELS "unit;powercut;mutants")
	endforeach()
endif()

# Does the replay itself tell right from wrong? A plain disk is right, one with a broken rule is not.
fallgate_test(powercut_plain SOURCES powercut.c powercut_plain.c LINKS powercut_rig
	ARGS --points ${points} --second-cuts --seed 1 LABELS powercut TIMEOUT 600)
foreach(mutant r1-data-before-log r10-no-flush-in-open r11-flush-retried)
	add_test(NAME powercut_plain_${mutant} COMMAND powercut_plain --points 20000 --second-cuts --mutant ${mutant} --expect-failure)
	set_tests_properties(powercut_plain_${mutant} PROPERTIES TIMEOUT 600 LABELS "unit;powercut")
endforeach()
fallgate_test(powercut_plain_random SOURCES powercut_random.c powercut_plain.c LINKS powercut_rig
	ARGS --operations ${operations} LABELS powercut TIMEOUT 600)

# The protocol in Spin: see protocol.pml.
if(VOLUME_PYTHON AND NOT FALLGATE_SANITIZE)
	add_test(NAME volume_spin COMMAND ${VOLUME_PYTHON} -B ${CMAKE_CURRENT_SOURCE_DIR}/spin_protocol ${CMAKE_BINARY_DIR}/spin-volume)
	set_tests_properties(volume_spin PROPERTIES TIMEOUT 900 LABELS "unit" SKIP_RETURN_CODE 77)
endif()
