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
#include <fcntl.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mb/pg_wchar.h"
#include "net/http.h"
#include "storage/fd.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define MAX_BODY		(64 * 1024)	/* bytes of an answer that are read */
#define MAX_HEADERS		(64 * 1024)
#define MAX_SENT		4			/* times that a request is sent in one attempt */
#define MAX_CA_FILE		(4 * 1024 * 1024)	/* bytes */
#define CA_CACHE		60L			/* s until a change of the system's authorities is noticed */
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

/* IANA's registry of special addresses: those that are nobody's, or not everybody's. */
static bool
ipv4_is_special(uint32 address)
{
	static const Network networks[] = {
		{0x00000000, 8},		/* this network */
		{0x0a000000, 8},		/* private */
		{0x64400000, 10},		/* shared by a carrier's customers */
		{0x7f000000, 8},		/* loopback */
		{0xa9fe0000, 16},		/* link-local */
		{0xac100000, 12},		/* private */
		{0xc0000000, 24},		/* protocol assignments */
		{0xc0000200, 24},		/* documentation */
		{0xc0586300, 24},		/* relays of 6to4, no more */
		{0xc0a80000, 16},		/* private */
		{0xc6120000, 15},		/* benchmarks */
		{0xc6336400, 24},		/* documentation */
		{0xcb007100, 24},		/* documentation */
		{0xe0000000, 3},		/* multicast, reserved, broadcast */
	};

	for (int i = 0; i < lengthof(networks); i++)
		if ((address ^ networks[i].address) >> (32 - networks[i].bits) == 0)
			return true;
	return false;
}

static uint32
ipv4_at(const uint8 *a)
{
	return ((uint32) a[0] << 24) | ((uint32) a[1] << 16) | ((uint32) a[2] << 8) | a[3];
}

/* The IPv4 address that an IPv6 address leads to: as it is, by NAT64, or 6to4. */
static bool
ipv6_leads_to_ipv4(const uint8 *a, uint32 *address)
{
	static const uint8 mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
	static const uint8 translated[12] = {0, 0x64, 0xff, 0x9b};

	if (memcmp(a, mapped, 12) == 0 || memcmp(a, translated, 12) == 0)
		*address = ipv4_at(a + 12);
	else if (a[0] == 0x20 && a[1] == 0x02)
		*address = ipv4_at(a + 2);
	else
		return false;
	return true;
}

/* What is not of the global unicast addresses, and of these: protocol assignments (Teredo,
 * benchmarks and others), and documentation, twice. */
static bool
ipv6_is_special(const uint8 *a)
{
	return (a[0] & 0xe0) != 0x20 ||
		(a[0] == 0x20 && a[1] == 0x01 && (a[2] & 0xfe) == 0) ||
		(a[0] == 0x20 && a[1] == 0x01 && a[2] == 0x0d && a[3] == 0xb8) ||
		(a[0] == 0x3f && a[1] == 0xff && (a[2] & 0xf0) == 0);
}

/* The IPv4 address, where there is one; false: it is of another kind. */
static bool
as_ipv4(const struct sockaddr *address, uint32 *ipv4)
{
	if (address->sa_family == AF_INET)
		*ipv4 = ntohl(((const struct sockaddr_in *) address)->sin_addr.s_addr);
	else if (address->sa_family != AF_INET6 ||
			 !ipv6_leads_to_ipv4(((const struct sockaddr_in6 *) address)->sin6_addr.s6_addr, ipv4))
		return false;
	return true;
}

/* Is it one of this machine's own? When that cannot be found out, it may be. */
static bool
address_is_own(const struct sockaddr *address)
{
	struct ifaddrs *interfaces;
	uint32		theirs = 0;
	bool		is_ipv4 = as_ipv4(address, &theirs);
	bool		found = false;

	if (getifaddrs(&interfaces) != 0)
		return true;
	for (struct ifaddrs *i = interfaces; i != NULL && !found; i = i->ifa_next)
	{
		uint32		ours;

		if (i->ifa_addr == NULL)
			continue;
		if (is_ipv4)
			found = as_ipv4(i->ifa_addr, &ours) && ours == theirs;
		else if (i->ifa_addr->sa_family == AF_INET6 && address->sa_family == AF_INET6)
			found = memcmp(&((const struct sockaddr_in6 *) i->ifa_addr)->sin6_addr,
						   &((const struct sockaddr_in6 *) address)->sin6_addr, sizeof(struct in6_addr)) == 0;
	}
	freeifaddrs(interfaces);
	return found;
}

/* Can only this machine or its network reach it, or nobody? */
static bool
address_is_private(const struct sockaddr *address)
{
	uint32		ipv4;

	if (as_ipv4(address, &ipv4))
		return ipv4_is_special(ipv4) || address_is_own(address);
	return address->sa_family != AF_INET6 ||
		ipv6_is_special(((const struct sockaddr_in6 *) address)->sin6_addr.s6_addr) || address_is_own(address);
}

/* --- what libcurl calls back; nothing here may throw --- */

static curl_socket_t
open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	HttpRequest *request = arg;
	int			fd;

	if (!request->allow_private && address_is_private(&address->addr))
	{
		strlcpy(request->refused, "the address is private, a loopback's or this machine's own, and the server's option allow_private is not set",
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

/*
 * A request is about to be sent. libcurl sends it again by itself when a connection that
 * was used before is lost without an answer, or when the server says that it has not
 * looked at it (GOAWAY, REFUSED_STREAM): most servers close connections that are idle, or
 * have served long enough, and the receiver knows what it had already. The attempt was
 * counted before the first time, which holds for these few, too.
 */
static int
about_to_send(void *arg, char *their_address, char *our_address, int their_port, int our_port)
{
	HttpRequest *request = arg;

	return request->sent++ < MAX_SENT ? CURL_PREREQFUNC_OK : CURL_PREREQFUNC_ABORT;
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
	/* else it looks names up where it is called */
	if ((curl_version_info(CURLVERSION_NOW)->features & CURL_VERSION_ASYNCHDNS) == 0)
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
#if LIBCURL_VERSION_NUM >= 0x075700
	curl_easy_setopt(easy, CURLOPT_CA_CACHE_TIMEOUT, CA_CACHE);
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

/*
 * What is in the file of the endpoint's authorities now: libcurl would keep what it has
 * read of a file of that name, and wait for one that is none. Connections that were made
 * with others are not used. False, with request->error: it cannot be read.
 */
static bool
set_authority(HttpRequest *request, CURL *easy, const char *path)
{
	int			fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	const char *wrong = NULL;
	struct curl_blob blob = {.flags = CURL_BLOB_COPY};
	struct stat st;
	ssize_t		got;

	if (fd < 0 || fstat(fd, &st) != 0)
		wrong = strerror(errno);
	else if (!S_ISREG(st.st_mode) || st.st_size > MAX_CA_FILE)
		wrong = "it is not a regular file, or too large";
	else if ((blob.data = malloc(st.st_size + 1)) == NULL)
		wrong = "out of memory";
	else
	{
		while ((got = read(fd, (char *) blob.data + blob.len, st.st_size - blob.len)) > 0)
			blob.len += got;
		if (blob.len == 0)
			wrong = "it is empty";
		else if (curl_easy_setopt(easy, CURLOPT_CAINFO_BLOB, &blob) != CURLE_OK)
			wrong = "out of memory";
		curl_easy_setopt(easy, CURLOPT_CAINFO, NULL);
		curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
	}
	free(blob.data);
	if (fd >= 0)
		close(fd);
	if (wrong != NULL)
		snprintf(request->error, sizeof(request->error), "could not read the file that sslrootcert names: %s", wrong);
	return wrong == NULL;
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
	if (endpoint->sslrootcert != NULL && !set_authority(request, easy, endpoint->sslrootcert))
	{
		free_headers(request);
		curl_easy_cleanup(easy);
		return false;
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
	request->deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout);
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

/*
 * Was it left unprocessed, as far as can be known? libcurl sends again by itself what
 * was refused, and what was lost on a connection that was idle. This is about the other
 * streams of a connection that is lost, or ended by GOAWAY: of those nothing has come, and
 * the connection was not made for them.
 */
static bool
was_left(HttpRequest *request, CURLcode code)
{
	long		connections = 1;

	if (request->header_size > 0 || request->sent >= MAX_SENT || GetCurrentTimestamp() >= request->deadline)
		return false;
	curl_easy_getinfo(request->easy, CURLINFO_NUM_CONNECTS, &connections);
	/* a stream that was closed without an error, whose answer libcurl has not read */
	if (code == CURLE_HTTP2_STREAM && request->error[0] == '\0')
		return true;
	return code == CURLE_HTTP2 ||
		((code == CURLE_HTTP2_STREAM || code == CURLE_PARTIAL_FILE) && connections == 0 &&
		 strstr(request->error, "before end of the underlying stream") != NULL);
}

/* Send it again, at once. False: that cannot be. */
static bool
send_again(HttpRequest *request)
{
	CURLM	   *multi = multis[request->allow_private];

	curl_multi_remove_handle(multi, request->easy);
	request->error[0] = '\0';
	curl_easy_setopt(request->easy, CURLOPT_TIMEOUT_MS,
					 Max((long) TimestampDifferenceMilliseconds(GetCurrentTimestamp(), request->deadline), 1L));
	return curl_multi_add_handle(multi, request->easy) == CURLM_OK;
}

/*
 * A server may answer before it has read the whole body, and read no more of it (RFC 9113,
 * 8.1): to go on sending fails then, and the answer stands. A stream that was reset with
 * an error, or an answer that is not complete, is none.
 */
static bool
answered_early(HttpRequest *request, CURLcode code)
{
	curl_off_t	length = -1;

	if (request->status < 200 || (code != CURLE_HTTP2_STREAM && code != CURLE_SEND_ERROR) ||
		strstr(request->error, "not closed cleanly") != NULL)
		return false;
	curl_easy_getinfo(request->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
	return length == (curl_off_t) request->received || (length < 0 && (code == CURLE_HTTP2_STREAM || request->status == 204));
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
	if (code == CURLE_OK || (code == CURLE_WRITE_ERROR && request->cut) || answered_early(request, code))
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
		if (was_left(request, code) && send_again(request))
			continue;
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
