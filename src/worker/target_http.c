/*
 * target_http.c
 *		Notifying an HTTP endpoint: the request, and what its answer means.
 */
#include "postgres.h"

#include <time.h>

#include "guc.h"
#include "mb/pg_wchar.h"
#include "net/remote.h"
#include "net/webhook.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker/dispatch.h"
#include "worker/target.h"
#include "worker/worker.h"

#define MAX_RETRY_AFTER		86400000	/* ms: nobody keeps us off for longer by Retry-After */
#define ANSWER_SHOWN		400			/* bytes */
#define STATUS_GONE			410
#define STATUS_TOO_MANY		429
#define STATUS_UNAVAILABLE	503

static char *
to_utf8(const char *text)
{
	return pg_server_to_any(text, strlen(text), PG_UTF8);
}

/* The headers of the Standard Webhooks specification: the id is the same in every
 * attempt, the time is this one's. */
static List *
signed_headers(const Endpoint *endpoint, const HttpRequest *request, const char *origin, const char *tx_no)
{
	char	   *id = webhook_id(to_utf8(origin), to_utf8(tx_no));
	int64		timestamp = (int64) time(NULL);
	List	   *headers = list_make2(psprintf("webhook-id: %s", id), psprintf("webhook-timestamp: " INT64_FORMAT, timestamp));
	StringInfoData signatures;
	ListCell   *cell;

	if (endpoint->keys == NIL)
		return headers;
	initStringInfo(&signatures);
	appendStringInfoString(&signatures, "webhook-signature:");
	foreach(cell, endpoint->keys)
	{
		char		signature[WEBHOOK_SIGNATURE_SIZE];

		webhook_sign(lfirst(cell), id, timestamp, request->body, request->length, signature);
		appendStringInfo(&signatures, " %s", signature);
	}
	return lappend(headers, signatures.data);
}

void
target_http_prepare(Call *call, const char *origin)
{
	MemoryContext old = MemoryContextSwitchTo(call->claim->context);

	call->request.body = to_utf8(call->notification->payload);
	call->request.length = strlen(call->request.body);
	call->headers = signed_headers(call->target->endpoint, &call->request, origin, call->notification->tx_no);
	MemoryContextSwitchTo(old);
}

void
target_http_start(Call *call)
{
	Endpoint   *endpoint = call->target->endpoint;
	int			timeout = endpoint->timeout > 0 ? endpoint->timeout : guc_call_timeout > 0 ? guc_call_timeout : HANDLE_TIMEOUT;

	if (http_start(&call->request, endpoint, call->headers, guc_connect_timeout, timeout))
		return;
	call->notification->error = call_text(call, call->request.error, HTTP_ERROR_SIZE);
	call_over(call);
}

/* The whole target is to be left alone. */
static void
stop_target(Target *target, bool disable, TimestampTz not_before, const char *reason)
{
	target->disabled |= disable;
	target->not_before = Max(target->not_before, not_before);
	target->stop_changed = true;
	target->stop_reason = reason;
}

/* How many it gets at once: one until it has answered, and more with each answer. */
static void
adapt_window(Target *target, bool answered)
{
	int			most = target->endpoint == NULL ? 1 : target->endpoint->max_requests;

	target->failed = !answered;
	target->window = answered ? Min(target->window + 1, most) : 1;
}

void
target_http_done(HttpRequest *request)
{
	Call	   *call = (Call *) ((char *) request - offsetof(Call, request));
	Target	   *target = call->target;
	Notification *n = call->notification;

	n->delivered = request->acknowledged;
	n->status = (int) request->status;
	adapt_window(target, request->status != 0);
	if (!n->delivered)
	{
		if (target->endpoint != NULL)
		{
			endpoint_redact(target->endpoint, request->answer);
			endpoint_redact(target->endpoint, request->error);
		}
		n->error = call_text(call, request->error, HTTP_ERROR_SIZE);
		if (request->answer_length > 0)
			n->answer = call_text(call, request->answer, ANSWER_SHOWN);
	}
	if (request->status == STATUS_GONE)
		stop_target(target, true, 0, "HTTP status 410: it wants no more notifications");
	else if ((request->status == STATUS_TOO_MANY || request->status == STATUS_UNAVAILABLE) && request->retry_after >= 0)
	{
		n->retry_after = Min(request->retry_after, MAX_RETRY_AFTER);
		stop_target(target, false, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), n->retry_after),
					"it has asked for a pause, with Retry-After");
	}
	call_over(call);
}
