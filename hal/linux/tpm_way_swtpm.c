/* A software TPM at a Unix socket ("swtpm socket --server type=unixio,path=..."): for tests on a machine without one; in no
 * board's image. The library's own way connects anew for each command, which the filter around the process refuses: this one
 * connects once. */
#include "tpm_kind.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bytes.h"

enum { HEADER_BYTES = 10, ANSWER_MAX = 4096 };

struct way {
	TSS2_TCTI_CONTEXT_COMMON_V1 common;
	int fd;
	size_t got; /* of an answer that is being read */
	uint8_t answer[ANSWER_MAX];
};

static struct way *way_of(TSS2_TCTI_CONTEXT *context)
{
	return (struct way *)(void *)context;
}

static TSS2_RC transmit(TSS2_TCTI_CONTEXT *context, size_t size, const uint8_t *command)
{
	struct way *w = way_of(context);

	w->got = 0;
	return send(w->fd, command, size, MSG_NOSIGNAL) == (ssize_t)size ? TSS2_RC_SUCCESS : TSS2_TCTI_RC_IO_ERROR;
}

/* Up to `want` bytes in all. */
static TSS2_RC read_up_to(struct way *w, size_t want, int32_t timeout)
{
	struct pollfd p = { .fd = w->fd, .events = POLLIN };

	while (w->got < want) {
		ssize_t n = poll(&p, 1, timeout < 0 ? -1 : timeout);

		if (n == 0)
			return TSS2_TCTI_RC_TRY_AGAIN;
		if (n > 0)
			n = read(w->fd, w->answer + w->got, want - w->got);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return TSS2_TCTI_RC_IO_ERROR;
		w->got += (size_t)n;
	}
	return TSS2_RC_SUCCESS;
}

static TSS2_RC receive(TSS2_TCTI_CONTEXT *context, size_t *size, uint8_t *out, int32_t timeout)
{
	struct way *w = way_of(context);
	TSS2_RC rc = read_up_to(w, HEADER_BYTES, timeout);
	size_t whole = rc == TSS2_RC_SUCCESS ? get_be32(w->answer + 2) : 0;

	if (rc != TSS2_RC_SUCCESS)
		return rc;
	if (whole < HEADER_BYTES || whole > ANSWER_MAX)
		return TSS2_TCTI_RC_MALFORMED_RESPONSE;
	rc = read_up_to(w, whole, timeout);
	if (rc != TSS2_RC_SUCCESS)
		return rc;
	if (out == NULL || *size < whole) {
		*size = whole;
		return out == NULL ? TSS2_RC_SUCCESS : TSS2_TCTI_RC_INSUFFICIENT_BUFFER;
	}
	*size = whole;
	memcpy(out, w->answer, whole);
	explicit_bzero(w->answer, sizeof w->answer);
	return TSS2_RC_SUCCESS;
}

static void finalize(TSS2_TCTI_CONTEXT *context)
{
	close(way_of(context)->fd);
}

static TSS2_RC init(TSS2_TCTI_CONTEXT *context, size_t *size, const char *conf)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct way *w = way_of(context);

	*size = sizeof *w;
	if (context == NULL)
		return TSS2_RC_SUCCESS;
	if (strlen(conf) >= sizeof address.sun_path)
		return TSS2_TCTI_RC_BAD_VALUE;
	strcpy(address.sun_path, conf);
	w->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (w->fd < 0 || connect(w->fd, (struct sockaddr *)&address, sizeof address) != 0) {
		if (w->fd >= 0)
			close(w->fd);
		return TSS2_TCTI_RC_IO_ERROR;
	}
	w->common = (TSS2_TCTI_CONTEXT_COMMON_V1){
		.magic = UINT64_C(0x464754504d), .version = 1, .transmit = transmit, .receive = receive, .finalize = finalize
	};
	return TSS2_RC_SUCCESS;
}

const struct tpm_way tpm_way_swtpm = { "swtpm:", init };
