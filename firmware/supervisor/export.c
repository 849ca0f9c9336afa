/* The listening socket of an export. What must hold: it is made once per attachment and outlives the processes that serve it, so
 * that clients find the place while one takes over from another; a stale socket file is replaced, anything else there is not. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "agent.h"
#include "base/error.h"
#include "base/log.h"
#include "volume.h"

enum { BACKLOG = 64 };

static int unlink_stale(const char *path)
{
	struct stat st;

	if (lstat(path, &st) != 0)
		return errno == ENOENT ? 0 : error_from_errno(errno);
	if (!S_ISSOCK(st.st_mode)) {
		log_error("%s: something that is no socket stands there; move it away, or listen elsewhere", path);
		return ERR_EXISTS;
	}
	return unlink(path) == 0 ? 0 : error_from_errno(errno);
}

static int listen_unix(const struct volume *v)
{
	const struct volume_config *c = &v->config;
	const struct config_user *user = &v->agent->config.user_dataplane;
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd, r = unlink_stale(c->listen_path);
	mode_t before;
	bool good;

	if (r != 0)
		return r;
	memcpy(address.sun_path, c->listen_path, strlen(c->listen_path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_from_errno(errno);
	/* the mode is there from the first moment, and no step follows a link that somebody else put in its place */
	before = umask(0);
	good = fchmod(fd, c->listen_mode) == 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0;
	umask(before);
	good = good && (!user->set || lchown(c->listen_path, user->uid, user->gid) == 0) && listen(fd, BACKLOG) == 0;
	if (good)
		return fd;
	r = error_from_errno(errno);
	log_error("volume %s: cannot listen at %s: %s", c->name, c->listen_path, strerror(errno));
	close(fd);
	return r;
}

static int listen_tcp(const struct volume_config *c)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(c->listen_port) };
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = htons(c->listen_port) };
	bool four = inet_pton(AF_INET, c->listen_path, &in.sin_addr) == 1;
	int fd, on = 1, r;

	if (!four && inet_pton(AF_INET6, c->listen_path, &in6.sin6_addr) != 1)
		return ERR_CONFIG;
	fd = socket(four ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_from_errno(errno);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(fd, four ? (struct sockaddr *)&in : (struct sockaddr *)&in6, four ? sizeof in : sizeof in6) == 0 &&
	    listen(fd, BACKLOG) == 0)
		return fd;
	r = error_from_errno(errno);
	log_error("volume %s: cannot listen at %s port %u: %s", c->name, c->listen_path, c->listen_port, strerror(errno));
	close(fd);
	return r;
}

int export_listen(const struct volume *v)
{
	return v->config.listen == LISTEN_UNIX ? listen_unix(v) : listen_tcp(&v->config);
}

void export_unlisten(struct volume *v)
{
	if (v->listen_fd < 0)
		return;
	close(v->listen_fd);
	v->listen_fd = -1;
	if (v->config.listen == LISTEN_UNIX)
		unlink(v->config.listen_path);
}

void export_uri(const struct volume *v, char *out, size_t size)
{
	const struct volume_config *c = &v->config;

	if (c->export == EXPORT_UBLK)
		snprintf(out, size, "%s", v->device.path);
	else if (v->listen_fd < 0)
		out[0] = '\0';
	else if (c->listen == LISTEN_UNIX)
		snprintf(out, size, "nbd+unix:///?socket=%s", c->listen_path);
	else
		snprintf(out, size, strchr(c->listen_path, ':') != NULL ? "nbd://[%s]:%u" : "nbd://%s:%u", c->listen_path,
			 c->listen_port);
}
