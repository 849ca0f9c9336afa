# Tests of hal/linux.
fallgate_test(test_linux_secret_memory SOURCES linux_secret_memory.c LINKS hal_secret_memory)
# The same once more over a locked memfd, as on kernels without memfd_secret.
add_test(NAME test_linux_secret_memory_memfd COMMAND test_linux_secret_memory)
set_tests_properties(test_linux_secret_memory_memfd PROPERTIES LABELS unit TIMEOUT 120 ENVIRONMENT FALLGATE_SECRET_MEMORY=memfd)

fallgate_test(test_linux_entropy SOURCES linux_entropy.c ${CMAKE_SOURCE_DIR}/hal/linux/entropy.c LINKS base)
target_include_directories(test_linux_entropy PRIVATE ${CMAKE_SOURCE_DIR}/hal/linux)
fallgate_test(test_linux_entropy_kernel SOURCES linux_entropy_kernel.c LINKS hal_entropy)
fallgate_test(test_linux_hash SOURCES linux_hash.c LINKS hal_hash)
fallgate_test(test_linux_block SOURCES linux_block.c LINKS hal_block)
fallgate_test(test_linux_tamper SOURCES linux_tamper.c LINKS hal_tamper)
fallgate_test(test_linux_sandbox SOURCES linux_sandbox.c LINKS hal_sandbox)
if(CONFIG_DATAPLANE_UBLK)
	fallgate_test(test_linux_ublk_ring SOURCES linux_ublk_ring.c LINKS hal_ublk_server)
	target_include_directories(test_linux_ublk_ring PRIVATE ${CMAKE_SOURCE_DIR}/hal/linux)
endif()
