# The power-cut replay and its relatives (see powercut.c). They run against the volume library built once more with mutants
# compiled in; volume_options.mutant is 0 unless a test asks for one.
get_target_property(volume_sources volume SOURCES)
get_target_property(volume_dir volume SOURCE_DIR)
list(TRANSFORM volume_sources PREPEND ${volume_dir}/)
add_library(volume_mutants STATIC ${volume_sources})
fallgate_target_setup(volume_mutants)
target_compile_definitions(volume_mutants PUBLIC FALLGATE_MUTANTS)
target_link_libraries(volume_mutants PUBLIC base hal_aead hal_secret_memory hal_hash)

add_library(powercut_rig STATIC powercut_world.c powercut_play.c ${CMAKE_SOURCE_DIR}/test/fakes/block_power.c)
fallgate_target_setup(powercut_rig)
target_include_directories(powercut_rig PRIVATE ${CMAKE_SOURCE_DIR}/test)
target_link_libraries(powercut_rig PUBLIC volume_mutants base)

if(FALLGATE_SANITIZE)
	set(points 2000)
	set(operations 50000)
else()
	set(points 20000)
	set(operations 1000000)
endif()

fallgate_test(powercut SOURCES powercut.c LINKS powercut_rig
	ARGS --points ${points} --second-cuts --seed 1 LABELS powercut TIMEOUT 600)
