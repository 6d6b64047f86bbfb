/*
 * http.h
 *		HTTP requests: many at once, in the worker, without waiting.
 *
 * libcurl's multi interface does them; its sockets are watched by an epoll set of
 * their own, whose descriptor the worker's loop waits for as for any other socket.
 */
#ifndef DTX_HTTP_H
#define DTX_HTTP_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "lib/ilist.h"
#include "net/endpoint.h"
#include "storage/latch.h"

#define HTTP_MAX_REQUESTS	128		/* at once, of all endpoints */
#define HTTP_ANSWER_KEPT	512		/* bytes of an answer's body */
#define HTTP_ERROR_SIZE		320

typedef struct HttpRequest
{
	dlist_node	node;			/* the caller's */
	void	   *easy;			/* CURL *, while it is under way */
	void	   *header_list;	/* struct curl_slist * */
	char	   *body;			/* UTF-8; palloc'd, freed with the request */
	Size		length;
	TimestampTz deadline;
	bool		allow_private;
	bool		own_ca;			/* the endpoint names its authority */
	/* the answer */
	bool		acknowledged;	/* 2xx */
	long		status;			/* 0: there was none */
	int64		retry_after;	/* ms; -1: it did not say */
	int			sent;			/* how often it was begun to be sent: see http.c */
	Size		received;		/* bytes of its body */
	Size		header_size;
	bool		local;			/* it failed for want of something here */
	bool		cut;			/* its body was too long: the rest was not read */
	char		error[HTTP_ERROR_SIZE];	/* why it was not acknowledged */
	char		refused[160];	/* why no socket was opened */
	int			answer_length;
	char		answer[HTTP_ANSWER_KEPT + 1];	/* the start of its body, any bytes */
} HttpRequest;

/*
 * Begin to POST. headers: char *, beside the endpoint's; timeouts in ms. The request
 * is palloc'd by the caller, and belongs to this until http_step returns it. False,
 * with request->error: it could not even begin, for want of something here (local), or
 * since the endpoint's options are wrong.
 */
extern bool http_start(HttpRequest *request, const Endpoint *endpoint, List *headers, int connect_timeout,
					   int timeout);

/* Do what can be done without waiting; call back with each request that is over. */
extern void http_step(void (*done) (HttpRequest *request));

/* How many are under way. */
extern int	http_active(void);

/* The descriptor to wait for to be readable, PGINVALID_SOCKET: none; and until when, at
 * most; 0: for ever. */
extern pgsocket http_socket(void);
extern TimestampTz http_due(void);

#endif							/* DTX_HTTP_H */
