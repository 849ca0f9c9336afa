/* See rig.h. Challenges and ciphertexts are made by OpenSSL, with the public key that the process reports. */
#include "rig.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/rand.h>
#include <openssl/rsa.h>
#include <p11-kit/pkcs11.h>

#define PIN "24681357"

/* ---- folder and token ---- */

static void write_file(struct rig *r, const char *name, const char *content)
{
	char path[256];
	FILE *f;

	snprintf(path, sizeof path, "%s/%s", r->folder, name);
	f = fopen(path, "we");
	assert_non_null(f);
	fputs(content, f);
	assert_int_equal(fclose(f), 0);
}

int rig_shell(struct rig *r, const char *format, ...)
{
	char line[2048];
	int n = snprintf(line, sizeof line, "cd %s && ", r->folder), status;
	va_list args;

	va_start(args, format);
	vsnprintf(line + n, sizeof line - (size_t)n, format, args);
	va_end(args);
	status = system(line);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

/* NSS keeps memory until the process ends, which the leak detector would hold against the tool; with SoftHSM2 it looks. */
int rig_custodian(struct rig *r, const char *arguments)
{
	return rig_shell(r, "%s%s --module %s %s%s%s --token 'cust omer' --pin-file pin %s >out 2>err </dev/null",
			 r->nss ? "ASAN_OPTIONS=detect_leaks=0 " : "", CUSTODIAN_PROGRAM, r->nss ? NSS_MODULE : SOFTHSM_MODULE,
			 r->nss ? "--init-args \"" : "", r->init_args, r->nss ? "\"" : "", arguments);
}

static void new_softhsm(struct rig *r)
{
	char conf[256];

	snprintf(conf, sizeof conf, "directories.tokendir = %s/tokens\nobjectstore.backend = file\nlog.level = ERROR\n",
		 r->folder);
	write_file(r, "softhsm2.conf", conf);
	assert_int_equal(rig_shell(r, "mkdir tokens"), 0);
	snprintf(conf, sizeof conf, "%s/softhsm2.conf", r->folder);
	setenv("SOFTHSM2_CONF", conf, 1);
	setenv("FALLGATE_FAULT_MODULE", SOFTHSM_MODULE, 1);
	r->hash = OAEP_SHA1;
	assert_int_equal(rig_custodian(r, "--so-pin-file so-pin init-token"), 0);
}

static void new_nss(struct rig *r)
{
	snprintf(r->init_args, sizeof r->init_args,
		 "configdir='sql:%s/db' certPrefix='' keyPrefix='' secmod='secmod.db' flags= dbTokenDescription='cust omer'",
		 r->folder);
	setenv("FALLGATE_FAULT_MODULE", NSS_MODULE, 1);
	r->hash = OAEP_SHA256;
	assert_int_equal(rig_shell(r, "mkdir db && certutil -N -d sql:db -f pin"), 0);
}

void rig_new(struct rig *r, bool nss)
{
	memset(r, 0, sizeof *r);
	r->nss = nss;
	if (access(nss ? NSS_MODULE : SOFTHSM_MODULE, R_OK) != 0) {
		fprintf(stderr, "there is no %s here\n", nss ? NSS_MODULE : SOFTHSM_MODULE);
		exit(77);
	}
	snprintf(r->folder, sizeof r->folder, "%s/fallgate-hsm-XXXXXX", getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp");
	assert_non_null(mkdtemp(r->folder));
	write_file(r, "pin", PIN "\n");
	write_file(r, "so-pin", "87654321\n");
	write_file(r, "wrong-pin", "11111111\n");
	write_file(r, "empty-pin", "\n");
	setenv("FALLGATE_FAULT_FOLDER", r->folder, 1);
	snprintf(r->module, sizeof r->module, "%s", FAULT_MODULE);
	if (nss)
		new_nss(r);
	else
		new_softhsm(r);
}

void rig_remove(struct rig *r)
{
	rig_stop(r);
	rig_shell(r, "chmod -R u+rwX . && rm -rf %s", r->folder);
}

/* ---- odd keys: in a child, so that the test itself never loads a module ---- */

static CK_FUNCTION_LIST *load(const char *module, const char *init_args)
{
	void *library = dlopen(module, RTLD_NOW);
	CK_C_INITIALIZE_ARGS args = { .flags = CKF_OS_LOCKING_OK };
	CK_C_GetFunctionList get;
	CK_FUNCTION_LIST *f;

	if (init_args[0] != '\0')
		args.pReserved = (void *)(uintptr_t)init_args;
	if (library == NULL)
		_exit(10);
	*(void **)&get = dlsym(library, "C_GetFunctionList");
	if (get(&f) != CKR_OK || f->C_Initialize(&args) != CKR_OK)
		_exit(11);
	return f;
}

static CK_SESSION_HANDLE log_in(CK_FUNCTION_LIST *f)
{
	CK_SLOT_ID slots[16];
	CK_ULONG count = 16;
	CK_TOKEN_INFO info;
	CK_SESSION_HANDLE session;

	if (f->C_GetSlotList(CK_TRUE, slots, &count) != CKR_OK)
		_exit(12);
	for (CK_ULONG i = 0; i < count; i++) {
		if (f->C_GetTokenInfo(slots[i], &info) != CKR_OK || memcmp(info.label, "cust omer ", 10) != 0)
			continue;
		if (f->C_OpenSession(slots[i], CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session) != CKR_OK ||
		    f->C_Login(session, CKU_USER, (CK_UTF8CHAR *)(uintptr_t)PIN, sizeof PIN - 1) != CKR_OK)
			_exit(13);
		return session;
	}
	_exit(14);
}

_Noreturn static void make_odd_key(struct rig *r, const char *label, bool sensitive, bool extractable, bool wrap, bool unwrap,
				   unsigned long bytes)
{
	CK_FUNCTION_LIST *f = load(r->nss ? NSS_MODULE : SOFTHSM_MODULE, r->init_args);
	CK_SESSION_HANDLE session = log_in(f);
	CK_MECHANISM mechanism = { CKM_AES_KEY_GEN, NULL, 0 };
	CK_BBOOL yes = CK_TRUE, s = sensitive, e = extractable, w = wrap, u = unwrap;
	CK_OBJECT_HANDLE key;
	CK_ATTRIBUTE template[] = {
		{ CKA_TOKEN, &yes, 1 },
		{ CKA_PRIVATE, &yes, 1 },
		{ CKA_SENSITIVE, &s, 1 },
		{ CKA_EXTRACTABLE, &e, 1 },
		{ CKA_WRAP, &w, 1 },
		{ CKA_UNWRAP, &u, 1 },
		{ CKA_VALUE_LEN, &bytes, sizeof bytes },
		{ CKA_LABEL, (void *)(uintptr_t)label, strlen(label) },
	};

	if (f->C_GenerateKey(session, &mechanism, template, 8, &key) != CKR_OK)
		_exit(15);
	f->C_Finalize(NULL);
	_exit(0);
}

void rig_odd_key(struct rig *r, const char *label, bool sensitive, bool extractable, bool wrap, bool unwrap, unsigned long bytes)
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0)
		make_odd_key(r, label, sensitive, extractable, wrap, unwrap, bytes);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* ---- the process ---- */

/* Leak detection stays on for the tests and off for the process that loads a module: a vendor's library, and p11-kit's registry
 * of modules, keep what they allocate until the process ends. */
_Noreturn static void become_hsm(int supervisor, int dataplane, bool one_shot)
{
	setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
	/* Both are above 4 here: see rig_start. */
	if (dup2(supervisor, 3) < 0 || (one_shot && dup2(dataplane, 4) < 0))
		_exit(126);
	execl(HSM_PROGRAM, HSM_PROGRAM, one_shot ? "--one-shot" : NULL, NULL);
	_exit(127);
}

static void high_pair(int fds[2])
{
	assert_int_equal(channel_pair(fds), 0);
	for (int i = 0; i < 2; i++) {
		int high = fcntl(fds[i], F_DUPFD_CLOEXEC, 20);

		assert_true(high >= 20);
		close(fds[i]);
		fds[i] = high;
	}
}

void rig_start(struct rig *r, bool one_shot)
{
	int s[2], d[2] = { -1, -1 };
	struct message m;

	rig_stop(r);
	high_pair(s);
	high_pair(d);
	r->pid = fork();
	assert_true(r->pid >= 0);
	if (r->pid == 0)
		become_hsm(s[1], d[1], one_shot);
	close(s[1]);
	close(d[1]);
	channel_init(&r->supervisor, s[0], ROLE_SUPERVISOR, ROLE_HSM);
	channel_init(&r->dataplane, d[0], ROLE_DATAPLANE, ROLE_HSM);
	rig_receive(&r->supervisor, &m, MSG_HELLO);
	assert_int_equal(m.body.hello.pid, r->pid);
	assert_string_equal(m.body.hello.version, FALLGATE_VERSION);
}

static void let_go(struct rig *r)
{
	channel_close(&r->supervisor);
	channel_close(&r->dataplane);
	r->pid = 0;
}

int rig_reap(struct rig *r)
{
	int status = 0, waited = 0;

	while (waitpid(r->pid, &status, WNOHANG) == 0 && waited < PROCESS_TIMEOUT_MS) {
		usleep(2000);
		waited += 2;
	}
	assert_true(waited < PROCESS_TIMEOUT_MS);
	let_go(r);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void rig_stop(struct rig *r)
{
	if (r->pid <= 0)
		return;
	kill(r->pid, SIGKILL);
	waitpid(r->pid, NULL, 0);
	let_go(r);
}

void rig_send(struct channel *c, const struct message *m, const int *fds, unsigned count)
{
	assert_int_equal(channel_send(c, m, fds, count), 0);
}

void rig_receive(struct channel *c, struct message *m, enum message_type type)
{
	int fds[CHANNEL_FDS_MAX];
	unsigned count;

	assert_int_equal(channel_receive_wait(c, m, fds, &count, NULL, PROCESS_TIMEOUT_MS), 1);
	assert_int_equal(m->type, type);
}

void rig_open(struct rig *r, const char *object, const char *pin, bool login_allowed, struct message *answer)
{
	struct message m;
	struct msg_hsm_open *o = &m.body.hsm_open;
	char path[256];
	int fd = -1;

	message_init(&m, MSG_HSM_OPEN, 41);
	snprintf(o->module, sizeof o->module, "%s", r->module);
	snprintf(o->init_args, sizeof o->init_args, "%s", r->init_args);
	snprintf(o->uri, sizeof o->uri, "%s%s", strncmp(object, "pkcs11:", 7) == 0 ? "" : "pkcs11:token=cust%20omer;", object);
	o->login_allowed = login_allowed;
	o->pin_renewed = r->pin_renewed;
	if (pin != NULL) {
		snprintf(path, sizeof path, "%s/%s", r->folder, pin);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		assert_true(fd >= 0);
	}
	rig_send(&r->supervisor, &m, &fd, pin != NULL ? 1 : 0);
	if (fd >= 0)
		close(fd);
	rig_receive(&r->supervisor, answer, MSG_HSM_OPENED);
	assert_int_equal(answer->nonce, 41);
}

/* ---- proofs ---- */

static EVP_PKEY *public_key(const struct msg_hsm_opened *o)
{
	OSSL_PARAM_BLD *b = OSSL_PARAM_BLD_new();
	BIGNUM *n = BN_bin2bn(o->modulus, o->modulus_size, NULL), *e = BN_bin2bn(o->exponent, o->exponent_size, NULL);
	EVP_PKEY_CTX *c = EVP_PKEY_CTX_new_from_name(NULL, "RSA", NULL);
	EVP_PKEY *key = NULL;
	OSSL_PARAM *p;

	assert_true(OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_N, n) && OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_E, e));
	p = OSSL_PARAM_BLD_to_param(b);
	assert_int_equal(EVP_PKEY_fromdata_init(c), 1);
	assert_int_equal(EVP_PKEY_fromdata(c, &key, EVP_PKEY_PUBLIC_KEY, p), 1);
	OSSL_PARAM_free(p);
	OSSL_PARAM_BLD_free(b);
	EVP_PKEY_CTX_free(c);
	BN_free(n);
	BN_free(e);
	return key;
}

uint16_t rig_encrypt(const struct msg_hsm_opened *o, enum oaep_hash hash, const uint8_t plain[static CHALLENGE_BYTES],
		     uint8_t *out)
{
	EVP_PKEY *key = public_key(o);
	EVP_PKEY_CTX *c = EVP_PKEY_CTX_new(key, NULL);
	const EVP_MD *md = hash == OAEP_SHA256 ? EVP_sha256() : EVP_sha1();
	size_t size = WRAP_MAX_BYTES;

	assert_int_equal(EVP_PKEY_encrypt_init(c), 1);
	assert_int_equal(EVP_PKEY_CTX_set_rsa_padding(c, RSA_PKCS1_OAEP_PADDING), 1);
	assert_int_equal(EVP_PKEY_CTX_set_rsa_oaep_md(c, md), 1);
	assert_int_equal(EVP_PKEY_CTX_set_rsa_mgf1_md(c, md), 1);
	assert_int_equal(EVP_PKEY_encrypt(c, out, &size, plain, CHALLENGE_BYTES), 1);
	EVP_PKEY_CTX_free(c);
	EVP_PKEY_free(key);
	return (uint16_t)size;
}

enum hsm_verdict rig_probe(struct rig *r, const struct message *opened, struct message *canary, struct message *answer)
{
	const struct msg_hsm_opened *o = &opened->body.hsm_opened;
	uint8_t challenge[CHALLENGE_BYTES];
	struct message m;
	struct msg_hsm_probe *p = &m.body.hsm_probe;
	bool rsa = o->type == KEK_RSA_OAEP;

	message_init(&m, MSG_HSM_PROBE, 42);
	if (rsa) {
		assert_int_equal(RAND_bytes(challenge, sizeof challenge), 1);
		p->hash = (uint8_t)r->hash;
		p->wrapped_size = rig_encrypt(o, r->hash, challenge, p->wrapped);
	} else {
		memcpy(challenge, canary->body.hsm_verdict.answer, sizeof challenge);
		p->wrapped_size = canary->body.hsm_verdict.wrapped_size;
		memcpy(p->wrapped, canary->body.hsm_verdict.wrapped, p->wrapped_size);
	}
	rig_send(&r->supervisor, &m, NULL, 0);
	rig_receive(&r->supervisor, answer, MSG_HSM_VERDICT);
	assert_int_equal(answer->nonce, 42);
	if (answer->body.hsm_verdict.verdict == VERDICT_GOOD && (rsa || p->wrapped_size > 0))
		assert_memory_equal(answer->body.hsm_verdict.answer, challenge, sizeof challenge);
	return answer->body.hsm_verdict.verdict;
}

/* ---- the module that fails on order ---- */

unsigned rig_calls(struct rig *r, const char *word)
{
	char path[256], line[64];
	unsigned count = 0;
	FILE *f;

	snprintf(path, sizeof path, "%s/log", r->folder);
	f = fopen(path, "re");
	while (f != NULL && fgets(line, sizeof line, f) != NULL)
		count += strncmp(line, word, strlen(word)) == 0;
	if (f != NULL)
		fclose(f);
	return count;
}

/* Renamed into place: the module never reads half a script. */
void rig_fault(struct rig *r, const char *lines)
{
	char from[256], to[256];

	write_file(r, "script.new", lines);
	snprintf(from, sizeof from, "%s/script.new", r->folder);
	snprintf(to, sizeof to, "%s/script", r->folder);
	assert_int_equal(rename(from, to), 0);
}
