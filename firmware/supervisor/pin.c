/* See pin.h. A PIN is known by its file's identity, or by a hash of its sealed bytes: its own bytes are never read here. */
#include "pin.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"
#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "hal/hash.h"
#include "tpm.h"

/* A login that was good stands for this long for its PIN: those that begin meanwhile need not come one after the other. */
#define LOGIN_TRUST_NS (2 * SEC_NS)
/* A TPM that did not answer is asked again after this; what it unsealed for a KEK that nothing hangs on is let go after that. */
#define TPM_AGAIN_NS (SEC_NS)
#define PIN_HELD_NS  (30 * SEC_NS)

struct pin {
	struct agent *agent;
	const struct kek_config *config; /* of its KEK */
	struct pin_record record;
	bool used;                    /* a volume hangs on its KEK */
	bool turn_taken, in_flight;   /* in_flight: it is being tried right now */
	char trouble[TEXT_MAX_BYTES]; /* what is wrong with the PIN file; empty: nothing */
	uint64_t login_good_ns;

	/* a PIN that is sealed */
	struct sealed_record sealed; /* size 0: none */
	struct tpm_ask *unsealing;
	int page_fd; /* what was unsealed; -1: nothing */
	struct timer let_go;
	struct judgement fault; /* cause CAUSE_NONE: none */
	uint64_t fault_ns;
};

/* ---- which PIN it is, and what became of it ---- */

static bool has_pin(const struct pin *p)
{
	return p->config->pin_path[0] != '\0' || p->config->pin_sealed;
}

void pin_remedy(const struct pin *p, char *out, size_t size)
{
	if (p->config->pin_sealed)
		snprintf(out, size, "seal the right one: fallgate seal-pin %s", p->config->name);
	else
		snprintf(out, size, "write the right one to %.150s", p->config->pin_path);
}

/* Each sealing gives other bytes, of the same PIN too. */
static bool sealed_identity(const struct pin *p, struct pin_record *out)
{
	const struct hash_part part = { p->sealed.blob, p->sealed.size };
	uint8_t hash[HASH_BYTES];

	hash_sha256(hash, &part, 1);
	out->inode = get_le64(hash);
	out->mtime_ns = get_le64(hash + 8);
	out->size = p->sealed.size;
	return p->sealed.size > 0;
}

static bool pin_file_identity(const struct pin *p, struct pin_record *out)
{
	struct stat st;

	if (p->config->pin_sealed)
		return sealed_identity(p, out);

	if (stat(p->config->pin_path, &st) != 0)
		return false;
	out->inode = st.st_ino;
	out->size = (uint64_t)st.st_size;
	out->mtime_ns = (uint64_t)st.st_mtim.tv_sec * SEC_NS + (uint64_t)st.st_mtim.tv_nsec;
	return true;
}

static bool same_pin(const struct pin_record *a, const struct pin_record *b)
{
	return a->inode == b->inode && a->size == b->size && a->mtime_ns == b->mtime_ns;
}

/* A check keeps what became of a PIN, too, as soon as there is a state directory to keep it in. */
static int write_record(struct pin *p, enum pin_state state)
{
	p->record.state = state;
	return p->agent->read_only && p->agent->records.dir_fd < 0
		       ? 0
		       : records_write_pin(&p->agent->records, p->config->name, &p->record);
}

bool pin_spent(const struct pin *p)
{
	struct pin_record now = { .state = PIN_UNKNOWN };

	if (!has_pin(p) || p->in_flight || (p->record.state != PIN_REFUSED && p->record.state != PIN_PENDING))
		return false;
	return pin_file_identity(p, &now) && same_pin(&now, &p->record);
}

/* The file holds the PIN that was good last time, or there is none. */
static bool pin_proven(const struct pin *p)
{
	struct pin_record now = { .state = PIN_UNKNOWN };

	return !has_pin(p) || (p->record.state == PIN_GOOD && pin_file_identity(p, &now) && same_pin(&now, &p->record));
}

/* ---- a PIN that is sealed ---- */

/* Not mapped here, so not wiped by hand where the kernel has secret memory: it clears those pages itself when the last descriptor
 * is gone. A memfd that stands in for it takes a write. */
static void let_page_go(struct pin *p)
{
	static const uint8_t zeroes[4096];

	timer_disarm(&p->agent->loop, &p->let_go);
	if (p->page_fd < 0)
		return;
	if (pwrite(p->page_fd, zeroes, sizeof zeroes, 0) < 0) /* secret memory */
		errno = 0;
	close(p->page_fd);
	p->page_fd = -1;
}

static void let_go_due(void *context)
{
	struct pin *p = context;

	if (!p->used)
		let_page_go(p);
	else
		timer_arm(&p->agent->loop, &p->let_go, boot_now() + PIN_HELD_NS);
}

static void set_fault(struct pin *p, int error, const char *what)
{
	bool definite = tpm_definite(error);

	p->fault = (struct judgement){ .proof = definite ? PROOF_REFUSED : PROOF_AMBIGUOUS,
				       .cause = definite ? CAUSE_ACCESS_REVOKED : CAUSE_UNREACHABLE };
	p->fault_ns = boot_now();
	if (definite)
		snprintf(p->fault.text, sizeof p->fault.text,
			 "the PIN of KEK %s stays sealed: %.110s; if that was meant to be: fallgate seal-pin %s", p->config->name,
			 what, p->config->name);
	else
		snprintf(p->fault.text, sizeof p->fault.text, "the PIN of KEK %s cannot be unsealed now: %.180s", p->config->name,
			 what);
	log_error("%s", p->fault.text);
}

static void unsealed(void *context, const struct msg_tp_reply *r, int *page_fd)
{
	struct pin *p = context;

	p->unsealing = NULL;
	if (r->error != 0) {
		set_fault(p, r->error, r->text);
		return;
	}
	p->page_fd = *page_fd;
	*page_fd = -1;
	timer_arm(&p->agent->loop, &p->let_go, boot_now() + PIN_HELD_NS);
}

static void begin_unsealing(struct pin *p)
{
	struct msg_tp_request q = { .verb = TP_UNSEAL, .sealed_size = p->sealed.size };

	p->fault.cause = CAUSE_NONE;
	if (p->sealed.size == 0) {
		set_fault(p, ERR_NOT_FOUND, "there is none");
		return;
	}
	strcpy(q.kek, p->config->name);
	memcpy(q.sealed, p->sealed.blob, sizeof q.sealed);
	if (tpm_ask(&p->unsealing, p->agent, &q, -1, unsealed, p) != 0) {
		p->unsealing = NULL;
		set_fault(p, ERR_UNREACHABLE, "fallgate-tpm cannot be started; see the log");
	}
}

bool pin_ready(struct pin *p)
{
	if (!p->config->pin_sealed || pin_spent(p))
		return true;
	if (p->page_fd >= 0) {
		timer_arm(&p->agent->loop, &p->let_go, boot_now() + PIN_HELD_NS);
		return true;
	}
	if (p->unsealing == NULL &&
	    (p->fault.cause == CAUSE_NONE || (p->fault.proof == PROOF_AMBIGUOUS && boot_now() - p->fault_ns > TPM_AGAIN_NS)))
		begin_unsealing(p);
	return p->unsealing == NULL;
}

bool pin_fault(const struct pin *p, struct judgement *j)
{
	if (!p->config->pin_sealed || p->page_fd >= 0 || p->fault.cause == CAUSE_NONE || pin_spent(p))
		return false;
	*j = p->fault;
	return true;
}

bool pin_is_sealed(const struct pin *p)
{
	return p->config->pin_sealed;
}

bool pin_gone(const struct pin *p)
{
	return p->config->pin_sealed && p->page_fd < 0 && !pin_spent(p);
}

int pin_seal(struct pin *p, const struct sealed_record *sealed)
{
	int r = records_write_sealed(&p->agent->records, p->config->name, sealed);

	if (r != 0)
		return r;
	p->sealed = *sealed;
	p->fault.cause = CAUSE_NONE;
	if (p->unsealing != NULL)
		tpm_abandon(p->unsealing);
	p->unsealing = NULL;
	let_page_go(p);
	return 0;
}

/* ---- a login ---- */

/* A PIN that was good may have been changed since: of many sessions one finds that out, not each for itself. */
static bool pin_trusted(const struct pin *p)
{
	return !has_pin(p) || (pin_proven(p) && p->login_good_ns != 0 && boot_now() - p->login_good_ns < LOGIN_TRUST_NS);
}

bool pin_turn(struct pin *p, bool *turn)
{
	*turn = false;
	if (pin_trusted(p) || pin_spent(p))
		return true;
	if (p->turn_taken)
		return false;
	p->turn_taken = *turn = true;
	return true;
}

/* Each login finds it again: it is logged when it is new. */
static void note_pin_trouble(struct pin *p, const char *what)
{
	char text[sizeof p->trouble];

	snprintf(text, sizeof text, "the PIN file %.120s cannot be used: %.40s; it must be a regular file, mode 0600",
		 p->config->pin_path, what);
	if (strcmp(text, p->trouble) != 0)
		log_error("KEK %s: %s", p->config->name, text);
	strcpy(p->trouble, text);
}

static bool open_pin_file(struct pin *p, int *fd)
{
	struct stat st;

	if (p->config->pin_sealed) {
		*fd = p->page_fd >= 0 ? fcntl(p->page_fd, F_DUPFD_CLOEXEC, 0) : -1;
		return *fd >= 0;
	}

	*fd = open(p->config->pin_path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (*fd < 0 || fstat(*fd, &st) != 0 || !S_ISREG(st.st_mode) || (st.st_mode & 077) != 0) {
		note_pin_trouble(p, *fd < 0 ? strerror(errno) : "others may read it, or it is no file");
		if (*fd >= 0)
			close(*fd);
		*fd = -1;
		return false;
	}
	p->trouble[0] = '\0';
	return true;
}

/* A check may have tried a new PIN while this agent ran. */
static void hear_of_checks(struct pin *p)
{
	struct pin_record now = { .state = PIN_UNKNOWN }, kept;

	if (p->agent->records.dir_fd >= 0 && !pin_proven(p) &&
	    records_read_pin(&p->agent->records, p->config->name, &kept) == 0 && pin_file_identity(p, &now) &&
	    same_pin(&kept, &now))
		p->record = kept;
}

bool pin_begin(struct pin *p, bool turn, int *fd, bool *renewed)
{
	struct pin_record now = { .state = PIN_UNKNOWN };

	*fd = -1;
	*renewed = false;
	if (!has_pin(p))
		return true;
	if (pin_spent(p))
		return false;
	hear_of_checks(p);
	if (pin_spent(p))
		return false;
	if (!pin_file_identity(p, &now)) {
		if (!p->config->pin_sealed)
			note_pin_trouble(p, strerror(errno));
		return false;
	}
	if ((!turn && !pin_proven(p)) || !open_pin_file(p, fd))
		return false;
	if (p->record.state == PIN_GOOD && same_pin(&now, &p->record))
		return true;
	/* An untried PIN: that it is being tried is durable before it is. */
	*renewed = p->record.state == PIN_REFUSED || p->record.state == PIN_PENDING;
	p->record = now;
	if (write_record(p, PIN_PENDING) != 0) {
		log_error("KEK %s: no login: that the PIN is being tried could not be recorded", p->config->name);
		close(*fd);
		*fd = -1;
		p->record.state = PIN_UNKNOWN;
		return false;
	}
	p->in_flight = true;
	return true;
}

const char *pin_trouble(const struct pin *p)
{
	return p->trouble[0] != '\0' && !pin_spent(p) ? p->trouble : NULL;
}

void pin_refused(struct pin *p)
{
	struct pin_record now = { .state = PIN_UNKNOWN };
	char remedy[PATH_MAX_BYTES];

	if (!has_pin(p) || !pin_file_identity(p, &now))
		return;
	now.state = PIN_REFUSED;
	if (p->record.state == PIN_REFUSED && same_pin(&p->record, &now))
		return;
	p->record = now;
	let_page_go(p);
	pin_remedy(p, remedy, sizeof remedy);
	log_error("KEK %s: the token refused the PIN; it is not tried again; %s", p->config->name, remedy);
	write_record(p, PIN_REFUSED);
}

static void give_turn_back(struct pin *p, bool *turn)
{
	if (*turn)
		p->turn_taken = p->in_flight = false;
	*turn = false;
}

void pin_end(struct pin *p, bool *turn, bool refused, bool good)
{
	bool tried = *turn && p->in_flight;

	give_turn_back(p, turn);
	if (good)
		p->login_good_ns = boot_now();
	if (refused)
		pin_refused(p);
	else if (tried)
		write_record(p, good ? PIN_GOOD : PIN_UNKNOWN);
}

void pin_abandon(struct pin *p, bool *turn)
{
	char remedy[PATH_MAX_BYTES];

	if (*turn && p->in_flight) { /* the record says pending already */
		pin_remedy(p, remedy, sizeof remedy);
		log_error("KEK %s: nobody saw whether the PIN was taken; it counts as refused; %s", p->config->name, remedy);
	}
	give_turn_back(p, turn);
}

/* ---- life ---- */

static void read_records(struct pin *p)
{
	const struct records *r = &p->agent->records;
	const char *name = p->config->name;

	if (p->config->pin_sealed && records_read_sealed(r, name, &p->sealed) == ERR_CORRUPT)
		set_fault(p, ERR_CORRUPT, "its record was altered");
	if (records_read_pin(r, name, &p->record) == ERR_CORRUPT) {
		/* fail closed: the PIN that stands there now counts as refused */
		pin_file_identity(p, &p->record);
		p->record.state = PIN_REFUSED;
	}
}

int pin_create(struct pin **out, struct agent *a, const struct kek_config *config)
{
	struct pin *p = calloc(1, sizeof *p);

	if (p == NULL)
		return ERR_NOMEM;
	p->agent = a;
	p->config = config;
	p->page_fd = -1;
	timer_init(&p->let_go, let_go_due, p);
	if (a->records.dir_fd >= 0)
		read_records(p);
	*out = p;
	return 0;
}

void pin_destroy(struct pin *p)
{
	if (p->unsealing != NULL)
		tpm_abandon(p->unsealing);
	let_page_go(p);
	free(p);
}

void pin_use(struct pin *p, bool used)
{
	p->used = used;
	if (!used && p->page_fd >= 0)
		timer_arm(&p->agent->loop, &p->let_go, boot_now() + PIN_HELD_NS);
}
