/* Maps are printed by the names they came with; a key that an older agent does not send leaves its place empty. */
#include "output.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jansson.h>

#include "base/log.h"
#include "mgmt/body.h"

enum { FIELD_MAX = 1024, TOLD_MAX = 16384 };

/* ---- JSON ---- */

static json_t *to_json(const struct body *b, const struct body_item *item);

static json_t *hex_of(const struct body_item *item)
{
	char *hex = malloc(2 * item->size + 1);
	json_t *out;

	if (hex == NULL)
		return NULL;
	hex[0] = '\0';
	for (size_t i = 0; i < item->size; i++)
		snprintf(hex + 2 * i, 3, "%02x", item->bytes[i]);
	out = json_string(hex);
	free(hex);
	return out;
}

static json_t *array_of(const struct body *b, const struct body_item *item)
{
	const struct body_item *at = body_first(item);
	json_t *out = json_array();

	for (uint64_t i = 0; i < item->number; i++) {
		json_array_append_new(out, to_json(b, at));
		at = body_behind(b, at);
	}
	return out;
}

static json_t *object_of(const struct body *b, const struct body_item *item)
{
	const struct body_item *at = body_first(item);
	json_t *out = json_object();
	char key[64];

	for (uint64_t i = 0; i < item->number; i++) {
		if (body_text(at, key, sizeof key))
			json_object_set_new(out, key, to_json(b, at + 1));
		at = body_behind(b, at + 1);
	}
	return out;
}

/* JSON's integers end at 2^63 here; a larger one goes out as text rather than as another number. */
static json_t *number_of(uint64_t number)
{
	char text[24];

	if (number <= INT64_MAX)
		return json_integer((json_int_t)number);
	snprintf(text, sizeof text, "%" PRIu64, number);
	return json_string(text);
}

static json_t *to_json(const struct body *b, const struct body_item *item)
{
	switch (item->type) {
	case BODY_UINT:
		return number_of(item->number);
	case BODY_NEGATIVE:
		return item->number <= INT64_MAX ? json_integer(-1 - (json_int_t)item->number) : json_null();
	case BODY_BYTES:
		return hex_of(item);
	case BODY_TEXT:
		return json_stringn((const char *)item->bytes, item->size);
	case BODY_ARRAY:
		return array_of(b, item);
	case BODY_MAP:
		return object_of(b, item);
	case BODY_BOOL:
		return json_boolean(item->number != 0);
	case BODY_NULL:
	default:
		return json_null();
	}
}

static void print_json(json_t *value)
{
	if (value != NULL) {
		json_dumpf(value, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_ENCODE_ANY);
		json_decref(value);
	}
	putchar('\n');
	fflush(stdout);
}

void output_json(const struct body *b)
{
	print_json(to_json(b, b->items));
}

/* ---- for people ---- */

/* A text of a map, printable; empty if it is not there. */
static const char *text_of(char out[static FIELD_MAX], const struct body *b, const struct body_item *map, const char *key)
{
	char raw[FIELD_MAX];

	out[0] = '\0';
	if (body_text(body_find(b, map, key), raw, sizeof raw))
		log_printable(out, FIELD_MAX, raw);
	return out;
}

static uint64_t uint_of(const struct body *b, const struct body_item *map, const char *key)
{
	uint64_t n = 0;

	body_uint(body_find(b, map, key), &n);
	return n;
}

static bool bool_of(const struct body *b, const struct body_item *map, const char *key)
{
	bool v = false;

	body_bool(body_find(b, map, key), &v);
	return v;
}

static const char *size_text(char out[static 32], uint64_t bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double n = (double)bytes;
	unsigned unit = 0;

	while (n >= 1024 && unit < 6) {
		n /= 1024;
		unit++;
	}
	snprintf(out, 32, n == (double)(uint64_t)n ? "%.0f %s" : "%.1f %s", n, units[unit]);
	return out;
}

static const char *time_text(char out[static 32], uint64_t ns)
{
	time_t seconds = (time_t)(ns / 1000000000);
	struct tm tm;

	if (ns == 0 || localtime_r(&seconds, &tm) == NULL || strftime(out, 32, "%Y-%m-%d %H:%M:%S", &tm) == 0)
		snprintf(out, 32, "-");
	return out;
}

static const char *cause_text(char out[static 64], const struct body *b, const struct body_item *v)
{
	char cause[FIELD_MAX];

	text_of(cause, b, v, bool_of(b, v, "latched") && body_find(b, v, "latch_cause") != NULL ? "latch_cause" : "cause");
	if (strcmp(cause, "none") == 0)
		strcpy(cause, "-");
	snprintf(out, 64, "%.40s%s", cause, bool_of(b, v, "latched") ? " (latched)" : "");
	return out;
}

static void print_row(const struct body *b, const struct body_item *v)
{
	char name[FIELD_MAX], state[FIELD_MAX], kek[FIELD_MAX], cause[64], size[32];

	printf("%-16s %-16s %-24s %6" PRIu64 "  %-10s %s\n", text_of(name, b, v, "name"),
	       bool_of(b, v, "formatted") ? text_of(state, b, v, "state") : "not created", cause_text(cause, b, v),
	       uint_of(b, v, "gate_seq"), body_find(b, v, "size") == NULL ? "" : size_text(size, uint_of(b, v, "size")),
	       text_of(kek, b, v, "kek"));
}

static void print_rows(const struct body *b, const struct body_item *list)
{
	const struct body_item *at;

	if (list == NULL || list->type != BODY_ARRAY || list->number == 0) {
		puts("no volume is configured; add volumes.d/NAME.conf beside the agent's fallgate.conf");
		return;
	}
	printf("%-16s %-16s %-24s %6s  %-10s %s\n", "VOLUME", "STATE", "CAUSE", "SEQ",
	       body_find(b, body_first(list), "size") == NULL ? "" : "SIZE",
	       body_find(b, body_first(list), "kek") == NULL ? "" : "KEK");
	at = body_first(list);
	for (uint64_t i = 0; i < list->number; i++) {
		print_row(b, at);
		at = body_behind(b, at);
	}
}

/* Old news is marked as such. */
static void print_silence(const struct body *b)
{
	uint64_t ns = uint_of(b, b->items, "silent_ns");

	if (ns != 0)
		printf("OLD: the supervisor has said nothing for %llu s; this is what it said last\n",
		       (unsigned long long)(ns / 1000000000));
}

void output_status(const struct body *b)
{
	char version[FIELD_MAX], started[32];

	print_silence(b);

	printf("agent %s, running since %s, audit ledger %s, posture: %llu weak\n\n", text_of(version, b, b->items, "version"),
	       time_text(started, uint_of(b, b->items, "started_ns")), bool_of(b, b->items, "audit_good") ? "good" : "NOT GOOD",
	       (unsigned long long)uint_of(b, b->items, "posture_weak"));
	print_rows(b, body_find(b, b->items, "volumes"));
}

void output_volumes(const struct body *b)
{
	print_rows(b, b->items);
}

static void print_line(const char *name, const char *value)
{
	if (value[0] != '\0')
		printf("%-10s %s\n", name, value);
}

static void print_text(const struct body *b, const char *name, const char *key)
{
	char value[FIELD_MAX];

	print_line(name, text_of(value, b, b->items, key));
}

static uint64_t since(const struct body *b, const struct body_item *lock, const char *key)
{
	uint64_t detected = uint_of(b, lock, "detected_ns"), at = uint_of(b, lock, key);

	return at > detected ? at - detected : 0;
}

/* "I/O cut after 0.1 ms, keys wiped after 0.3 ms, ..." as far as it went; empty without a lock. */
static const char *lock_text(char out[static 192], const struct body *b, const struct body_item *lock)
{
	static const char *const steps[][2] = { { "cut_ns", "I/O cut" },
						{ "wiped_ns", "keys wiped" },
						{ "drained_ns", "data saved" } };
	char error[FIELD_MAX];
	size_t used = 0;

	out[0] = '\0';
	for (size_t i = 0; lock != NULL && i < 3; i++)
		if (body_find(b, lock, steps[i][0]) != NULL)
			used += (size_t)snprintf(out + used, 192 - used, "%s%s after %.1f ms", used == 0 ? "" : ", ", steps[i][1],
						 (double)since(b, lock, steps[i][0]) / 1e6);
	if (used < 192 && text_of(error, b, lock, "drain_error")[0] != '\0')
		snprintf(out + used, 192 - used, "%ssaving failed: %.32s", used == 0 ? "" : ", ", error);
	return out;
}

void output_volume(const struct body *b)
{
	const struct body_item *v = b->items;
	const struct body_item *stats = body_find(b, v, "stats");
	char state[FIELD_MAX], cause[64], at[32], line[192], size[32];

	print_silence(b);
	print_text(b, "volume", "name");
	print_line("state", bool_of(b, v, "formatted") ? text_of(state, b, v, "state") : "not created");
	print_line("cause", cause_text(cause, b, v));
	print_text(b, "remedy", "remedy");
	print_line("since", time_text(at, uint_of(b, v, "since_ns")));
	print_line("last lock", lock_text(line, b, body_find(b, v, "lock")));
	print_text(b, "note", "text");
	print_line("size", size_text(size, uint_of(b, v, "size")));
	print_text(b, "kek", "kek");
	print_text(b, "export", "export");
	print_text(b, "attach", "attach");
	print_text(b, "kernel", "kernel");
	print_text(b, "memory", "memory");
	snprintf(line, sizeof line, "%" PRIu64, uint_of(b, v, "gate_seq"));
	print_line("seq", line);
	if (stats == NULL)
		return;
	snprintf(line, sizeof line,
		 "%" PRIu64 " reads, %" PRIu64 " writes, %" PRIu64 " flushes, %" PRIu64 " connections, %" PRIu64 " bad tags",
		 uint_of(b, stats, "read_ops"), uint_of(b, stats, "write_ops"), uint_of(b, stats, "flush_ops"),
		 uint_of(b, stats, "connections"), uint_of(b, stats, "bad_tags"));
	print_line("I/O", line);
}

void output_posture(const struct body *b)
{
	const struct body_item *findings = body_find(b, b->items, "findings");
	const struct body_item *at;
	char value[FIELD_MAX];

	print_text(b, "users", "users");
	print_text(b, "sandbox", "sandbox");
	print_line("audit", bool_of(b, b->items, "audit_good") ? "good" : "NOT GOOD");
	if (findings == NULL || findings->type != BODY_ARRAY)
		return;
	at = body_first(findings);
	for (uint64_t i = 0; i < findings->number; i++) {
		print_line(bool_of(b, at, "good") ? "good" : "weak", text_of(value, b, at, "what"));
		at = body_behind(b, at);
	}
}

void output_done(const struct body *b, const char *verb, const char *name)
{
	char text[FIELD_MAX];
	const struct body_item *durable = body_find(b, b->items, "durable");

	printf("%s %s: %s\n", verb, name == NULL ? "of all volumes" : name,
	       text_of(text, b, b->items, "text")[0] == '\0' ? "done" : text);
	if (durable != NULL && !bool_of(b, b->items, "durable"))
		puts("the latch is NOT on the agent's disk yet: it would not survive a restart; look at the agent's log and its "
		     "state_dir");
}

void output_change(const struct body *b, const struct body_item *v)
{
	char name[FIELD_MAX], state[FIELD_MAX], remedy[FIELD_MAX], cause[64], lock[192], clock[32];
	uint64_t at = uint_of(b, v, "since_ns");

	if (at == 0)
		at = (uint64_t)time(NULL) * 1000000000;
	text_of(state, b, v, "state");
	printf("%s  %-16s %-16s %s", time_text(clock, at), text_of(name, b, v, "name"), state, cause_text(cause, b, v));
	if (strcmp(state, "AVAILABLE") != 0 && lock_text(lock, b, body_find(b, v, "lock"))[0] != '\0')
		printf("  %s", lock);
	if (text_of(remedy, b, v, "remedy")[0] != '\0')
		printf("  -> %s", remedy);
	putchar('\n');
	fflush(stdout);
}

void output_error(bool json, const char *error, const char *text, const char *remedy, int exit_code)
{
	char shown[FIELD_MAX], what[FIELD_MAX];
	json_t *object;

	log_printable(shown, sizeof shown, text);
	log_printable(what, sizeof what, remedy);
	fprintf(stderr, "fallgate: %s%s%s\n", shown, what[0] == '\0' ? "" : "; ", what);
	if (!json)
		return;
	object = json_object();
	json_object_set_new(object, "error", json_string(error));
	json_object_set_new(object, "text", json_string(shown));
	json_object_set_new(object, "remedy", json_string(what));
	json_object_set_new(object, "exit", json_integer(exit_code));
	print_json(object);
}

void output_told(bool json, const char *verb, const char *text)
{
	char shown[TOLD_MAX];
	json_t *object;

	log_printable(shown, sizeof shown, text);
	if (!json) {
		puts(shown);
		return;
	}
	object = json_object();
	json_object_set_new(object, "done", json_string(verb));
	json_object_set_new(object, "text", json_string(shown));
	print_json(object);
}

/* ---- a volume that nobody serves ---- */

void output_finding(bool json, const char *severity, const char *text)
{
	char shown[FIELD_MAX];
	json_t *object;

	log_printable(shown, sizeof shown, text);
	if (!json) {
		printf("%s%s%s\n", strcmp(severity, "note") == 0 ? "" : severity, strcmp(severity, "note") == 0 ? "" : ": ",
		       shown);
		fflush(stdout);
		return;
	}
	object = json_object();
	json_object_set_new(object, "severity", json_string(severity));
	json_object_set_new(object, "text", json_string(shown));
	print_json(object);
}

void output_progress(uint64_t done, uint64_t total)
{
	json_t *object = json_object();

	json_object_set_new(object, "done", number_of(done));
	json_object_set_new(object, "total", number_of(total));
	print_json(object);
}

void output_outcome(bool json, const char *verb, uint64_t checked, uint64_t mended, uint64_t repairable, uint64_t lost,
		    int exit_code)
{
	json_t *object;

	if (!json) {
		printf("%s: %" PRIu64 " objects looked at, %" PRIu64 " mended, %" PRIu64 " repairable, %" PRIu64 " lost\n", verb,
		       checked, mended, repairable, lost);
		return;
	}
	object = json_object();
	json_object_set_new(object, "verb", json_string(verb));
	json_object_set_new(object, "checked", number_of(checked));
	json_object_set_new(object, "mended", number_of(mended));
	json_object_set_new(object, "repairable", number_of(repairable));
	json_object_set_new(object, "lost", number_of(lost));
	json_object_set_new(object, "exit", json_integer(exit_code));
	print_json(object);
}
