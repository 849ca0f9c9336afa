/* The module that fails on order, in front of SoftHSM2: each order does what it says, to the calls that it names and to no
 * others; without orders it is the real module. A campaign whose faults do not happen proves nothing. */
#include <dlfcn.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <p11-kit/pkcs11.h>

#include "hsm/rig.h"

#define PIN "24681357"

static struct rig rig;
static CK_FUNCTION_LIST *f;
static CK_SLOT_ID slot;
static CK_SESSION_HANDLE session;

static CK_SLOT_ID find_slot(void)
{
	CK_SLOT_ID slots[16];
	CK_ULONG count = 16;
	CK_TOKEN_INFO info;

	assert_int_equal(f->C_GetSlotList(CK_TRUE, slots, &count), CKR_OK);
	for (CK_ULONG i = 0; i < count; i++)
		if (f->C_GetTokenInfo(slots[i], &info) == CKR_OK && memcmp(info.label, "cust omer ", 10) == 0)
			return slots[i];
	return (CK_SLOT_ID)-1;
}

static CK_RV log_in(void)
{
	CK_RV rv;

	slot = find_slot();
	rv = f->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &session);
	return rv != CKR_OK ? rv : f->C_Login(session, CKU_USER, (CK_UTF8CHAR *)(uintptr_t)PIN, sizeof PIN - 1);
}

static void load(void)
{
	void *library = dlopen(FAULT_MODULE, RTLD_NOW);
	CK_C_GetFunctionList get;

	assert_non_null(library);
	*(void **)&get = dlsym(library, "C_GetFunctionList");
	assert_int_equal(get(&f), CKR_OK);
}

static int start(void **state)
{
	(void)state;
	rig_fault(&rig, "");
	assert_int_equal(f->C_Initialize(NULL), CKR_OK);
	assert_int_equal(log_in(), CKR_OK);
	return 0;
}

static int stop(void **state)
{
	(void)state;
	rig_fault(&rig, "");
	f->C_Finalize(NULL);
	return 0;
}

static CK_RV find(const char *label, CK_OBJECT_HANDLE *key, CK_ULONG *count)
{
	CK_OBJECT_CLASS class = CKO_PRIVATE_KEY;
	CK_ATTRIBUTE want[] = { { CKA_CLASS, &class, sizeof class }, { CKA_LABEL, (void *)(uintptr_t)label, strlen(label) } };
	CK_RV rv = f->C_FindObjectsInit(session, want, 2);

	*count = 0;
	if (rv == CKR_OK)
		rv = f->C_FindObjects(session, key, 1, count);
	f->C_FindObjectsFinal(session);
	return rv;
}

static CK_ULONG id_of(CK_OBJECT_HANDLE key)
{
	CK_BYTE id[8] = { 0 };
	CK_ATTRIBUTE a = { CKA_ID, id, sizeof id };

	assert_int_equal(f->C_GetAttributeValue(session, key, &a, 1), CKR_OK);
	return a.ulValueLen == 1 ? id[0] : 0;
}

static CK_RV random_byte(void)
{
	CK_BYTE b;

	return f->C_GenerateRandom(session, &b, 1);
}

static void without_orders_it_is_the_real_module(void **state)
{
	unsigned before = rig_calls(&rig, "C_GenerateRandom ");
	CK_OBJECT_HANDLE key;
	CK_ULONG count;

	(void)state;
	for (int i = 0; i < 5; i++)
		assert_int_equal(random_byte(), CKR_OK);
	assert_int_equal(rig_calls(&rig, "C_GenerateRandom "), before + 5);
	assert_int_equal(find("one", &key, &count), CKR_OK);
	assert_int_equal(count, 1);
	assert_int_equal(id_of(key), 1);
}

static void the_calls_that_were_named_answer_a_code(void **state)
{
	(void)state;
	rig_fault(&rig, "C_GenerateRandom 1 2 rv 0x30\n# a comment\nC_Login 0 9 rv 0xa0\n");
	assert_int_equal(random_byte(), CKR_OK);
	assert_int_equal(random_byte(), CKR_DEVICE_ERROR);
	assert_int_equal(random_byte(), CKR_DEVICE_ERROR);
	assert_int_equal(random_byte(), CKR_OK);
	rig_fault(&rig, "* 0 1 rv 0xb3\n"); /* while it runs */
	assert_int_equal(random_byte(), CKR_SESSION_HANDLE_INVALID);
	assert_int_equal(random_byte(), CKR_OK);
}

static void a_lost_answer_was_done_all_the_same(void **state)
{
	CK_SESSION_INFO info;

	(void)state;
	assert_int_equal(f->C_Logout(session), CKR_OK);
	rig_fault(&rig, "C_Login 0 1 lost 0x30\n");
	assert_int_equal(f->C_Login(session, CKU_USER, (CK_UTF8CHAR *)(uintptr_t)PIN, sizeof PIN - 1), CKR_DEVICE_ERROR);
	assert_int_equal(f->C_GetSessionInfo(session, &info), CKR_OK);
	assert_int_equal(info.state, CKS_RO_USER_FUNCTIONS);
}

static CK_ULONG told_length(const char *how)
{
	CK_BYTE id[8];
	CK_ATTRIBUTE a = { CKA_ID, id, sizeof id };
	CK_OBJECT_HANDLE key;
	CK_ULONG count;
	char order[64];

	rig_fault(&rig, "");
	assert_int_equal(find("one", &key, &count), CKR_OK);
	snprintf(order, sizeof order, "C_GetAttributeValue 0 1 length %s\n", how);
	rig_fault(&rig, order);
	assert_int_equal(f->C_GetAttributeValue(session, key, &a, 1), CKR_OK);
	return a.ulValueLen;
}

static void lengths_bytes_and_handles_are_bent(void **state)
{
	CK_OBJECT_HANDLE key;
	CK_ULONG count;

	(void)state;
	assert_int_equal(told_length("short"), 0);
	assert_int_equal(told_length("long"), 9);
	assert_true(told_length("huge") == (CK_ULONG)-2);
	assert_int_equal(told_length("zero"), 0);
	assert_int_equal(told_length("7"), 7);
	rig_fault(&rig, "C_FindObjects 0 1 length 5\n");
	assert_int_equal(find("one", &key, &count), CKR_OK);
	assert_int_equal(count, 5);
	rig_fault(&rig, "C_FindObjects 0 1 handle 0x7777\nC_OpenSession 0 1 handle 66\n");
	assert_int_equal(find("one", &key, &count), CKR_OK);
	assert_int_equal(key, 0x7777);
	assert_int_equal(find("one", &key, &count), CKR_OK);
	assert_int_equal(id_of(key), 1);
	rig_fault(&rig, "C_GetAttributeValue 0 1 garbage\n");
	assert_int_not_equal(id_of(key), 1);
	assert_int_equal(id_of(key), 1);
}

/* RSA: what the modulus says is told by the encryption with another key's public half failing to open. */
static void another_key_stands_in_the_named_ones_place(void **state)
{
	CK_RSA_PKCS_OAEP_PARAMS params = { CKM_SHA_1, CKG_MGF1_SHA1, CKZ_DATA_SPECIFIED, NULL, 0 };
	CK_MECHANISM oaep = { CKM_RSA_PKCS_OAEP, &params, sizeof params };
	CK_BYTE plain[32] = { 7 }, wrapped[256], back[256];
	CK_ULONG size = sizeof wrapped, back_size = sizeof back, count;
	CK_OBJECT_HANDLE one, public_key;
	CK_OBJECT_CLASS class = CKO_PUBLIC_KEY;
	CK_ATTRIBUTE want[] = { { CKA_CLASS, &class, sizeof class }, { CKA_LABEL, (void *)(uintptr_t) "one", 3 } };

	(void)state;
	assert_int_equal(find("one", &one, &count), CKR_OK);
	assert_int_equal(f->C_FindObjectsInit(session, want, 2), CKR_OK);
	assert_int_equal(f->C_FindObjects(session, &public_key, 1, &count), CKR_OK);
	assert_int_equal(f->C_FindObjectsFinal(session), CKR_OK);
	assert_int_equal(f->C_EncryptInit(session, &oaep, public_key), CKR_OK);
	assert_int_equal(f->C_Encrypt(session, plain, sizeof plain, wrapped, &size), CKR_OK);
	rig_fault(&rig, "C_FindObjectsInit 0 1 substitute two\nC_DecryptInit 0 1 use two\n");
	assert_int_equal(f->C_DecryptInit(session, &oaep, one), CKR_OK);
	assert_int_not_equal(f->C_Decrypt(session, wrapped, size, back, &back_size), CKR_OK);
	back_size = sizeof back;
	assert_int_equal(f->C_DecryptInit(session, &oaep, one), CKR_OK);
	assert_int_equal(f->C_Decrypt(session, wrapped, size, back, &back_size), CKR_OK);
	assert_memory_equal(back, plain, sizeof plain);
	assert_int_equal(find("one", &one, &count), CKR_OK);
	assert_int_equal(id_of(one), 2);
}

static void slots_change_their_numbers(void **state)
{
	CK_TOKEN_INFO info;
	CK_SLOT_ID now;

	(void)state;
	rig_fault(&rig, "slots 0 0 renumber 1000\n");
	assert_int_equal(find_slot(), slot + 1000);
	assert_int_not_equal(f->C_GetTokenInfo(slot, &info), CKR_OK);
	rig_fault(&rig, "slots 0 0 rotate\n"); /* the uninitialised slot has its number now */
	now = find_slot();
	assert_int_not_equal(now, slot);
	assert_int_equal(f->C_GetTokenInfo(slot, &info), CKR_OK);
	assert_false((info.flags & CKF_TOKEN_INITIALIZED) != 0);
	rig_fault(&rig, "token 0 0 flags 0x20000\n");
	assert_int_equal(f->C_GetTokenInfo(slot, &info), CKR_OK);
	assert_true((info.flags & CKF_USER_PIN_FINAL_TRY) != 0);
}

static void a_right_is_told_otherwise(void **state)
{
	CK_OBJECT_HANDLE key;
	CK_BBOOL decrypt;
	CK_ATTRIBUTE a = { CKA_DECRYPT, &decrypt, sizeof decrypt };
	CK_ULONG count;

	(void)state;
	assert_int_equal(find("one", &key, &count), CKR_OK);
	for (unsigned told = 0; told < 2; told++) {
		rig_fault(&rig, told == 0 ? "key 0 0 attribute 0x104=1\nkey 0 0 attribute 0x105=0\n" : "");
		assert_int_equal(f->C_GetAttributeValue(session, key, &a, 1), CKR_OK);
		assert_int_equal(decrypt, told);
	}
	assert_int_equal(id_of(key), 1);
}

static void a_session_that_rests_is_closed(void **state)
{
	struct timespec moment = { 0, 400000000 };

	(void)state;
	rig_fault(&rig, "session 0 0 idle 300\n");
	nanosleep(&moment, NULL);
	assert_int_equal(random_byte(), CKR_SESSION_HANDLE_INVALID);
	assert_int_equal(log_in(), CKR_OK);
	assert_int_equal(random_byte(), CKR_OK);
	rig_fault(&rig, "session 0 0 idle-dead 300\n");
	nanosleep(&moment, NULL);
	assert_int_equal(random_byte(), CKR_SESSION_HANDLE_INVALID);
	assert_int_not_equal(f->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &session), CKR_OK);
	assert_int_equal(f->C_Finalize(NULL), CKR_OK);
	assert_int_equal(f->C_Initialize(NULL), CKR_OK);
	assert_int_equal(log_in(), CKR_OK);
}

/* How a process ends that initialises the module: its status, or -1 if it did not end within that time. */
static int end_of_process(const char *order, int within_ms)
{
	int status = -1;
	pid_t pid;

	rig_fault(&rig, order);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		f->C_Initialize(NULL);
		_exit(0);
	}
	for (int i = 0; i < within_ms; i++) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return status;
		usleep(1000);
	}
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return -1;
}

static void it_crashes_aborts_hangs_and_waits(void **state)
{
	struct timespec began, now;
	int status;

	(void)state;
	status = end_of_process("C_Initialize 0 1 crash\n", 20000);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	status = end_of_process("C_Initialize 0 1 abort\n", 20000);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	status = end_of_process("C_Initialize 0 1 exit 9\n", 20000);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 9);
	assert_int_equal(end_of_process("C_Initialize 0 1 hang\n", 300), -1);
	clock_gettime(CLOCK_MONOTONIC, &began);
	rig_fault(&rig, "C_GenerateRandom 0 1 delay 120\n");
	assert_int_equal(random_byte(), CKR_OK);
	clock_gettime(CLOCK_MONOTONIC, &now);
	assert_true((now.tv_sec - began.tv_sec) * 1000 + (now.tv_nsec - began.tv_nsec) / 1000000 >= 119);
}

static void it_works_for_nobody_after_a_fork(void **state)
{
	pid_t pid = fork();
	int status;

	(void)state;
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(random_byte() == CKR_CRYPTOKI_NOT_INITIALIZED ? 0 : 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(random_byte(), CKR_OK);
}

static int new_keys(void **state)
{
	(void)state;
	rig_new(&rig, false);
	load();
	return rig_custodian(&rig, "make-kek --type rsa2048 --label one --id 01") ||
	       rig_custodian(&rig, "make-kek --type rsa2048 --label two --id 02");
}

static int remove_keys(void **state)
{
	(void)state;
	rig_remove(&rig);
	return 0;
}

int main(void)
{
#define IN_A_SESSION(test) cmocka_unit_test_setup_teardown(test, start, stop)
	const struct CMUnitTest tests[] = {
		IN_A_SESSION(without_orders_it_is_the_real_module),
		IN_A_SESSION(the_calls_that_were_named_answer_a_code),
		IN_A_SESSION(a_lost_answer_was_done_all_the_same),
		IN_A_SESSION(lengths_bytes_and_handles_are_bent),
		IN_A_SESSION(another_key_stands_in_the_named_ones_place),
		IN_A_SESSION(slots_change_their_numbers),
		IN_A_SESSION(a_session_that_rests_is_closed),
		IN_A_SESSION(a_right_is_told_otherwise),
		IN_A_SESSION(it_crashes_aborts_hangs_and_waits),
		IN_A_SESSION(it_works_for_nobody_after_a_fork),
	};

	return cmocka_run_group_tests(tests, new_keys, remove_keys);
}
