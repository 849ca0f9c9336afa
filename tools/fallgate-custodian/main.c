/* fallgate-custodian: what the owner of a key-encryption key does at the HSM, on the owner's own machine: make a token and a key,
 * list, disable, enable, date, delete. The appliance has no part in it. */
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/error.h"
#include "base/option.h"
#include "failure.h"
#include "keys.h"
#include "pin.h"
#include "token.h"

struct options {
	const char *module, *init_args, *type, *pin_file, *so_pin_file, *new_pin_file, *start, *end;
	struct token_name token;
	struct key_name key;
	bool json, yes, help, version;
};

static const char help[] =
	"usage: fallgate-custodian VERB --module PATH [options]\n"
	"\n"
	"  init-token --token LABEL                     initialise an empty token and set its PINs\n"
	"  set-pin                                      change the user PIN; with --so-pin-file: reset it\n"
	"  make-kek --type T --label L [--id HEX]       T: rsa2048 rsa3072 rsa4096 aes256\n"
	"  list                                         tokens; with --token or --serial: the keys on it\n"
	"  disable | enable  --label L and/or --id HEX  take the right to unwrap away, or give it back\n"
	"  set-dates --start D --end D                  D: YYYYMMDD (UTC) or none\n"
	"  public-key                                   the public half, as PEM\n"
	"  delete [--yes]                               for ever: volumes that only this key opens are lost\n"
	"\n"
	"  --module PATH     the vendor's PKCS#11 library      --init-args TEXT   for modules that want it (NSS)\n"
	"  --token LABEL     which token                       --serial NUMBER    which token\n"
	"  --pin-file FILE   the user PIN, first line          --so-pin-file FILE the security officer's PIN\n"
	"  --new-pin-file F  set-pin: the new one              --json             list: for programs\n"
	"PINs that no file gives are asked for without echo. They are never taken from arguments or the environment.\n";

/* ---- options ---- */

enum {
	OPT_MODULE = 256,
	OPT_INIT_ARGS,
	OPT_TOKEN,
	OPT_SERIAL,
	OPT_LABEL,
	OPT_ID,
	OPT_TYPE,
	OPT_PIN,
	OPT_SO_PIN,
	OPT_NEW_PIN,
	OPT_START,
	OPT_END,
	OPT_JSON,
	OPT_YES,
	OPT_HELP,
	OPT_VERSION
};

static int hex_digit(char c)
{
	const char *digits = "0123456789abcdef", *at = strchr(digits, c | 0x20);

	return c == '\0' || at == NULL || *at == '\0' ? -1 : (int)(at - digits);
}

static int parse_id(const char *hex, struct key_name *out)
{
	size_t n = strlen(hex);

	if (n == 0 || n % 2 != 0 || n / 2 > ID_MAX)
		return fail(ERR_USAGE, "--id wants pairs of hexadecimal digits, up to %d; e.g. --id 01", ID_MAX);
	for (size_t i = 0; i < n; i += 2) {
		int high = hex_digit(hex[i]), low = hex_digit(hex[i + 1]);

		if (high < 0 || low < 0)
			return fail(ERR_USAGE, "--id wants hexadecimal digits; e.g. --id 01");
		out->id[i / 2] = (unsigned char)(high << 4 | low);
	}
	out->id_size = n / 2;
	return 0;
}

static int take_option(struct options *o, int option)
{
	/* clang-format off */
	switch (option) {
	case OPT_MODULE:    o->module = optarg; return 0;
	case OPT_INIT_ARGS: o->init_args = optarg; return 0;
	case OPT_TOKEN:     o->token.label = optarg; return 0;
	case OPT_SERIAL:    o->token.serial = optarg; return 0;
	case OPT_LABEL:     o->key.label = optarg; return 0;
	case OPT_ID:        return parse_id(optarg, &o->key);
	case OPT_TYPE:      o->type = optarg; return 0;
	case OPT_PIN:       o->pin_file = optarg; return 0;
	case OPT_SO_PIN:    o->so_pin_file = optarg; return 0;
	case OPT_NEW_PIN:   o->new_pin_file = optarg; return 0;
	case OPT_START:     o->start = optarg; return 0;
	case OPT_END:       o->end = optarg; return 0;
	case OPT_JSON:      o->json = true; return 0;
	case OPT_YES:       o->yes = true; return 0;
	case OPT_HELP:      o->help = true; return 0;
	case OPT_VERSION:   o->version = true; return 0;
	default:            return fail(ERR_USAGE, "see fallgate-custodian --help");
	}
	/* clang-format on */
}

static int parse_options(int argc, char **argv, struct options *o)
{
	static const struct option table[] = {
		{ "module", required_argument, NULL, OPT_MODULE },
		{ "init-args", required_argument, NULL, OPT_INIT_ARGS },
		{ "token", required_argument, NULL, OPT_TOKEN },
		{ "serial", required_argument, NULL, OPT_SERIAL },
		{ "label", required_argument, NULL, OPT_LABEL },
		{ "id", required_argument, NULL, OPT_ID },
		{ "type", required_argument, NULL, OPT_TYPE },
		{ "pin-file", required_argument, NULL, OPT_PIN },
		{ "so-pin-file", required_argument, NULL, OPT_SO_PIN },
		{ "new-pin-file", required_argument, NULL, OPT_NEW_PIN },
		{ "start", required_argument, NULL, OPT_START },
		{ "end", required_argument, NULL, OPT_END },
		{ "json", no_argument, NULL, OPT_JSON },
		{ "yes", no_argument, NULL, OPT_YES },
		{ "help", no_argument, NULL, OPT_HELP },
		{ "version", no_argument, NULL, OPT_VERSION },
		{ 0 },
	};
	int option, row, r = 0;

	while (r == 0 && (option = getopt_long(argc, argv, "", table, &row)) != -1)
		if (option != '?' && !option_spelled_out(argv, &table[row]))
			r = fail(ERR_USAGE, "options are spelled out: --%s? see fallgate-custodian --help", table[row].name);
		else
			r = take_option(o, option);
	return r;
}

/* ---- verbs ---- */

static int verb_init_token(const struct options *o)
{
	struct pin so_pin = { 0 }, pin = { 0 };
	int r;

	if (o->token.label == NULL || o->token.label[0] == '\0' || strlen(o->token.label) > 32 || o->token.serial != NULL)
		return fail(ERR_USAGE, "init-token wants --token LABEL, 1 to 32 bytes");
	r = pin_get(&so_pin, o->so_pin_file, "new security officer's PIN", 1);
	if (r == 0)
		r = pin_get(&pin, o->pin_file, "new user PIN", 1);
	if (r == 0)
		r = token_initialise(o->module, o->init_args, &o->token, &so_pin, &pin);
	pin_wipe(&so_pin);
	pin_wipe(&pin);
	if (r == 0)
		printf("token '%s' is ready\n", o->token.label);
	return r;
}

static int verb_set_pin(const struct options *o)
{
	bool reset = o->so_pin_file != NULL;
	struct pin old = { 0 }, new_pin = { 0 };
	struct token t = { 0 };
	int r = pin_get(&old, reset ? o->so_pin_file : o->pin_file, reset ? "security officer's PIN" : "present user PIN", 0);

	if (r == 0)
		r = pin_get(&new_pin, o->new_pin_file, "new user PIN", 1);
	if (r == 0)
		r = token_load(&t, o->module, o->init_args);
	if (r == 0)
		r = token_choose(&t, &o->token);
	if (r == 0)
		r = reset ? token_reset_pin(&t, &old, &new_pin) : token_change_pin(&t, &old, &new_pin);
	token_close(&t);
	pin_wipe(&old);
	pin_wipe(&new_pin);
	if (r == 0)
		printf("the user PIN is set; put it into the agent's PIN file\n");
	return r;
}

/* Without --id a random one: two keys of one label, perhaps years apart, are then still two. */
static int act_make(struct token *t, const struct options *o)
{
	struct key_name name = o->key;

	if (name.id_size == 0) {
		name.id_size = 8;
		if (getrandom(name.id, name.id_size, 0) != (ssize_t)name.id_size)
			return fail(ERR_UNSUPPORTED, "this machine gives no random id; give one with --id HEX");
	}
	return keys_make(t, kek_type_find(o->type), &name);
}

static int act_list(struct token *t, const struct options *o)
{
	return keys_list(t, o->json);
}

static int act_disable(struct token *t, const struct options *o)
{
	return keys_allow(t, &o->key, false);
}

static int act_enable(struct token *t, const struct options *o)
{
	return keys_allow(t, &o->key, true);
}

static int act_set_dates(struct token *t, const struct options *o)
{
	return keys_set_dates(t, &o->key, o->start, o->end);
}

static int act_public(struct token *t, const struct options *o)
{
	return keys_public(t, &o->key);
}

static int act_delete(struct token *t, const struct options *o)
{
	return keys_delete(t, &o->key);
}

/* A verb on the keys of one token: PIN, module, token, login, session, act. */
static int with_login(const struct options *o, int (*act)(struct token *, const struct options *))
{
	struct pin pin = { 0 };
	struct token t = { 0 };
	int r = pin_get(&pin, o->pin_file, "user PIN", 0);

	if (r == 0)
		r = token_load(&t, o->module, o->init_args);
	if (r == 0)
		r = token_choose(&t, &o->token);
	if (r == 0)
		r = token_login(&t, &pin, 0);
	if (r == 0)
		r = token_session(&t, &pin);
	pin_wipe(&pin);
	if (r == 0)
		r = act(&t, o);
	token_close(&t);
	return r;
}

static int verb_list_tokens(const struct options *o)
{
	struct token t = { 0 };
	int r = token_load(&t, o->module, o->init_args);

	if (r == 0)
		r = tokens_list(&t, o->json);
	token_close(&t);
	return r;
}

/* ---- what each verb wants ---- */

static int want_new_key(const struct options *o)
{
	if (o->type == NULL || kek_type_find(o->type) == NULL)
		return fail(ERR_USAGE, "make-kek wants --type rsa2048, rsa3072, rsa4096 or aes256");
	if (o->key.label == NULL || o->key.label[0] == '\0' || strlen(o->key.label) > LABEL_MAX)
		return fail(ERR_USAGE, "make-kek wants --label, 1 to %d bytes", LABEL_MAX);
	return 0;
}

static int want_key(const struct options *o)
{
	if (o->key.label == NULL && o->key.id_size == 0)
		return fail(ERR_USAGE, "name the key with --label or --id");
	return 0;
}

static int want_dates(const struct options *o)
{
	if (o->start == NULL && o->end == NULL)
		return fail(ERR_USAGE, "set-dates wants --start or --end, YYYYMMDD or none");
	if (o->start != NULL && o->end != NULL && strlen(o->start) == strlen(o->end) && strcmp(o->start, o->end) > 0)
		return fail(ERR_USAGE, "--start %.8s lies after --end %.8s: the key would never be valid; nothing was changed",
			    o->start, o->end);
	return want_key(o);
}

/* Somebody at a terminal is asked; a script must say it. */
static int want_deletion(const struct options *o)
{
	char answer[8] = "";
	int r = want_key(o);

	if (r != 0 || o->yes)
		return r;
	if (!isatty(STDIN_FILENO))
		return fail(ERR_USAGE, "delete wants --yes where nobody can be asked; nothing was deleted");
	fprintf(stderr, "A deleted key does not come back, nor do volumes that only it opens. Type yes to delete it: ");
	if (fgets(answer, sizeof answer, stdin) == NULL || strcmp(answer, "yes\n") != 0)
		return fail(ERR_USAGE, "nothing was deleted");
	return 0;
}

struct verb {
	const char *name;
	int (*want)(const struct options *); /* NULL: nothing more */
	int (*run)(const struct options *);  /* or, with a login: */
	int (*act)(struct token *, const struct options *);
};

/* clang-format off */
static const struct verb verbs[] = {
	{ "init-token", NULL,         verb_init_token, NULL },
	{ "set-pin",    NULL,         verb_set_pin,    NULL },
	{ "make-kek",   want_new_key, NULL,            act_make },
	{ "list",       NULL,         NULL,            act_list },
	{ "disable",    want_key,     NULL,            act_disable },
	{ "enable",     want_key,     NULL,            act_enable },
	{ "set-dates",  want_dates,   NULL,            act_set_dates },
	{ "public-key", want_key,     NULL,            act_public },
	{ "delete",     want_deletion, NULL,           act_delete },
};
/* clang-format on */

static int run_verb(const struct verb *v, const struct options *o)
{
	int r;

	if (o->module == NULL)
		return fail(ERR_USAGE, "%s wants --module PATH, the vendor's PKCS#11 library", v->name);
	r = v->want != NULL ? v->want(o) : 0;
	if (r != 0)
		return r;
	if (v->act == act_list && o->token.label == NULL && o->token.serial == NULL)
		return verb_list_tokens(o);
	return v->act != NULL ? with_login(o, v->act) : v->run(o);
}

static int dispatch(const char *name, const struct options *o)
{
	for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++)
		if (strcmp(verbs[i].name, name) == 0)
			return run_verb(&verbs[i], o);
	return fail(ERR_USAGE, "there is no verb '%s'; see fallgate-custodian --help", name);
}

int main(int argc, char **argv)
{
	struct options o = { 0 };
	int r = parse_options(argc, argv, &o);

	if (r == 0 && o.version)
		printf("fallgate-custodian %s\n", FALLGATE_VERSION);
	else if (r == 0 && o.help)
		fputs(help, stdout);
	else if (r == 0 && optind + 1 != argc)
		r = fail(ERR_USAGE, "one verb is wanted; see fallgate-custodian --help");
	else if (r == 0)
		r = dispatch(argv[optind], &o);
	if (r == 0 && fflush(stdout) != 0)
		r = fail(ERR_IO, "standard output cannot be written to");
	return error_exit_code(r);
}
