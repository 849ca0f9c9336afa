# Target check-format: every C file of the tree as .clang-format has it, by the clang-format of Debian 12. Others break lines
# otherwise, so another major version is refused rather than believed.
find_program(CLANG_FORMAT NAMES clang-format-14 clang-format)
if(CLANG_FORMAT)
	add_custom_target(check-format
		COMMAND sh -c "'${CLANG_FORMAT}' --version | grep -q ' version 14\\.' || { echo 'check-format: clang-format 14 is wanted' >&2; exit 1; }"
		COMMAND sh -c "git ls-files -z '*.c' '*.h' | xargs -0 '${CLANG_FORMAT}' --dry-run -Werror"
		WORKING_DIRECTORY ${CMAKE_SOURCE_DIR} VERBATIM)
endif()
