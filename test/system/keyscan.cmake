# The forensic search and what tells it which key to look for. They are test tools: nothing of them is installed.
fallgate_program(keyscan SOURCES keyscan.c keyscan_tracee.c keyscan_derive.c LINKS hal_hash hal_aead base)
fallgate_test(test_keyscan SOURCES test_keyscan.c LINKS hal_secret_memory hal_hash hal_aead base
	ARGS $<TARGET_FILE:keyscan> LABELS system)
add_dependencies(test_keyscan keyscan)

fallgate_program(unwrap_dek SOURCES unwrap_dek.c LINKS deps::p11kit)
