/* The configuration: a table of mistakes, each with the exact line that the user reads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "hal/board.h"
#include "supervisor/config.h"

static char dir[64];
static struct config config;
static struct config_errors errors;

static void put(const char *name, const char *text, mode_t mode)
{
	char path[200];
	FILE *f;

	snprintf(path, sizeof path, "%s/%s", dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	assert_int_equal(chmod(path, mode), 0);
}

static int setup(void **state)
{
	char path[200];

	(void)state;
	strcpy(dir, "/tmp/fallgate-config-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/volumes.d", dir);
	assert_int_equal(mkdir(path, 0755), 0);
	put("pin", "1234\n", 0600);
	put("loose", "1234\n", 0644);
	put("module.so", "", 0644);
	return 0;
}

static int teardown(void **state)
{
	char command[200];

	(void)state;
	snprintf(command, sizeof command, "rm -r %s", dir);
	return system(command);
}

/* @ becomes the directory. */
static void expand(const char *in, char *out, size_t size)
{
	size_t n = 0;

	for (; *in != '\0' && n + sizeof dir < size; in++) {
		if (*in == '@')
			n += (size_t)snprintf(out + n, size - n, "%s", dir);
		else
			out[n++] = *in;
	}
	out[n] = '\0';
}

static int load(const char *main_file, const char *volume_file)
{
	char text[8192], path[200];

	expand(main_file, text, sizeof text);
	put("fallgate.conf", text, 0644);
	snprintf(path, sizeof path, "%s/volumes.d/demo.conf", dir);
	unlink(path);
	if (volume_file != NULL) {
		expand(volume_file, text, sizeof text);
		put("volumes.d/demo.conf", text, 0644);
	}
	snprintf(path, sizeof path, "%s/fallgate.conf", dir);
	return config_load(&config, path, NULL, &errors);
}

#define KEK    "[kek main]\nmodule = @/module.so\nuri = pkcs11:token=t;object=k?pin-source=file:@/pin\n"
#define VOLUME "[volume]\nbacking = @/demo.img\nsize = 64M\nkek = main\n"

static void a_good_configuration_is_read_whole(void **state)
{
	const struct volume_config *v = &config.volumes[0];
	const struct kek_config *k = &config.keks[0];

	(void)state;
	assert_int_equal(
		load("# a comment\n[agent]\nstate_dir = @/state\nrun_dir = @/run\ncoap = [::1]:5000\nlibexec_dir = "
		     "/usr/libexec\nwatchdog = /dev/watchdog3\nwatchdog_timeout = 30s\nindicator = led:green:status\nentropy = kernel\n" KEK
		     "environment = A=b ; and why\nenvironment = SOFTHSM2_CONF=@/s;x\nprobe_interval = 500ms\nfresh_every = 3\n"
		     "outage_budget = 0\nhsm_deadline = 5s\ninit_args = configdir='sql:/x' flags=\n",
		     VOLUME "attach = manual\non_lock = hold\nhold_timeout = 5m\nconnections = 4\nlisten = "
			    "tcp:127.0.0.1:10809\nread_only = yes\ncache = 16M\nmemory = server\n"
			    "kernel = portable\nlisten_mode = 0660\n"),
		0);
	assert_int_equal(errors.count, 0);
	assert_string_equal(config.coap_address, "::1");
	assert_int_equal(config.coap_port, 5000);
	assert_string_equal(config.watchdog, "/dev/watchdog3");
	assert_int_equal(config.watchdog_timeout_ns, 30 * UINT64_C(1000000000));
	assert_string_equal(config.indicator, "led:green:status");
	assert_string_equal(config.entropy, "kernel");
	assert_int_equal(config.kek_count, 1);
	assert_string_equal(k->uri, "pkcs11:token=t;object=k"); /* the PIN's place is not the hsm's business */
	assert_string_equal(k->pin_path + strlen(k->pin_path) - 4, "/pin");
	assert_int_equal(k->environment_count, 2);
	assert_string_equal(k->environment[0], "A=b");
	assert_string_equal(k->environment[1] + strlen(k->environment[1]) - 2, ";x");
	assert_int_equal(k->probe_interval_ns, 500000000);
	assert_int_equal(k->outage_budget_ns, 0);
	assert_int_equal(k->fresh_every, 3);
	assert_int_equal(config.volume_count, 1);
	assert_int_equal(v->size, 64 << 20);
	assert_false(v->attach_auto);
	assert_true(v->read_only);
	assert_int_equal(v->listen, LISTEN_TCP);
	assert_string_equal(v->listen_path, "127.0.0.1");
	assert_int_equal(v->listen_port, 10809);
	assert_int_equal(v->listen_mode, 0660);
	assert_true(v->hold);
	assert_int_equal(v->hold_timeout_ns, 300 * UINT64_C(1000000000));
	assert_int_equal(v->connections, 4);
	assert_int_equal(v->cache_mib, 16);
	assert_true(v->server);
	assert_string_equal(v->kernel, "portable");
}

static void defaults(void **state)
{
	(void)state;
	assert_int_equal(load("[agent]\nrun_dir = @/run\n" KEK, VOLUME), 0);
	assert_int_equal(config.keks[0].probe_interval_ns, 1000000000);
	assert_int_equal(config.keks[0].outage_budget_ns, 60000000000);
	assert_int_equal(config.keks[0].hsm_deadline_ns, 3000000000);
	assert_int_equal(config.keks[0].fresh_every, 10);
	assert_string_equal(config.coap_address, "127.0.0.1");
	assert_int_equal(config.coap_port, 5684);
	assert_true(config.volumes[0].attach_auto);
	assert_int_equal(config.volumes[0].listen_mode, 0600);
	assert_non_null(strstr(config.volumes[0].listen_path, "/run/demo.sock"));
	assert_string_equal(config.watchdog, board.watchdog);
	assert_int_equal(config.watchdog_timeout_ns, board.watchdog_timeout_s * UINT64_C(1000000000));
	assert_string_equal(config.indicator, board.indicator);
	assert_string_equal(config.entropy, board.entropy);
	assert_string_equal(config.tamper[0] == '\0' ? "none" : config.tamper, board.tamper);
}

static void a_line_of_many_bytes_is_read_whole(void **state)
{
	char text[1500] = "[kek main]\nmodule = @/module.so\nuri = pkcs11:token=";
	char expect[400];

	(void)state;
	memset(expect, 't', 350);
	expect[350] = '\0';
	snprintf(text + strlen(text), sizeof text - strlen(text), "%s;object=k\n", expect);
	assert_int_equal(load(text, NULL), 0);
	assert_non_null(strstr(config.keks[0].uri, expect));
	assert_string_equal(config.keks[0].uri + strlen(config.keks[0].uri) - 9, ";object=k");
}

/* clang-format off */
static const struct {
	const char *main_file, *volume_file;
	const char *line; /* exactly; @ is the directory */
} mistakes[] = {
	{ "[agent]\nstat_dir = /x\n", NULL, "@/fallgate.conf:2: unknown key stat_dir in [agent]; see fallgate.conf(5)" },
	{ "[agnet]\nstate_dir = /x\n", NULL, "@/fallgate.conf:2: unknown section [agnet]; known are [agent], [alerts], [tamper] and [kek NAME]" },
	{ KEK "[agnet]\n", NULL, "@/fallgate.conf:4: unknown section [agnet]; known are [agent], [alerts], [tamper] and [kek NAME]" },
	{ "[agnet]\n" KEK, NULL, "@/fallgate.conf:1: unknown section [agnet]; known are [agent], [alerts], [tamper] and [kek NAME]" },
	{ KEK "[kek two]\n; not yet\n", NULL, "@/fallgate.conf: [kek two] has no module; add the line" },
	{ KEK "[kek main]\n", NULL, "@/fallgate.conf:4: [kek main] stands here a second time; rename one of them" },
	{ "[agent]\nstate_dir = x\n", NULL, "@/fallgate.conf:2: state_dir = x is not an absolute path; begin it with /" },
	{ "[agent]\nrun_dir = /x\nrun_dir = /y\n", NULL, "@/fallgate.conf:3: run_dir stands here a second time; keep one" },
	{ "[agent]\ncoap = localhost:5684\n", NULL, "@/fallgate.conf:2: coap = localhost:5684 is not ADDRESS:PORT with a numeric address; write e.g. 127.0.0.1:5684 or [::1]:5684" },
	{ "[agent]\ncoap = 127.0.0.1:70000\n", NULL, "@/fallgate.conf:2: coap = 127.0.0.1:70000 is not ADDRESS:PORT with a numeric address; write e.g. 127.0.0.1:5684 or [::1]:5684" },
	{ "[agent]\nnbdkit = /nowhere\n", NULL, "@/fallgate.conf:2: nbdkit = /nowhere is no program: No such file or directory; install nbdkit or correct the path" },
	{ "[agent]\nhello\n", NULL, "@/fallgate.conf:2: neither a [section], a key = value nor a comment; correct the line" },
	{ "[agent]\nwatchdog = watchdog0\n", NULL, "@/fallgate.conf:2: watchdog = watchdog0 is not none, auto or a device; write e.g. /dev/watchdog0" },
	{ "[agent]\nwatchdog_timeout = 1s\n", NULL, "@/fallgate.conf:2: watchdog_timeout = 1s is out of bounds; choose from 4000ms to 600s" },
	{ "[agent]\nwatchdog_timeout = 4500ms\n", NULL, "@/fallgate.conf:2: watchdog_timeout = 4500ms is not in whole seconds; write it so" },
	{ "[agent]\nentropy = hwrng\n", NULL, "@/fallgate.conf:2: entropy = hwrng is not auto, kernel or a device; write e.g. /dev/hwrng" },
	{ "[agent]\nindicator = led:../x\n", NULL, "@/fallgate.conf:2: indicator = led:../x is not none, led:NAME or console:/dev/NAME; write one of these" },
	{ "[kek Main]\nmodule = @/module.so\n", NULL, "@/fallgate.conf:2: [kek Main]: a name is 1 to 31 of a-z, 0-9, _ and -, and begins with a letter or digit; rename it" },
	{ KEK "[agent]\nrun_dir = /x\n" KEK, NULL, "@/fallgate.conf:7: [kek main] stands here a second time; rename one of them" },
	{ "[kek main]\nmodule = @/module.so\n", NULL, "@/fallgate.conf: [kek main] has no uri; add the line" },
	{ "[kek main]\nmodule = @/gone.so\nuri = pkcs11:token=t;object=k\n", NULL, "@/fallgate.conf:2: module = @/gone.so cannot be read: No such file or directory; install the module or correct the path" },
	{ "[kek main]\nmodule = @/module.so\nuri = pkcs12:token=t\n", NULL, "@/fallgate.conf:3: uri does not begin with pkcs11:; write e.g. pkcs11:token=LABEL;object=KEK?pin-source=file:/path" },
	{ "[kek main]\nmodule = @/module.so\nuri = pkcs11:colour=red;token=t\n", NULL, "@/fallgate.conf:3: uri: unknown attribute colour=red; RFC 7512 has token, object, id, serial, ..." },
	{ "[kek main]\nmodule = @/module.so\nuri = pkcs11:token=t\n", NULL, "@/fallgate.conf:3: uri names no single key; give token (or serial) and object (or id)" },
	{ "[kek main]\nmodule = @/module.so\nuri = pkcs11:token=t;object=k?module-path=/x\n", NULL, "@/fallgate.conf:3: uri: unknown attribute module-path=/x after the ?; only pin-source stands there, the module has its own line" },
	{ "[kek main]\nmodule = @/module.so\nuri = pkcs11:token=t;object=k?pin-value=1234\n", NULL, "@/fallgate.conf:3: uri: pin-value: a PIN does not stand in a URI; write it to a file and name that: pin-source=file:/path" },
	{ "[kek main]\nmodule = @/module.so\nuri = pkcs11:token=t;object=k?pin-source=file:pin\n", NULL, "@/fallgate.conf:3: uri: pin-source is not one file:/absolute/path nor tpm:; write one of these" },
	{ "[kek main]\nmodule = @/module.so\nuri = pkcs11:token=t;object=k?pin-source=tpm:&pin-source=file:@/pin\n", NULL, "@/fallgate.conf:3: uri: pin-source is not one file:/absolute/path nor tpm:; write one of these" },
	{ "[kek main]\nmodule = @/module.so\nuri = pkcs11:token=t;object=k?pin-source=tpm:\n", NULL, "@/fallgate.conf:2: pin-source=tpm: and [agent] names no TPM; add tpm = /dev/tpmrm0 there" },
	{ "[agent]\ntpm = tpmrm0\n", NULL, "@/fallgate.conf:2: tpm = tpmrm0 is not a device's path; write e.g. /dev/tpmrm0" },
	{ "[agent]\ntpm = /dev/tpmrm0\nlibexec_dir = @\n", NULL, "@/fallgate.conf: tpm: there is no @/fallgate-tpm: this build is without HAL_TPM; leave the line out" },
	{ "[agent]\ntpm_pcrs = 7,16\n", NULL, "@/fallgate.conf:2: tpm_pcrs = 7,16 is not a list of PCRs from 0 to 15 and 17 to 22; write e.g. 4,7,11,12" },
	{ "[agent]\ntpm_pcrs = 7,\n", NULL, "@/fallgate.conf:2: tpm_pcrs = 7, is not a list of PCRs from 0 to 15 and 17 to 22; write e.g. 4,7,11,12" },
	{ "[kek main]\nmodule = @/module.so\nuri = pkcs11:token=t;object=k?pin-source=file:%2\n", NULL, "@/fallgate.conf:3: uri: pin-source is not one file:/absolute/path nor tpm:; write one of these" },
	{ "[kek main]\nmodule = @/module.so\nuri = pkcs11:token=t;object=k?pin-source=file:@/loose\n", NULL, "@/fallgate.conf:3: others may read the PIN file @/loose (mode 0644); chmod 0600 it" },
	{ "[kek main]\nmodule = @/module.so\nuri = pkcs11:token=t;object=k?pin-source=file:@/gone\n", NULL, "@/fallgate.conf:3: the PIN file @/gone cannot be read: No such file or directory; write the PIN there, mode 0600" },
	{ KEK "probe_interval = soon\n", NULL, "@/fallgate.conf:4: probe_interval = soon is not a duration; write e.g. 500ms, 3s, 5m or 24h" },
	{ KEK "probe_interval = 10ms\n", NULL, "@/fallgate.conf:4: probe_interval = 10ms is out of bounds; choose from 100ms to 3600s" },
	{ KEK "outage_budget = -1s\n", NULL, "@/fallgate.conf:4: outage_budget = -1s is not a duration; write e.g. 500ms, 3s, 5m or 24h" },
	{ KEK "outage_budget = 25h\n", NULL, "@/fallgate.conf:4: outage_budget = 25h is out of bounds; choose from 0ms to 86400s" },
	{ KEK "fresh_every = 0\n", NULL, "@/fallgate.conf:4: fresh_every = 0 is not a number from 1 to 100000; 10 is the default" },
	{ KEK "environment = nonsense\n", NULL, "@/fallgate.conf:4: environment = nonsense is not NAME=VALUE; write it so" },
	{ KEK "environment = LD_PRELOAD=/x\n", NULL, "@/fallgate.conf:4: environment: the loader's variables (LD_*) are not passed on; leave it out" },
	{ KEK, "[volume]\nbacking = @/demo.img\nkek = mian\n", "@/volumes.d/demo.conf:3: kek: there is no [kek mian]; add that section, or name another" },
	{ KEK, VOLUME "size = 1G\n", "@/volumes.d/demo.conf:5: size stands here a second time; keep one" },
	{ KEK, "[volume]\nbacking = @/demo.img\nsize = 64Q\nkek = main\n", "@/volumes.d/demo.conf:3: size = 64Q is not a size in multiples of 4096 bytes; write e.g. 64M, 1G or 2T" },
	{ KEK, "[volume]\nbacking = @/demo.img\nsize = 0\nkek = main\n", "@/volumes.d/demo.conf:3: size = 0 is not a size in multiples of 4096 bytes; write e.g. 64M, 1G or 2T" },
	{ KEK, "[volume]\nbacking = @/demo.img\nsize = 1000\nkek = main\n", "@/volumes.d/demo.conf:3: size = 1000 is not a size in multiples of 4096 bytes; write e.g. 64M, 1G or 2T" },
	{ KEK, "[volume]\nbacking = @/demo.img\nsize = 18446744073709551616\nkek = main\n", "@/volumes.d/demo.conf:3: size = 18446744073709551616 is not a size in multiples of 4096 bytes; write e.g. 64M, 1G or 2T" },
	{ KEK, "[volume]\nbacking = demo.img\nkek = main\n", "@/volumes.d/demo.conf:2: backing = demo.img is not an absolute path; begin it with /" },
	{ KEK, "[volume]\nbacking = @/demo.img\n", "@/volumes.d/demo.conf: [volume] has no kek; add the line" },
	{ KEK, VOLUME "on_lock = explode\n", "@/volumes.d/demo.conf:5: on_lock = explode is not known; choose from: fail, hold" },
	{ KEK, VOLUME "hold_timeout = 0\n", "@/volumes.d/demo.conf:5: hold_timeout = 0 is out of bounds; choose from 1000ms to 86400s" },
	{ KEK, VOLUME "connections = 0\n", "@/volumes.d/demo.conf:5: connections = 0 is not a number from 1 to 1024; 16 is the default" },
	{ KEK, VOLUME "attach = later\n", "@/volumes.d/demo.conf:5: attach = later is not known; choose from: auto, manual" },
	{ KEK, VOLUME "listen = tcp:example.org:1\n", "@/volumes.d/demo.conf:5: listen = tcp:example.org:1 is not unix, unix:/path or tcp:ADDRESS:PORT; write one of these" },
	{ KEK, VOLUME "listen_mode = 9\n", "@/volumes.d/demo.conf:5: listen_mode = 9 is not an octal mode; write e.g. 0600 or 0660" },
	{ KEK, VOLUME "export = iscsi\n", "@/volumes.d/demo.conf:5: export = iscsi is not known; choose from: nbd, ublk" },
	{ KEK, "[volume]\nkek = main\nbacking = /dev/fallgate/demo\nexport = ublk\n", "@/volumes.d/demo.conf: the backing /dev/fallgate/demo is where volume demo itself appears; name the disk below it, or rename the volume" },
	{ KEK, VOLUME "listen = tcp:127.0.0.1:1\nexport = ublk\n", "@/volumes.d/demo.conf: listen belongs to export = nbd, and the export is ublk; leave it out" },
	{ KEK, VOLUME "export = ublk\nlisten_mode = 0660\n", "@/volumes.d/demo.conf: listen_mode belongs to export = nbd, and the export is ublk; leave it out" },
	{ KEK, VOLUME "export = ublk\nconnections = 4\n", "@/volumes.d/demo.conf: connections belongs to export = nbd, and the export is ublk; leave it out" },
	{ KEK, VOLUME "cache = 1K\n", "@/volumes.d/demo.conf:5: cache = 1K is not a size from 1M to 64G in whole megabytes; leave it out for what memory says" },
	{ KEK, VOLUME "kernel = fast\n", "@/volumes.d/demo.conf:5: kernel = fast is not known; choose from: auto, portable, aesni_sse, aesni, vaes256, vaes512, armv8" },
	{ KEK, "[volumes]\nbacking = /x\n", "@/volumes.d/demo.conf:2: unknown section [volumes]; a volume's file has one: [volume]" },
	{ KEK, "[volume]\n", "@/volumes.d/demo.conf: [volume] has no backing; add the line" },
	{ KEK, "", "@/volumes.d/demo.conf: there is no [volume] section with keys; see fallgate.conf(5)" },
};
/* clang-format on */

static void every_mistake_has_its_line(void **state)
{
	char expect[1000];

	(void)state;
	for (size_t i = 0; i < sizeof mistakes / sizeof mistakes[0]; i++) {
		assert_int_equal(load(mistakes[i].main_file, mistakes[i].volume_file), ERR_CONFIG);
		assert_true(errors.count > 0);
		expand(mistakes[i].line, expect, sizeof expect);
		if (geteuid() == 0 || strstr(mistakes[i].volume_file != NULL ? mistakes[i].volume_file : "", "ublk") == NULL)
			assert_string_equal(errors.line[0], expect);
	}
}

/* A block device has no place to listen at: two of them are not at one. */
static void volumes_as_block_devices(void **state)
{
	char text[500];

	(void)state;
	if (geteuid() != 0) {
		assert_int_equal(load(KEK, VOLUME "export = ublk\n"), ERR_CONFIG);
		assert_non_null(strstr(errors.line[0], "export = ublk needs an agent started as root"));
		return;
	}
	expand("[volume]\nbacking = @/fourth.img\nkek = main\nexport = ublk\non_lock = hold\nmount = drop_caches\n", text,
	       sizeof text);
	put("volumes.d/zweite.conf", text, 0644);
	assert_int_equal(load(KEK, VOLUME "export = ublk\nhold_timeout = 5m\n"), 0);
	assert_int_equal(config.volumes[0].export, EXPORT_UBLK);
	assert_true(config.volumes[1].hold);
	assert_int_equal(load(KEK, VOLUME), 0);
	assert_int_equal(config.volumes[0].export, EXPORT_NBD);
	assert_int_equal(load(KEK, "[volume]\nbacking = /dev/fallgate/zweite\nkek = main\n"), ERR_CONFIG);
	assert_int_equal(errors.count, 1);
	assert_non_null(
		strstr(errors.line[0], "demo.conf: the backing /dev/fallgate/zweite is where volume zweite itself appears"));
	snprintf(text, sizeof text, "%s/volumes.d/zweite.conf", dir);
	unlink(text);
}

static void all_mistakes_are_named_not_the_first(void **state)
{
	(void)state;
	assert_int_equal(load("[agent]\nstate_dir = x\nzzz = 1\n" KEK "fresh_every = x\n", "[volume]\nbacking = y\nkek = z\n"),
			 ERR_CONFIG);
	assert_int_equal(errors.count, 5);
}

/* Whoever may write the configuration is root, where the agent is. */
static void a_file_that_everybody_may_write(void **state)
{
	char path[200];

	(void)state;
	assert_int_equal(load("[agent]\n" KEK, VOLUME), 0); /* a section may be empty */
	for (unsigned i = 0; i < 3; i++) {
		static const char *const places[] = { "fallgate.conf", "volumes.d/demo.conf", "volumes.d" };
		const mode_t good = i == 2 ? 0755 : 0644;
		char expected[80];

		snprintf(path, sizeof path, "%s/%s", dir, places[i]);
		assert_int_equal(chmod(path, good | 02), 0);
		snprintf(path, sizeof path, "%s/fallgate.conf", dir);
		assert_int_equal(config_load(&config, path, NULL, &errors), ERR_CONFIG);
		snprintf(expected, sizeof expected, "everybody may write to it (mode %04o)", (unsigned)(good | 02));
		assert_non_null(strstr(errors.line[0], expected));
		snprintf(path, sizeof path, "%s/%s", dir, places[i]);
		assert_int_equal(chmod(path, good), 0);
	}
}

/* It would wait for a writer for ever. */
static void a_fifo_in_a_files_place(void **state)
{
	char path[200], fifo[200];

	(void)state;
	assert_int_equal(load(KEK, VOLUME), 0);
	snprintf(fifo, sizeof fifo, "%s/volumes.d/fifo.conf", dir);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	snprintf(path, sizeof path, "%s/fallgate.conf", dir);
	assert_int_equal(config_load(&config, path, NULL, &errors), ERR_CONFIG);
	assert_non_null(strstr(errors.line[0], "fifo.conf: this is no file"));
	unlink(fifo);
	assert_int_equal(config_load(&config, path, NULL, &errors), 0);
}

static void no_file_at_all(void **state)
{
	(void)state;
	assert_int_equal(config_load(&config, dir, NULL, &errors), ERR_CONFIG);
	assert_non_null(strstr(errors.line[0], "this is a folder"));
}

static void two_volumes_on_one_backing(void **state)
{
	char text[500], link_path[200], target[200];

	(void)state;
	put("demo.img", "x", 0600);
	snprintf(target, sizeof target, "%s/demo.img", dir);
	snprintf(link_path, sizeof link_path, "%s/other.img", dir);
	assert_int_equal(link(target, link_path), 0);
	expand("[volume]\nbacking = @/other.img\nkek = main\n", text, sizeof text);
	put("volumes.d/zweite.conf", text, 0644);
	assert_int_equal(load(KEK, VOLUME), ERR_CONFIG);
	assert_int_equal(errors.count, 1);
	assert_non_null(strstr(errors.line[0], "volumes demo and zweite have one backing"));
	expand("[volume]\nbacking = @/third.img\nkek = main\nlisten = unix:/run/fallgate/demo.sock\n", text, sizeof text);
	put("volumes.d/zweite.conf", text, 0644);
	assert_int_equal(load(KEK, VOLUME), ERR_CONFIG);
	assert_int_equal(errors.count, 1);
	assert_non_null(strstr(errors.line[0], "volumes demo and zweite listen at one place"));
	snprintf(text, sizeof text, "%s/volumes.d/zweite.conf", dir);
	unlink(text);
}

static void a_volume_is_loaded_anew(void **state)
{
	struct volume_config v;

	(void)state;
	assert_int_equal(load(KEK, VOLUME), 0);
	assert_int_equal(config_load_volume(&config, "demo", &v, &errors), 0);
	assert_int_equal(v.size, 64 << 20);
	assert_int_equal(config_load_volume(&config, "nope", &v, &errors), ERR_NOT_FOUND);
}

static void numbers(void **state)
{
	uint64_t n;

	(void)state;
	assert_true(config_parse_duration("24h", &n));
	assert_int_equal(n, 86400ull * 1000000000);
	assert_false(config_parse_duration("1", &n));
	assert_false(config_parse_duration("", &n));
	assert_false(config_parse_duration("99999999999999h", &n));
	assert_true(config_parse_size("2T", &n));
	assert_int_equal(n, 2ull << 40);
	assert_true(config_parse_size("3MiB", &n));
	assert_false(config_parse_size("1G5", &n));
	assert_false(config_parse_size("-1", &n));
	assert_false(config_parse_size("99999999P", &n));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_mistake_has_its_line),
		cmocka_unit_test(all_mistakes_are_named_not_the_first),
		cmocka_unit_test(a_file_that_everybody_may_write),
		cmocka_unit_test(a_fifo_in_a_files_place),
		cmocka_unit_test(no_file_at_all),
		cmocka_unit_test(a_good_configuration_is_read_whole),
		cmocka_unit_test(defaults),
		cmocka_unit_test(a_line_of_many_bytes_is_read_whole),
		cmocka_unit_test(two_volumes_on_one_backing),
		cmocka_unit_test(volumes_as_block_devices),
		cmocka_unit_test(a_volume_is_loaded_anew),
		cmocka_unit_test(numbers),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
