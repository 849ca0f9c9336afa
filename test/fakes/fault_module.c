/* A PKCS#11 module that fails on order, in front of a real one. The environment names both: FALLGATE_FAULT_MODULE the real module
 * (else the one it was built for), FALLGATE_FAULT_FOLDER a folder with "script" (the orders; may be replaced at any time, and
 * then counts anew) and "log" (one line for each call, written before anything else happens: "C_Login 1234", function and
 * process).
 *
 * A line of the script is FUNCTION SKIP TIMES EFFECT [ARGUMENT]: after SKIP calls that pass, the next TIMES calls have the
 * effect. FUNCTION is a name, or * for every call. Several lines may hit one call; they take effect in their order.
 *
 *   rv CODE         answers the code and does nothing          lost CODE       does it, and answers the code
 *   delay MS        waits, then goes on                        hang            for ever
 *   crash, abort    SIGSEGV, SIGABRT                           exit CODE       the module ends its process
 *   length HOW      the length that is told: short, long (one more than there is room for), huge, zero, or a number
 *   garbage         the bytes that come back are others        handle N        the handle that comes back is another
 *   substitute L    a search finds the key of label L instead  use L           an operation uses the key of label L instead
 * Standing orders, from when they are written to when they are gone (SKIP and TIMES mean nothing):
 *   flags BITS      C_GetTokenInfo says these flags, too       renumber N      every slot's number is N higher
 *   rotate          the slots change numbers among themselves  idle MS         sessions that rest for that long are closed
 *   idle-dead MS    likewise, and nothing works until C_Finalize
 *   attribute T=V   the boolean attribute of that number (0x105=0: CKA_DECRYPT is false) is told so
 * What must hold: with an empty script it is the real module, only slower. One thread. After fork it works for nobody. */
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <p11-kit/pkcs11.h>

enum { RULES_MAX = 32, SLOTS_MAX = 64, WORD = 48, OBJECTS_MAX = 8 };

struct rule {
	char function[WORD], effect[WORD], argument[WORD];
	long skip, times;
};

/* What the script wants of one call. */
struct order {
	bool answered; /* rv is the answer, nothing is done */
	CK_RV rv;
	CK_RV lost; /* not 0: done, and this is the answer */
	const struct rule *length, *garbage, *handle, *substitute, *use;
};

/* A module has no context to pass: Cryptoki's calls share one state. */
static CK_FUNCTION_LIST ours, *real;
static struct rule rules[RULES_MAX];
static unsigned rule_count;
static struct stat script_seen;
static pid_t initialised_in;
static bool dead;
static uint64_t last_call_ns;

/* ---- the folder ---- */

static void path_of(char *out, size_t size, const char *name)
{
	const char *folder = getenv("FALLGATE_FAULT_FOLDER");

	snprintf(out, size, "%s/%s", folder != NULL ? folder : "/nonexistent", name);
}

static void note(const char *function)
{
	char path[256], line[80];
	int fd, n = snprintf(line, sizeof line, "%s %d\n", function, (int)getpid());

	path_of(path, sizeof path, "log");
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	if (fd < 0 || write(fd, line, (size_t)n) != n)
		abort(); /* a test that counts calls must not miss one */
	close(fd);
}

/* Its own parser: one bad line must not pass for none. */
static void read_script(FILE *f)
{
	char line[200];

	while (fgets(line, sizeof line, f) != NULL) {
		struct rule *r = &rules[rule_count];

		if (line[0] == '\n' || line[0] == '#')
			continue;
		r->argument[0] = '\0';
		if (rule_count == RULES_MAX ||
		    sscanf(line, "%47s %ld %ld %47s %47s", r->function, &r->skip, &r->times, r->effect, r->argument) < 4)
			abort();
		rule_count++;
	}
}

static void look_at_script(void)
{
	char path[256];
	struct stat now;
	FILE *f;

	path_of(path, sizeof path, "script");
	if (stat(path, &now) != 0)
		memset(&now, 0, sizeof now);
	if (now.st_ino == script_seen.st_ino && now.st_size == script_seen.st_size &&
	    now.st_mtim.tv_sec == script_seen.st_mtim.tv_sec && now.st_mtim.tv_nsec == script_seen.st_mtim.tv_nsec)
		return;
	script_seen = now;
	rule_count = 0;
	f = fopen(path, "re");
	if (f == NULL)
		return;
	read_script(f);
	fclose(f);
}

static unsigned long number_of(const char *text)
{
	return strtoul(text, NULL, 0);
}

static const struct rule *standing(const char *effect)
{
	for (unsigned i = 0; i < rule_count; i++)
		if (strcmp(rules[i].effect, effect) == 0)
			return &rules[i];
	return NULL;
}

/* ---- what happens to a call ---- */

static void wait_ms(unsigned long ms)
{
	struct timespec t = { (time_t)(ms / 1000), (long)(ms % 1000) * 1000000 };

	nanosleep(&t, NULL);
}

_Noreturn static void hang(void)
{
	for (;;)
		pause();
}

_Noreturn static void die(int signal_number)
{
	signal(signal_number, SIG_DFL); /* a sanitizer's handler would make an exit of it */
	raise(signal_number);
	_exit(99);
}

static void take(const struct rule *r, struct order *o)
{
	const char *e = r->effect;

	if (strcmp(e, "rv") == 0) {
		o->answered = true;
		o->rv = number_of(r->argument);
	} else if (strcmp(e, "lost") == 0) {
		o->lost = number_of(r->argument);
	} else if (strcmp(e, "delay") == 0) {
		wait_ms(number_of(r->argument));
	} else if (strcmp(e, "hang") == 0) {
		hang();
	} else if (strcmp(e, "crash") == 0) {
		die(SIGSEGV);
	} else if (strcmp(e, "abort") == 0) {
		die(SIGABRT);
	} else if (strcmp(e, "exit") == 0) {
		_exit((int)number_of(r->argument));
	} else if (strcmp(e, "length") == 0) {
		o->length = r;
	} else if (strcmp(e, "garbage") == 0) {
		o->garbage = r;
	} else if (strcmp(e, "handle") == 0) {
		o->handle = r;
	} else if (strcmp(e, "substitute") == 0) {
		o->substitute = r;
	} else if (strcmp(e, "use") == 0) {
		o->use = r;
	}
}

static bool hits(struct rule *r, const char *function)
{
	static const char *const always[] = { "flags", "renumber", "rotate", "idle", "idle-dead", "attribute" };

	for (size_t i = 0; i < sizeof always / sizeof always[0]; i++)
		if (strcmp(r->effect, always[i]) == 0)
			return false;
	if (strcmp(r->function, "*") != 0 && strcmp(r->function, function) != 0)
		return false;
	if (r->skip > 0) {
		r->skip--;
		return false;
	}
	return r->times > 0 && r->times-- > 0;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void close_all_sessions(void)
{
	CK_SLOT_ID slots[SLOTS_MAX];
	CK_ULONG count = SLOTS_MAX;

	if (real->C_GetSlotList(CK_TRUE, slots, &count) != CKR_OK)
		return;
	for (CK_ULONG i = 0; i < count; i++)
		real->C_CloseAllSessions(slots[i]);
}

static void rest(void)
{
	const struct rule *idle = standing("idle"), *deadly = standing("idle-dead"), *r = idle != NULL ? idle : deadly;
	uint64_t now = now_ns();

	if (r != NULL && last_call_ns != 0 && now - last_call_ns > number_of(r->argument) * 1000000) {
		close_all_sessions();
		dead = r == deadly;
	}
	last_call_ns = now;
}

static struct order begin(const char *function)
{
	struct order o = { .rv = CKR_OK };
	bool first = strcmp(function, "C_Initialize") == 0, last = strcmp(function, "C_Finalize") == 0;

	note(function);
	look_at_script();
	if (!first && getpid() != initialised_in)
		return (struct order){ .answered = true, .rv = CKR_CRYPTOKI_NOT_INITIALIZED };
	if (!first && !last)
		rest();
	if (dead && !last)
		return (struct order){ .answered = true, .rv = first ? CKR_DEVICE_ERROR : CKR_SESSION_HANDLE_INVALID };
	for (unsigned i = 0; i < rule_count && !o.answered; i++)
		if (hits(&rules[i], function))
			take(&rules[i], &o);
	return o;
}

static CK_RV finish(const struct order *o, CK_RV rv)
{
	return rv == CKR_OK && o->lost != CKR_OK ? o->lost : rv;
}

static void bend_length(const struct order *o, CK_ULONG room, CK_ULONG *length)
{
	const char *how;

	if (o->length == NULL || length == NULL)
		return;
	how = o->length->argument;
	if (strcmp(how, "short") == 0)
		*length -= *length > 0;
	else if (strcmp(how, "long") == 0)
		*length = room + 1;
	else if (strcmp(how, "huge") == 0)
		*length = (CK_ULONG)-2;
	else
		*length = strcmp(how, "zero") == 0 ? 0 : number_of(how);
}

static void bend_bytes(const struct order *o, CK_BYTE *bytes, CK_ULONG size)
{
	if (o->garbage != NULL && bytes != NULL)
		for (CK_ULONG i = 0; i < size; i++)
			bytes[i] ^= (CK_BYTE)(0x5a + i);
}

/* Bytes with their length, as decryption and wrapping give them. */
static CK_RV finish_bytes(const struct order *o, CK_RV rv, CK_BYTE *out, CK_ULONG room, CK_ULONG *length)
{
	if (rv == CKR_OK && out != NULL) {
		bend_bytes(o, out, *length <= room ? *length : room);
		bend_length(o, room, length);
	}
	return finish(o, rv);
}

static CK_RV finish_handle(const struct order *o, CK_RV rv, CK_ULONG *handle)
{
	if (rv == CKR_OK && o->handle != NULL)
		*handle = number_of(o->handle->argument);
	return finish(o, rv);
}

/* ---- slots ---- */

/* The real slot behind a number that the caller knows, or a number that is none. */
static CK_SLOT_ID real_slot(CK_SLOT_ID told)
{
	const struct rule *shift = standing("renumber");
	CK_SLOT_ID slots[SLOTS_MAX];
	CK_ULONG count = SLOTS_MAX;

	if (shift != NULL)
		return told - number_of(shift->argument);
	if (standing("rotate") == NULL || real->C_GetSlotList(CK_TRUE, slots, &count) != CKR_OK)
		return told;
	for (CK_ULONG i = 0; i < count; i++)
		if (slots[i] == told)
			return slots[(i + 1) % count];
	return told;
}

static CK_RV fault_GetSlotList(CK_BBOOL present, CK_SLOT_ID_PTR list, CK_ULONG_PTR count)
{
	const struct rule *shift;
	struct order o = begin("C_GetSlotList");
	CK_ULONG room = *count;
	CK_RV rv;

	if (o.answered)
		return o.rv;
	rv = real->C_GetSlotList(present, list, count);
	shift = standing("renumber");
	if (rv == CKR_OK && list != NULL && shift != NULL)
		for (CK_ULONG i = 0; i < *count; i++)
			list[i] += number_of(shift->argument);
	if (rv == CKR_OK && list != NULL && o.handle != NULL)
		for (CK_ULONG i = 0; i < *count; i++)
			list[i] = number_of(o.handle->argument);
	if (rv == CKR_OK)
		bend_length(&o, room, count);
	return finish(&o, rv);
}

static CK_RV fault_GetTokenInfo(CK_SLOT_ID slot, CK_TOKEN_INFO_PTR info)
{
	struct order o = begin("C_GetTokenInfo");
	const struct rule *flags;
	CK_RV rv;

	if (o.answered)
		return o.rv;
	rv = real->C_GetTokenInfo(real_slot(slot), info);
	flags = standing("flags");
	if (rv == CKR_OK && flags != NULL)
		info->flags |= number_of(flags->argument);
	if (rv == CKR_OK)
		bend_bytes(&o, info->label, sizeof info->label + sizeof info->manufacturerID);
	return finish(&o, rv);
}

static CK_RV fault_OpenSession(CK_SLOT_ID slot, CK_FLAGS flags, void *application, CK_NOTIFY notify,
			       CK_SESSION_HANDLE_PTR session)
{
	struct order o = begin("C_OpenSession");

	return o.answered ? o.rv
			  : finish_handle(&o, real->C_OpenSession(real_slot(slot), flags, application, notify, session), session);
}

/* ---- keys ---- */

static CK_RV fault_FindObjectsInit(CK_SESSION_HANDLE s, CK_ATTRIBUTE_PTR template, CK_ULONG count)
{
	CK_ATTRIBUTE other[16];
	CK_ULONG n = 0;
	struct order o = begin("C_FindObjectsInit");

	if (o.answered)
		return o.rv;
	if (o.substitute == NULL || count > 16)
		return finish(&o, real->C_FindObjectsInit(s, template, count));
	for (CK_ULONG i = 0; i < count; i++)
		if (template[i].type != CKA_ID)
			other[n++] = template[i];
	for (CK_ULONG i = 0; i < n; i++)
		if (other[i].type == CKA_LABEL) {
			other[i].pValue = (void *)(uintptr_t)o.substitute->argument;
			other[i].ulValueLen = strlen(o.substitute->argument);
		}
	return finish(&o, real->C_FindObjectsInit(s, other, n));
}

static CK_RV fault_FindObjects(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE_PTR found, CK_ULONG max, CK_ULONG_PTR count)
{
	struct order o = begin("C_FindObjects");
	CK_RV rv;

	if (o.answered)
		return o.rv;
	rv = real->C_FindObjects(s, found, max, count);
	if (rv == CKR_OK && o.handle != NULL)
		for (CK_ULONG i = 0; i < *count; i++)
			found[i] = number_of(o.handle->argument);
	if (rv == CKR_OK)
		bend_length(&o, max, count);
	return finish(&o, rv);
}

/* "use": a handle that was given for one key means another one by now. */
static CK_OBJECT_HANDLE other_key(const struct order *o, CK_SESSION_HANDLE s, CK_OBJECT_HANDLE given)
{
	CK_OBJECT_CLASS class = 0;
	CK_ATTRIBUTE kind = { CKA_CLASS, &class, sizeof class };
	CK_ATTRIBUTE want[] = { { CKA_CLASS, &class, sizeof class }, { CKA_LABEL, NULL, 0 } };
	CK_OBJECT_HANDLE found[OBJECTS_MAX];
	CK_ULONG count = 0;

	if (o->use == NULL || real->C_GetAttributeValue(s, given, &kind, 1) != CKR_OK)
		return given;
	want[1].pValue = (void *)(uintptr_t)o->use->argument;
	want[1].ulValueLen = strlen(o->use->argument);
	if (real->C_FindObjectsInit(s, want, 2) != CKR_OK)
		return given;
	real->C_FindObjects(s, found, OBJECTS_MAX, &count);
	real->C_FindObjectsFinal(s);
	return count > 0 ? found[0] : given;
}

static void bend_attribute(CK_ATTRIBUTE *a)
{
	unsigned long type;
	unsigned value;

	for (unsigned i = 0; i < rule_count; i++)
		if (strcmp(rules[i].effect, "attribute") == 0 && sscanf(rules[i].argument, "%lx=%u", &type, &value) == 2 &&
		    type == a->type && a->pValue != NULL && a->ulValueLen == 1)
			*(CK_BBOOL *)a->pValue = (CK_BBOOL)value;
}

static CK_RV fault_GetAttributeValue(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_PTR template, CK_ULONG count)
{
	struct order o = begin("C_GetAttributeValue");
	CK_ULONG room[16] = { 0 };
	CK_RV rv;

	if (o.answered)
		return o.rv;
	for (CK_ULONG i = 0; i < count && i < 16; i++)
		room[i] = template[i].ulValueLen;
	rv = real->C_GetAttributeValue(s, object, template, count);
	for (CK_ULONG i = 0; rv == CKR_OK && i < count; i++)
		bend_attribute(&template[i]);
	for (CK_ULONG i = 0; rv == CKR_OK && i < count && i < 16; i++)
		finish_bytes(&o, rv, template[i].pValue, room[i], &template[i].ulValueLen);
	return finish(&o, rv);
}

static CK_RV fault_CreateObject(CK_SESSION_HANDLE s, CK_ATTRIBUTE_PTR template, CK_ULONG count, CK_OBJECT_HANDLE_PTR object)
{
	struct order o = begin("C_CreateObject");

	return o.answered ? o.rv : finish_handle(&o, real->C_CreateObject(s, template, count, object), object);
}

/* ---- operations ---- */

static CK_RV fault_DecryptInit(CK_SESSION_HANDLE s, CK_MECHANISM_PTR mechanism, CK_OBJECT_HANDLE key)
{
	struct order o = begin("C_DecryptInit");

	return o.answered ? o.rv : finish(&o, real->C_DecryptInit(s, mechanism, other_key(&o, s, key)));
}

static CK_RV fault_Decrypt(CK_SESSION_HANDLE s, CK_BYTE_PTR in, CK_ULONG size, CK_BYTE_PTR out, CK_ULONG_PTR length)
{
	CK_ULONG room = *length;
	struct order o = begin("C_Decrypt");

	return o.answered ? o.rv : finish_bytes(&o, real->C_Decrypt(s, in, size, out, length), out, room, length);
}

static CK_RV fault_EncryptInit(CK_SESSION_HANDLE s, CK_MECHANISM_PTR mechanism, CK_OBJECT_HANDLE key)
{
	struct order o = begin("C_EncryptInit");

	return o.answered ? o.rv : finish(&o, real->C_EncryptInit(s, mechanism, other_key(&o, s, key)));
}

static CK_RV fault_Encrypt(CK_SESSION_HANDLE s, CK_BYTE_PTR in, CK_ULONG size, CK_BYTE_PTR out, CK_ULONG_PTR length)
{
	CK_ULONG room = *length;
	struct order o = begin("C_Encrypt");

	return o.answered ? o.rv : finish_bytes(&o, real->C_Encrypt(s, in, size, out, length), out, room, length);
}

static CK_RV fault_WrapKey(CK_SESSION_HANDLE s, CK_MECHANISM_PTR mechanism, CK_OBJECT_HANDLE key, CK_OBJECT_HANDLE object,
			   CK_BYTE_PTR out, CK_ULONG_PTR length)
{
	CK_ULONG room = *length;
	struct order o = begin("C_WrapKey");

	if (o.answered)
		return o.rv;
	return finish_bytes(&o, real->C_WrapKey(s, mechanism, other_key(&o, s, key), object, out, length), out, room, length);
}

static CK_RV fault_UnwrapKey(CK_SESSION_HANDLE s, CK_MECHANISM_PTR mechanism, CK_OBJECT_HANDLE key, CK_BYTE_PTR in, CK_ULONG size,
			     CK_ATTRIBUTE_PTR template, CK_ULONG count, CK_OBJECT_HANDLE_PTR object)
{
	struct order o = begin("C_UnwrapKey");

	if (o.answered)
		return o.rv;
	return finish_handle(&o, real->C_UnwrapKey(s, mechanism, other_key(&o, s, key), in, size, template, count, object),
			     object);
}

static CK_RV fault_GenerateRandom(CK_SESSION_HANDLE s, CK_BYTE_PTR out, CK_ULONG size)
{
	struct order o = begin("C_GenerateRandom");
	CK_RV rv;

	if (o.answered)
		return o.rv;
	rv = real->C_GenerateRandom(s, out, size);
	bend_bytes(&o, out, size);
	return finish(&o, rv);
}

/* Nothing to bend but the answer. */
#define PLAIN(name, parameters, arguments)                                                                                       \
	static CK_RV fault_##name parameters                                                                                     \
	{                                                                                                                        \
		struct order o = begin("C_" #name);                                                                              \
                                                                                                                                 \
		return o.answered ? o.rv : finish(&o, real->C_##name arguments);                                                 \
	}

PLAIN(CloseSession, (CK_SESSION_HANDLE s), (s))
PLAIN(Login, (CK_SESSION_HANDLE s, CK_USER_TYPE user, CK_UTF8CHAR_PTR pin, CK_ULONG size), (s, user, pin, size))
PLAIN(FindObjectsFinal, (CK_SESSION_HANDLE s), (s))
PLAIN(DestroyObject, (CK_SESSION_HANDLE s, CK_OBJECT_HANDLE object), (s, object))

/* ---- life ---- */

static CK_RV fault_Initialize(void *args)
{
	struct order o = begin("C_Initialize");

	if (o.answered)
		return o.rv;
	initialised_in = getpid();
	return finish(&o, real->C_Initialize(args));
}

static CK_RV fault_Finalize(void *reserved)
{
	struct order o = begin("C_Finalize");

	if (o.answered)
		return o.rv;
	dead = false;
	last_call_ns = 0;
	return finish(&o, real->C_Finalize(reserved));
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR list)
{
	const char *path = getenv("FALLGATE_FAULT_MODULE");
	void *library = dlopen(path != NULL ? path : REAL_MODULE, RTLD_NOW | RTLD_LOCAL);
	CK_C_GetFunctionList get;

	if (library == NULL)
		return CKR_GENERAL_ERROR;
	*(void **)&get = dlsym(library, "C_GetFunctionList");
	if (get == NULL || get(&real) != CKR_OK)
		return CKR_GENERAL_ERROR;
	ours = *real;
	ours.C_GetFunctionList = C_GetFunctionList;
#define OURS(name) ours.C_##name = fault_##name
	OURS(Initialize), OURS(Finalize), OURS(GetSlotList), OURS(GetTokenInfo), OURS(OpenSession), OURS(CloseSession);
	OURS(Login), OURS(FindObjectsInit), OURS(FindObjects), OURS(FindObjectsFinal), OURS(GetAttributeValue);
	OURS(CreateObject), OURS(DestroyObject), OURS(DecryptInit), OURS(Decrypt), OURS(EncryptInit), OURS(Encrypt);
	OURS(WrapKey), OURS(UnwrapKey), OURS(GenerateRandom);
	*list = &ours;
	return CKR_OK;
}
