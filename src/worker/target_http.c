/*
 * target_http.c
 *		Notifying an HTTP endpoint: the request, and what its answer means.
 */
#include "postgres.h"

#include <time.h>

#include "catalog/namespace.h"
#include "guc.h"
#include "mb/pg_wchar.h"
#include "msg/handler.h"
#include "net/remote.h"
#include "net/webhook.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker/target.h"
#include "worker/worker.h"

#define MAX_RETRY_AFTER		86400000	/* ms: nobody keeps us off for longer by Retry-After */
#define LOCAL_DELAY			1000		/* ms until it is tried again what failed for want of something here */
#define ANSWER_SHOWN		400			/* bytes */
#define STATUS_GONE			410
#define STATUS_TOO_MANY		429
#define STATUS_UNAVAILABLE	503

/* A text in UTF-8, palloc'd; NULL: it has none. No error: one notification that cannot be
 * sent is nobody else's matter. In a transaction. */
static char *
to_utf8(const char *text)
{
	int			length = strlen(text);
	int			encoding = GetDatabaseEncoding();
	Oid			conversion;
	char	   *result;

	if (encoding == PG_UTF8 || encoding == PG_SQL_ASCII)
		return pg_verify_mbstr(PG_UTF8, text, length, true) ? pstrdup(text) : NULL;
	conversion = FindDefaultConversionProc(encoding, PG_UTF8);
	if (!OidIsValid(conversion))
		return NULL;
	result = palloc_extended((Size) length * MAX_CONVERSION_GROWTH + 1, MCXT_ALLOC_HUGE);
	if (pg_do_encoding_conversion_buf(conversion, encoding, PG_UTF8, (unsigned char *) unconstify(char *, text), length,
									  (unsigned char *) result, length * MAX_CONVERSION_GROWTH + 1, true) != length)
		return NULL;
	return result;
}

/* The headers of the Standard Webhooks specification: the id is the same in every
 * attempt, the time is this one's. */
static List *
signed_headers(const Endpoint *endpoint, const HttpRequest *request, const char *id)
{
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

	char	   *sender = to_utf8(origin);
	char	   *tx_no = to_utf8(call->notification->tx_no);

	call->request.body = to_utf8(call->notification->payload);
	if (sender == NULL || tx_no == NULL || call->request.body == NULL)
	{
		call->notification->refused = true;
		call->notification->error = pstrdup("it has characters without an equivalent in UTF-8");
	}
	else
	{
		call->request.length = strlen(call->request.body);
		call->headers = signed_headers(call->endpoint->endpoint, &call->request, webhook_id(sender, tx_no));
	}
	MemoryContextSwitchTo(old);
}

/* That was no attempt, and not the endpoint's fault. */
static void
failed_here(Call *call)
{
	call->notification->error = call_text(call, call->request.error, HTTP_ERROR_SIZE);
	call->notification->postponed = true;
	call->notification->retry_after = LOCAL_DELAY;
}

void
target_http_start(Call *call)
{
	Endpoint   *endpoint = call->endpoint->endpoint;
	int			timeout = endpoint->timeout > 0 ? endpoint->timeout : guc_call_timeout > 0 ? guc_call_timeout : HANDLE_TIMEOUT;

	if (http_start(&call->request, endpoint, call->headers, guc_connect_timeout, timeout))
		return;
	if (call->request.local)
		failed_here(call);
	else
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
	int			most = target->endpoint == NULL ? 1 : target->endpoint->endpoint->max_requests;

	target->failed = !answered;
	target->window = answered ? Min(target->window + 1, most) : 1;
}

void
target_http_done(HttpRequest *request)
{
	Call	   *call = (Call *) ((char *) request - offsetof(Call, request));
	Target	   *target = call->target;
	Notification *n = call->notification;

	if (request->local && request->status == 0)
	{
		failed_here(call);
		call_over(call);
		return;
	}
	n->delivered = request->acknowledged;
	n->status = (int) request->status;
	adapt_window(target, request->status != 0);
	if (!n->delivered)
	{
		endpoint_redact(call->endpoint->endpoint, request->answer);
		endpoint_redact(call->endpoint->endpoint, request->error);
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
