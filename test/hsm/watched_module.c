/* A PKCS#11 module for tests: SoftHSM2 behind it, with a log of the calls that matter and faults on order. FALLGATE_WATCH names a
 * folder: "log" gets a line for each C_Initialize and C_Login; "fault" holds lines "FUNCTION CODE SKIP TIMES": after SKIP calls
 * that pass, the next TIMES calls answer the code and do nothing. The file is read at the first call of each process. */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <p11-kit/pkcs11.h>

struct fault {
	char function[32];
	unsigned long code;
	int skip, times;
};

/* A module has no context to pass: Cryptoki's calls share one state. */
static CK_FUNCTION_LIST real, ours;
static struct fault faults[8];
static int fault_count = -1;

static void path_of(char *out, size_t size, const char *name)
{
	const char *folder = getenv("FALLGATE_WATCH");

	snprintf(out, size, "%s/%s", folder != NULL ? folder : "/nonexistent", name);
}

static void write_log(const char *line)
{
	char path[256];
	int fd;

	path_of(path, sizeof path, "log");
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, line, strlen(line)) < 0)
		abort();
	close(fd);
}

static void read_faults(void)
{
	char path[256];
	FILE *f;

	fault_count = 0;
	path_of(path, sizeof path, "fault");
	f = fopen(path, "re");
	if (f == NULL)
		return;
	while (fault_count < 8 && fscanf(f, "%31s %lx %d %d", faults[fault_count].function, &faults[fault_count].code,
					 &faults[fault_count].skip, &faults[fault_count].times) == 4)
		fault_count++;
	fclose(f);
}

static CK_RV fault(const char *function)
{
	if (fault_count < 0)
		read_faults();
	for (int i = 0; i < fault_count; i++) {
		if (strcmp(faults[i].function, function) != 0)
			continue;
		if (faults[i].skip > 0)
			faults[i].skip--;
		else if (faults[i].times > 0 && faults[i].times--)
			return faults[i].code;
	}
	return CKR_OK;
}

#define WATCH(name, parameters, arguments)                                                                                       \
	static CK_RV watched_##name parameters                                                                                   \
	{                                                                                                                        \
		CK_RV rv = fault("C_" #name);                                                                                    \
                                                                                                                                 \
		return rv != CKR_OK ? rv : real.C_##name arguments;                                                              \
	}

WATCH(Decrypt, (CK_SESSION_HANDLE s, CK_BYTE_PTR in, CK_ULONG n, CK_BYTE_PTR out, CK_ULONG_PTR m), (s, in, n, out, m))
WATCH(DecryptInit, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k), (s, m, k))
WATCH(GetSlotList, (CK_BBOOL p, CK_SLOT_ID_PTR l, CK_ULONG_PTR n), (p, l, n))
WATCH(OpenSession, (CK_SLOT_ID i, CK_FLAGS f, void *a, CK_NOTIFY n, CK_SESSION_HANDLE_PTR s), (i, f, a, n, s))
WATCH(WrapKey, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k, CK_OBJECT_HANDLE o, CK_BYTE_PTR out, CK_ULONG_PTR n),
      (s, m, k, o, out, n))
WATCH(FindObjects, (CK_SESSION_HANDLE s, CK_OBJECT_HANDLE_PTR o, CK_ULONG m, CK_ULONG_PTR n), (s, o, m, n))

/* Besides: the order "final_try" makes the token report what SoftHSM2 never does. */
static CK_RV watched_GetTokenInfo(CK_SLOT_ID i, CK_TOKEN_INFO_PTR t)
{
	CK_RV rv = fault("C_GetTokenInfo");

	if (rv == CKR_OK)
		rv = real.C_GetTokenInfo(i, t);
	if (rv == CKR_OK && fault("final_try") != CKR_OK)
		t->flags |= CKF_USER_PIN_FINAL_TRY;
	return rv;
}

static CK_RV watched_Initialize(void *args)
{
	CK_RV rv = fault("C_Initialize");

	write_log("C_Initialize\n");
	return rv != CKR_OK ? rv : real.C_Initialize(args);
}

static CK_RV watched_Login(CK_SESSION_HANDLE s, CK_USER_TYPE u, CK_UTF8CHAR_PTR pin, CK_ULONG n)
{
	CK_RV rv = fault("C_Login");

	write_log("C_Login\n");
	return rv != CKR_OK ? rv : real.C_Login(s, u, pin, n);
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR list)
{
	void *library = dlopen(SOFTHSM_MODULE, RTLD_NOW | RTLD_LOCAL);
	CK_C_GetFunctionList get;
	CK_FUNCTION_LIST *f;

	if (library == NULL)
		return CKR_GENERAL_ERROR;
	*(void **)&get = dlsym(library, "C_GetFunctionList");
	if (get == NULL || get(&f) != CKR_OK)
		return CKR_GENERAL_ERROR;
	real = ours = *f;
	ours.C_Initialize = watched_Initialize;
	ours.C_Login = watched_Login;
	ours.C_Decrypt = watched_Decrypt;
	ours.C_DecryptInit = watched_DecryptInit;
	ours.C_GetSlotList = watched_GetSlotList;
	ours.C_OpenSession = watched_OpenSession;
	ours.C_GetTokenInfo = watched_GetTokenInfo;
	ours.C_WrapKey = watched_WrapKey;
	ours.C_FindObjects = watched_FindObjects;
	*list = &ours;
	return CKR_OK;
}
