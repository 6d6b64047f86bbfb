/*
 * http_loop.c
 *		The floor of the part notify: requests as dtx sends them, and nothing else.
 *
 *		http_loop URL CONNECTIONS REQUESTS
 *
 * POSTs with libcurl's multi interface over so many kept connections, one request on
 * each at a time, and prints how many seconds that took, and how many of CPU time.
 */
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>

#define MOST	128				/* connections */

static const char *const payload = "{\"order\": 123456, \"state\": \"paid\", \"amount\": 789}";
static const char *const headers[] = {
	"Content-Type: application/json",
	"Expect:",
	"webhook-id: bank1.0123456789abcdef:bench.0.123456",
	"webhook-timestamp: 1700000000",
	"webhook-signature: v1,AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
};

static CURLM *multi;
static int	epoll_fd;
static long timer = -1;			/* ms; -1: none */

static void
fail(const char *what)
{
	fprintf(stderr, "http_loop: %s\n", what);
	exit(1);
}

static size_t
ignore(char *data, size_t size, size_t count, void *arg)
{
	return size * count;
}

static int
watch_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *known)
{
	struct epoll_event event = {.data.fd = fd};

	if (what != CURL_POLL_OUT)
		event.events |= EPOLLIN;
	if (what != CURL_POLL_IN)
		event.events |= EPOLLOUT;
	if (what == CURL_POLL_REMOVE)
		(void) epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, NULL);
	else
		(void) epoll_ctl(epoll_fd, known != NULL ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event);
	curl_multi_assign(multi, fd, what == CURL_POLL_REMOVE ? NULL : (void *) headers);
	return 0;
}

static int
set_timer(CURLM *of, long timeout, void *arg)
{
	timer = timeout;
	return 0;
}

static CURL *
make_handle(const char *url, struct curl_slist *list)
{
	CURL	   *easy = curl_easy_init();

	if (easy == NULL)
		fail("out of memory");
	curl_easy_setopt(easy, CURLOPT_URL, url);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_PROXY, "");
	curl_easy_setopt(easy, CURLOPT_USERAGENT, "dtx/1.0 (PostgreSQL)");
	curl_easy_setopt(easy, CURLOPT_POST, 1L);
	curl_easy_setopt(easy, CURLOPT_POSTFIELDS, payload);
	curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, (long) strlen(payload));
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, list);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, ignore);
	return easy;
}

/* Take what is over, and begin the next ones. Returns how many were over. */
static long
renew(long *to_begin)
{
	CURLMsg    *message;
	long		over = 0;
	int			left;

	while ((message = curl_multi_info_read(multi, &left)) != NULL)
	{
		CURL	   *easy = message->easy_handle;
		CURLcode	code = message->data.result;
		long		status = 0;

		curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
		if (code != CURLE_OK)
			fail(curl_easy_strerror(code));
		if (status != 204)
			fail("the answer is not 204");
		over++;
		curl_multi_remove_handle(multi, easy);
		if (*to_begin > 0)
		{
			(*to_begin)--;
			curl_multi_add_handle(multi, easy);
		}
		else
			curl_easy_cleanup(easy);
	}
	return over;
}

static void
loop(const char *url, long connections, long requests)
{
	struct curl_slist *list = NULL;
	long		to_begin = requests;
	int			running;

	for (size_t i = 0; i < sizeof(headers) / sizeof(headers[0]); i++)
		list = curl_slist_append(list, headers[i]);
	multi = curl_multi_init();
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (multi == NULL || epoll_fd < 0)
		fail("could not begin");
	curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, watch_socket);
	curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, set_timer);
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long) MOST);
	for (long i = 0; i < connections && to_begin > 0; i++, to_begin--)
		curl_multi_add_handle(multi, make_handle(url, list));
	while (requests > 0)
	{
		struct epoll_event events[64];
		int			n = epoll_wait(epoll_fd, events, 64, timer < 0 ? 10000 : (int) timer);

		if (n <= 0 && timer < 0)
			fail("there is no answer");
		for (int i = 0; i < n; i++)
			curl_multi_socket_action(multi, events[i].data.fd,
									 (events[i].events & EPOLLIN ? CURL_CSELECT_IN : 0) |
									 (events[i].events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
									 (events[i].events & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0), &running);
		if (n == 0 || timer == 0)
		{
			timer = -1;
			curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &running);
		}
		requests -= renew(&to_begin);
	}
	curl_multi_cleanup(multi);
	curl_slist_free_all(list);
}

static double
seconds_of(struct timeval t)
{
	return t.tv_sec + t.tv_usec / 1e6;
}

int
main(int argc, char **argv)
{
	long		connections = argc == 4 ? atol(argv[2]) : 0;
	struct timespec start,
				end;
	struct rusage used;

	if (connections < 1 || connections > MOST || atol(argv[3]) < 1)
		fail("usage: http_loop URL CONNECTIONS REQUESTS");
	curl_global_init(CURL_GLOBAL_ALL);
	clock_gettime(CLOCK_MONOTONIC, &start);
	loop(argv[1], connections, atol(argv[3]));
	clock_gettime(CLOCK_MONOTONIC, &end);
	getrusage(RUSAGE_SELF, &used);
	printf("%.6f %.6f\n", (end.tv_sec - start.tv_sec) + (end.tv_nsec - start.tv_nsec) / 1e9,
		   seconds_of(used.ru_utime) + seconds_of(used.ru_stime));
	return 0;
}
