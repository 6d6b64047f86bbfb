/*
 * http.c
 *		HTTP requests by libcurl.
 *
 * A request goes to the address that the URL names when it is connected to, and that
 * one is looked at: a name that changes its address does not get through to where it
 * must not. Connections are kept and used again, so those that may go anywhere have a
 * cache of their own.
 *
 * libcurl looks names up in threads. They must not run PostgreSQL's signal handlers:
 * all signals are blocked where libcurl may start one.
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "mb/pg_wchar.h"
#include "net/http.h"
#include "storage/fd.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define MAX_BODY		(64 * 1024)	/* bytes of an answer that are read */
#define MAX_HEADERS		(64 * 1024)
#define MAX_IDLE		3L			/* s that a connection is kept: many servers close it after 5 */
#define USER_AGENT		"dtx/1.0 (PostgreSQL)"

/* Those for public addresses only, and those for any. */
static CURLM *multis[2] = {NULL, NULL};
static TimestampTz due[2] = {0, 0};
static int	epoll_fd = -1;
static int	active = 0;
static CURL *spare[HTTP_MAX_REQUESTS];
static int	nspare = 0;

/* --- addresses --- */

typedef struct Network
{
	uint32		address;
	int			bits;
}			Network;

static bool
ipv4_is_private(uint32 address)
{
	static const Network networks[] = {
		{0x00000000, 8},		/* this network */
		{0x0a000000, 8},		/* private */
		{0x64400000, 10},		/* shared by a carrier's customers */
		{0x7f000000, 8},		/* loopback */
		{0xa9fe0000, 16},		/* link-local */
		{0xac100000, 12},		/* private */
		{0xc0000000, 24},		/* protocol assignments */
		{0xc0a80000, 16},		/* private */
		{0xc6120000, 15},		/* benchmarks */
		{0xe0000000, 3},		/* multicast, reserved, broadcast */
	};

	for (int i = 0; i < lengthof(networks); i++)
		if ((address ^ networks[i].address) >> (32 - networks[i].bits) == 0)
			return true;
	return false;
}

static bool
ipv6_is_private(const uint8 *a)
{
	static const uint8 mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
	static const uint8 translated[12] = {0, 0x64, 0xff, 0x9b};
	static const uint8 none[12] = {0};
	uint32		last = ((uint32) a[12] << 24) | ((uint32) a[13] << 16) | ((uint32) a[14] << 8) | a[15];
	uint32		third = ((uint32) a[2] << 24) | ((uint32) a[3] << 16) | ((uint32) a[4] << 8) | a[5];

	/* an IPv4 address in other clothes; ::, ::1 and what else begins so are none of anybody's */
	if (memcmp(a, mapped, 12) == 0 || memcmp(a, translated, 12) == 0)
		return ipv4_is_private(last);
	if (memcmp(a, none, 12) == 0)
		return true;
	/* 6to4 */
	if (a[0] == 0x20 && a[1] == 0x02)
		return ipv4_is_private(third);
	/* Teredo, documentation, NAT64 of a network's own; unique local, link-local, site-local, multicast */
	return (a[0] == 0x20 && a[1] == 0x01 && a[2] == 0 && a[3] == 0) ||
		(a[0] == 0x20 && a[1] == 0x01 && a[2] == 0x0d && a[3] == 0xb8) ||
		(a[0] == 0 && a[1] == 0x64 && a[2] == 0xff && a[3] == 0x9b) ||
		(a[0] & 0xfe) == 0xfc || (a[0] == 0xfe && (a[1] & 0x80) == 0x80) || a[0] == 0xff;
}

static bool
address_is_private(const struct sockaddr *address)
{
	switch (address->sa_family)
	{
		case AF_INET:
			return ipv4_is_private(ntohl(((const struct sockaddr_in *) address)->sin_addr.s_addr));
		case AF_INET6:
			return ipv6_is_private(((const struct sockaddr_in6 *) address)->sin6_addr.s6_addr);
		default:
			return true;
	}
}

/* --- what libcurl calls back; nothing here may throw --- */

static curl_socket_t
open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	HttpRequest *request = arg;
	int			fd;

	if (!request->allow_private && address_is_private(&address->addr))
	{
		strlcpy(request->refused, "the address is private or a loopback's, and the server's option allow_private is not set",
				sizeof(request->refused));
		return CURL_SOCKET_BAD;
	}
	if (!AcquireExternalFD())
	{
		request->local = true;
		strlcpy(request->refused, "there are too many open files on the local server", sizeof(request->refused));
		return CURL_SOCKET_BAD;
	}
	fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
	if (fd < 0)
	{
		ReleaseExternalFD();
		request->local = true;
		strlcpy(request->refused, "could not create a socket", sizeof(request->refused));
		return CURL_SOCKET_BAD;
	}
	return fd;
}

static int
close_socket(void *arg, curl_socket_t fd)
{
	close(fd);
	ReleaseExternalFD();
	return 0;
}

/* A request is about to be sent. libcurl would send it again by itself when a connection
 * that it has used before is lost without an answer: that would be an attempt that nobody
 * has counted. */
static int
about_to_send(void *arg, char *their_address, char *our_address, int their_port, int our_port)
{
	HttpRequest *request = arg;

	return request->sent++ == 0 ? CURL_PREREQFUNC_OK : CURL_PREREQFUNC_ABORT;
}

static size_t
take_body(char *data, size_t size, size_t count, void *arg)
{
	HttpRequest *request = arg;
	size_t		length = size * count;
	int			room = HTTP_ANSWER_KEPT - request->answer_length;
	int			kept = (int) Min(length, (size_t) room);

	memcpy(request->answer + request->answer_length, data, kept);
	request->answer_length += kept;
	request->received += length;
	if (request->received > MAX_BODY)
	{
		request->cut = true;
		return 0;
	}
	return length;
}

static size_t
take_header(char *data, size_t size, size_t count, void *arg)
{
	HttpRequest *request = arg;

	request->header_size += size * count;
	return request->header_size > MAX_HEADERS ? 0 : size * count;
}

static int
watch_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *known)
{
	int			which = (int) (intptr_t) arg;
	struct epoll_event event = {0};

	event.data.u64 = ((uint64) which << 32) | (uint32) fd;
	if (what != CURL_POLL_OUT)
		event.events |= EPOLLIN;
	if (what != CURL_POLL_IN)
		event.events |= EPOLLOUT;
	if (what == CURL_POLL_REMOVE)
		(void) epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, NULL);
	else if (known != NULL)
		(void) epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fd, &event);
	else
	{
		(void) epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
		curl_multi_assign(multis[which], fd, (void *) multis);
	}
	return 0;
}

static int
set_timer(CURLM *multi, long timeout, void *arg)
{
	due[(intptr_t) arg] = timeout < 0 ? 0 : TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout);
	return 0;
}

/* --- starting --- */

/* False: there is not what it takes. */
static bool
initialize(void)
{
	static bool globally = false;

	if (epoll_fd >= 0)
		return true;
	if (!globally && curl_global_init(CURL_GLOBAL_ALL) != CURLE_OK)
		return false;
	globally = true;
	for (intptr_t i = 0; i < lengthof(multis); i++)
	{
		if (multis[i] == NULL)
			multis[i] = curl_multi_init();
		if (multis[i] == NULL)
			return false;
		curl_multi_setopt(multis[i], CURLMOPT_SOCKETFUNCTION, watch_socket);
		curl_multi_setopt(multis[i], CURLMOPT_SOCKETDATA, (void *) i);
		curl_multi_setopt(multis[i], CURLMOPT_TIMERFUNCTION, set_timer);
		curl_multi_setopt(multis[i], CURLMOPT_TIMERDATA, (void *) i);
		curl_multi_setopt(multis[i], CURLMOPT_PIPELINING, CURLPIPE_MULTIPLEX);
		curl_multi_setopt(multis[i], CURLMOPT_MAXCONNECTS, (long) HTTP_MAX_REQUESTS);
	}
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	return epoll_fd >= 0;
}

/* Everything but what differs from one request to the next was set already. */
static CURL *
take_handle(void)
{
	CURL	   *easy;

	if (nspare > 0)
		return spare[--nspare];
	easy = curl_easy_init();
	if (easy == NULL)
		return NULL;
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
#if LIBCURL_VERSION_NUM >= 0x075500
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
#else
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS, (long) (CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
	curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
	/* whatever the environment of the server says */
	curl_easy_setopt(easy, CURLOPT_PROXY, "");
	curl_easy_setopt(easy, CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_2TLS);
	curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
	curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
	curl_easy_setopt(easy, CURLOPT_TCP_NODELAY, 1L);
	curl_easy_setopt(easy, CURLOPT_USERAGENT, USER_AGENT);
	curl_easy_setopt(easy, CURLOPT_POST, 1L);
	curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
	curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, close_socket);
	curl_easy_setopt(easy, CURLOPT_CLOSESOCKETDATA, NULL);
#if LIBCURL_VERSION_NUM >= 0x075700
	/* a name that is still being looked up when the time is over is not waited for */
	curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
#endif
	curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, about_to_send);
	curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, MAX_IDLE);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_body);
	curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, take_header);
	return easy;
}

static void
give_handle_back(CURL *easy)
{
	if (nspare < lengthof(spare))
		spare[nspare++] = easy;
	else
		curl_easy_cleanup(easy);
}

static bool
append_header(struct curl_slist **list, const char *header)
{
	struct curl_slist *longer = curl_slist_append(*list, header);

	if (longer == NULL)
		return false;
	*list = longer;
	return true;
}

static bool
make_headers(HttpRequest *request, const Endpoint *endpoint, List *headers)
{
	struct curl_slist *list = NULL;
	bool		complete = append_header(&list, "Content-Type: application/json") && append_header(&list, "Expect:");
	ListCell   *cell;

	foreach(cell, headers)
		complete = complete && append_header(&list, lfirst(cell));
	foreach(cell, endpoint->headers)
		complete = complete && append_header(&list, lfirst(cell));
	request->header_list = list;
	return complete;
}

static void
free_headers(HttpRequest *request)
{
	curl_slist_free_all(request->header_list);
	request->header_list = NULL;
}

static bool
not_begun(HttpRequest *request, const char *why)
{
	request->local = true;
	strlcpy(request->error, why, sizeof(request->error));
	return false;
}

bool
http_start(HttpRequest *request, const Endpoint *endpoint, List *headers, int connect_timeout, int timeout)
{
	CURL	   *easy;

	if (!initialize())
		return not_begun(request, "libcurl could not be initialized");
	request->allow_private = endpoint->allow_private;
	request->own_ca = endpoint->sslrootcert != NULL;
	request->retry_after = -1;
	if (!make_headers(request, endpoint, headers) || (easy = take_handle()) == NULL)
	{
		free_headers(request);
		return not_begun(request, "out of memory");
	}
	curl_easy_setopt(easy, CURLOPT_PRIVATE, request);
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, request->error);
	curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, request);
	curl_easy_setopt(easy, CURLOPT_PREREQDATA, request);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, request);
	curl_easy_setopt(easy, CURLOPT_HEADERDATA, request);
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, request->header_list);
	curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request->body);
	curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) request->length);
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long) Min(connect_timeout, timeout));
	curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long) timeout);
	if (endpoint->sslrootcert != NULL)
	{
		curl_easy_setopt(easy, CURLOPT_CAINFO, endpoint->sslrootcert);
		curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
	}
	/* one that speaks HTTP/2 is sent all over one connection */
	curl_easy_setopt(easy, CURLOPT_PIPEWAIT, strncmp(endpoint->url, "https", 5) == 0 ? 1L : 0L);
	if (curl_easy_setopt(easy, CURLOPT_URL, endpoint->url) != CURLE_OK ||
		curl_multi_add_handle(multis[request->allow_private], easy) != CURLM_OK)
	{
		free_headers(request);
		curl_easy_cleanup(easy);
		return not_begun(request, "out of memory");
	}
	request->easy = easy;
	active++;
	return true;
}

/* --- going on --- */

static void
end_request(HttpRequest *request, bool reusable)
{
	curl_multi_remove_handle(multis[request->allow_private], request->easy);
	if (reusable)
	{
		curl_easy_setopt(request->easy, CURLOPT_ERRORBUFFER, NULL);
		give_handle_back(request->easy);
	}
	else
		curl_easy_cleanup(request->easy);
	request->easy = NULL;
	free_headers(request);
	active--;
}

/* What became of it. */
static void
read_answer(HttpRequest *request, CURLcode code)
{
	curl_off_t	retry_after = 0;

	curl_easy_getinfo(request->easy, CURLINFO_RESPONSE_CODE, &request->status);
	if (curl_easy_getinfo(request->easy, CURLINFO_RETRY_AFTER, &retry_after) == CURLE_OK && retry_after > 0)
		request->retry_after = Min(retry_after, INT_MAX) * INT64CONST(1000);
	request->answer[request->answer_length] = '\0';
	if (code == CURLE_OK || (code == CURLE_WRITE_ERROR && request->cut))
	{
		request->acknowledged = request->status >= 200 && request->status < 300;
		if (!request->acknowledged)
			snprintf(request->error, sizeof(request->error), "HTTP status %ld%s", request->status,
					 request->status >= 300 && request->status < 400 ? ": redirects are not followed" : "");
	}
	else if (request->header_size > MAX_HEADERS)
		strlcpy(request->error, "the headers of the answer are too long", sizeof(request->error));
	else if (code == CURLE_ABORTED_BY_CALLBACK)
		strlcpy(request->error, "the connection was lost before the answer", sizeof(request->error));
	else if (request->refused[0] != '\0' && request->status == 0)
		strlcpy(request->error, request->refused, sizeof(request->error));
	else if (request->error[0] == '\0')
		strlcpy(request->error, curl_easy_strerror(code), sizeof(request->error));
}

static void
read_finished(CURLM *multi, void (*done) (HttpRequest *request))
{
	CURLMsg    *message;
	int			left;

	while ((message = curl_multi_info_read(multi, &left)) != NULL)
	{
		HttpRequest *request = NULL;
		CURLcode	code = message->data.result;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **) &request);
		read_answer(request, code);
		/* what names an authority cannot be told to take the system's again */
		end_request(request, !request->own_ca);
		done(request);
	}
}

static void
serve_sockets(void)
{
	struct epoll_event events[64];
	int			running;
	int			n;

	do
	{
		n = epoll_wait(epoll_fd, events, lengthof(events), 0);
		for (int i = 0; i < n; i++)
		{
			int			which = (int) (events[i].data.u64 >> 32);
			int			mask = (events[i].events & EPOLLIN ? CURL_CSELECT_IN : 0) |
			(events[i].events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
			(events[i].events & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0);

			curl_multi_socket_action(multis[which], (curl_socket_t) (uint32) events[i].data.u64, mask, &running);
		}
	} while (n == lengthof(events));
	for (int i = 0; i < lengthof(multis); i++)
		if (due[i] != 0 && GetCurrentTimestamp() >= due[i])
		{
			due[i] = 0;
			curl_multi_socket_action(multis[i], CURL_SOCKET_TIMEOUT, 0, &running);
		}
}

void
http_step(void (*done) (HttpRequest *request))
{
	sigset_t	all,
				former;

	if (epoll_fd < 0)
		return;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &former);
	serve_sockets();
	sigprocmask(SIG_SETMASK, &former, NULL);
	for (int i = 0; i < lengthof(multis); i++)
		read_finished(multis[i], done);
}

int
http_active(void)
{
	return active;
}

pgsocket
http_socket(void)
{
	/* connections that are kept are watched too: who closes them has to be noticed */
	return epoll_fd < 0 ? PGINVALID_SOCKET : epoll_fd;
}

TimestampTz
http_due(void)
{
	return due[0] == 0 ? due[1] : due[1] == 0 ? due[0] : Min(due[0], due[1]);
}
