/*
 * accept.c
 *		Notifications that came over HTTP: verifying, and applying them.
 */
#include "postgres.h"

#include <limits.h>

#include "core/participant.h"
#include "core/shmem.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "net/webhook.h"
#include "notify/notification.h"
#include "notify/receive.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(dtx_verify);
PG_FUNCTION_INFO_V1(dtx_accept);

/* what other software than dtx has sent is told apart by its id, from sender */
#define OTHER_ORIGIN	"%s.webhook"
#define OTHER_SENDER	"webhook"

/* A header's value, palloc'd, whatever case its name is in; NULL: there is none, or two. */
static char *
header_value(Jsonb *headers, const char *name)
{
	JsonbIterator *it = JsonbIteratorInit(&headers->root);
	JsonbIteratorToken token;
	JsonbValue	v;
	char	   *value = NULL;
	bool		wanted = false;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			wanted = v.val.string.len == (int) strlen(name) && pg_strncasecmp(v.val.string.val, name, v.val.string.len) == 0;
		else if (token == WJB_VALUE && wanted)
		{
			if (value != NULL || v.type != jbvString)
				return NULL;
			value = pnstrdup(v.val.string.val, v.val.string.len);
		}
	}
	return value;
}

/* Digits only, as the specification has it. */
static bool
parse_timestamp(const char *text, int64 *timestamp)
{
	if (*text == '\0' || strlen(text) > 12 || strspn(text, "0123456789") != strlen(text))
		return false;
	*timestamp = strtoll(text, NULL, 10);
	return true;
}

/*
 * Why a request is not authentic, or NULL when it is; *id is its webhook-id. ERROR
 * 22023 for a secret or a tolerance that is none.
 */
static const char *
verify(text *payload, Jsonb *headers, const char *secret, const Interval *tolerance, char **id)
{
	List	   *keys = webhook_keys(secret);
	char	   *timestamp_text,
			   *signatures,
			   *raw = text_to_cstring(payload);
	char	   *body = pg_server_to_any(raw, strlen(raw), PG_UTF8);
	int64		timestamp;
	TimestampTz sent_at,
				now = GetCurrentTimestamp();

	if (keys == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("secret of a webhook is not valid"),
				 errdetail("It must be " WEBHOOK_SECRET_PREFIX " and 24 to 64 bytes in base64, or several such, 10 at most, with blanks between them.")));
	if (!JB_ROOT_IS_OBJECT(headers))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("headers of a request must be a JSON object")));
	*id = header_value(headers, "webhook-id");
	timestamp_text = header_value(headers, "webhook-timestamp");
	signatures = header_value(headers, "webhook-signature");
	if (*id == NULL || timestamp_text == NULL || signatures == NULL)
		return "It must have the headers webhook-id, webhook-timestamp and webhook-signature.";
	/* id.time.body is what is signed: where that could be split otherwise it proves nothing */
	if (strchr(*id, '.') != NULL)
		return "Its webhook-id has a dot.";
	if (!parse_timestamp(timestamp_text, &timestamp))
		return "Its webhook-timestamp is not a number of seconds.";
	if (!webhook_verify(keys, *id, timestamp, body, strlen(body), signatures))
		return "Its signature is not one of the secret's.";
	sent_at = time_t_to_timestamptz((pg_time_t) timestamp);
	if (sent_at < DatumGetTimestampTz(DirectFunctionCall2(timestamptz_mi_interval, TimestampTzGetDatum(now), IntervalPGetDatum(tolerance))) ||
		sent_at > DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(now), IntervalPGetDatum(tolerance))))
		return "Its webhook-timestamp is too far from the present time.";
	return NULL;
}

static void
refuse_nulls(FunctionCallInfo fcinfo, int from, int to)
{
	for (int i = from; i <= to; i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("payload, headers, secret and tolerance must not be null")));
}

/* dtx_verify(payload text, headers jsonb, secret text, tolerance interval) */
Datum
dtx_verify(PG_FUNCTION_ARGS)
{
	char	   *id;

	refuse_nulls(fcinfo, 0, 3);
	PG_RETURN_BOOL(verify(PG_GETARG_TEXT_PP(0), PG_GETARG_JSONB_P(1), text_to_cstring(PG_GETARG_TEXT_PP(2)),
						  PG_GETARG_INTERVAL_P(3), &id) == NULL);
}

/* Who has sent it, and the tx_no: as dtx writes both into the id, or the id itself.
 * sender: who must have; NULL: anybody. */
static void
read_id(const char *id, const char *sender, char **origin, char **tx_no)
{
	char	   *utf8_origin,
			   *utf8_tx_no;

	if (webhook_id_parse(id, &utf8_origin, &utf8_tx_no) &&
		pg_verify_mbstr(PG_UTF8, utf8_origin, strlen(utf8_origin), true) &&
		pg_verify_mbstr(PG_UTF8, utf8_tx_no, strlen(utf8_tx_no), true))
	{
		*origin = pg_any_to_server(utf8_origin, strlen(utf8_origin), PG_UTF8);
		*tx_no = pg_any_to_server(utf8_tx_no, strlen(utf8_tx_no), PG_UTF8);
		if (sender != NULL && !node_has_name(*origin, sender))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
					 errmsg("notification is not authentic"),
					 errdetail("It says that node \"%s\" has sent it.", *origin)));
	}
	else
	{
		*origin = psprintf(OTHER_ORIGIN, sender == NULL ? OTHER_SENDER : sender);
		*tx_no = pstrdup(id);
	}
	tx_no_check(*tx_no);
}

/* dtx_accept(payload text, headers jsonb, secret text, handler text, sender text, tolerance interval) */
Datum
dtx_accept(PG_FUNCTION_ARGS)
{
	Message		message = {0};
	const char *why;
	char	   *id,
			   *origin,
			   *tx_no;
	bool		applied;

	shmem_require();
	refuse_nulls(fcinfo, 0, 2);
	refuse_nulls(fcinfo, 5, 5);
	PreventCommandIfReadOnly("dtx_accept()");
	PreventCommandDuringRecovery("dtx_accept()");
	if (current_branch.active)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("notifications cannot be received inside a branch")));
	why = verify(PG_GETARG_TEXT_PP(0), PG_GETARG_JSONB_P(1), text_to_cstring(PG_GETARG_TEXT_PP(2)),
				 PG_GETARG_INTERVAL_P(5), &id);
	if (why != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				 errmsg("notification is not authentic"),
				 errdetail_internal("%s", why)));
	read_id(id, PG_ARGISNULL(4) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(4)), &origin, &tx_no);
	message.key = cstring_to_text(tx_no);
	message.payload = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text_to_cstring(PG_GETARG_TEXT_PP(0)))));
	message.published_at = GetCurrentTimestamp();
	applied = result_apply_one(PG_ARGISNULL(3) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(3)), origin, RECEIVED_HTTP, &message);
	PG_RETURN_TEXT_P(cstring_to_text(applied ? "applied" : "known"));
}
