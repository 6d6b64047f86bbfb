/*
 * target_db.c
 *		Notifying another database: one call with a batch of results, to whose
 *		handler they go there.
 */
#include "postgres.h"

#include <limits.h>

#include "core/errors.h"
#include "guc.h"
#include "msg/handler.h"
#include "notify/receive.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker/target.h"
#include "worker/worker.h"

#define ANSWER_GRACE	10000	/* ms beyond the time that the receiver gives itself */
#define ERROR_SIZE		900

/* [id, topic, tx_no, notified_at, attempts before, payload], as in deliver.h */
static void
append_notification(StringInfo text, const Notification *n)
{
	appendStringInfo(text, "[" INT64_FORMAT ",\"\",", n->id);
	escape_json(text, n->tx_no);
	appendStringInfo(text, "," INT64_FORMAT ",%d,%s]", n->notified_at, n->attempts - 1, n->payload);
}

static void
send_batch(Target *target, const char *origin)
{
	Link	   *link = &target->link;
	int			timeout = guc_call_timeout > 0 ? guc_call_timeout : HANDLE_TIMEOUT;
	const char **values;
	StringInfoData text;
	dlist_iter	iter;
	MemoryContext old;

	(void) link_new_call(link, 1);
	old = MemoryContextSwitchTo(link->call_context);
	initStringInfo(&text);
	dlist_foreach(iter, &target->calls)
	{
		Call	   *call = dlist_container(Call, node, iter.cur);

		if (!call_is_open(call))
			continue;
		appendStringInfoChar(&text, text.len == 0 ? '[' : ',');
		append_notification(&text, call->notification);
	}
	appendStringInfoChar(&text, ']');
	values = palloc(RECEIVE_PARAMS * sizeof(char *));
	values[0] = pstrdup(origin);
	values[1] = psprintf("%d", timeout);
	values[2] = text.data;
	MemoryContextSwitchTo(old);
	link_set_statement(link, 0, RECEIVE_SQL, RECEIVE_PARAMS, values);
	link_start_call(link, timeout + ANSWER_GRACE);
	target->calling = true;
}

static void
fail(Target *target, const char *why)
{
	link_close(&target->link);
	target->calling = false;
	calls_failed(target, why);
}

void
target_db_start(Target *target, const char *origin)
{
	Link	   *link = &target->link;
	char	   *why;

	if (link->state == LINK_IDLE && link_is_stale(link))
		link_close(link);
	if (link->state == LINK_IDLE)
		send_batch(target, origin);
	else if (link->state == LINK_CLOSED && (why = link_connect(link)) != NULL)
		fail(target, why);
}

/* All but those that the answer names were applied, now or before. False: it is none. */
static bool
read_answer(Target *target, PGresult *result)
{
	dlist_iter	iter;

	for (int row = 0; row < PQntuples(result); row++)
	{
		int64		id = strtoll(PQgetvalue(result, row, 0), NULL, 10);
		Call	   *failed = NULL;

		dlist_foreach(iter, &target->calls)
			if (call_is_open(dlist_container(Call, node, iter.cur)) &&
				dlist_container(Call, node, iter.cur)->notification->id == id)
				failed = dlist_container(Call, node, iter.cur);
		if (failed == NULL)
			return false;
		failed->notification->error = call_text(failed, psprintf("%s: %s", remote_text(PQgetvalue(result, row, 1), 5),
																 remote_text(PQgetvalue(result, row, 2), ERROR_SIZE)), ERROR_SIZE);
		failed->notification->refused = strcmp(PQgetvalue(result, row, 1), DTX_REFUSED_STATE) == 0;
		if (!PQgetisnull(result, row, 3))
		{
			failed->notification->retry_after = Min(Max(strtoll(PQgetvalue(result, row, 3), NULL, 10), 0), INT_MAX);
			failed->notification->postponed = !failed->notification->refused;
		}
	}
	dlist_foreach(iter, &target->calls)
	{
		Call	   *call = dlist_container(Call, node, iter.cur);

		if (!call_is_open(call))
			continue;
		call->notification->delivered = call->notification->error == NULL;
		call_over(call);
	}
	return true;
}

/* The call failed as a whole. Where nothing was done, they are sent one by one, and that
 * was no attempt; where that is not certain, it was one. */
static void
call_failed(Target *target)
{
	RemoteCall *call = &target->link.call;
	char	   *why = MemoryContextStrdup(worker.turn, remote_error_text(call));
	bool		nothing_done = call->error != NULL && !call->broken;
	dlist_iter	iter;

	if (target->under_way > 1)
	{
		target->singles = target->under_way;
		dlist_foreach(iter, &target->calls)
		{
			Notification *n = dlist_container(Call, node, iter.cur)->notification;

			if (!call_is_open(dlist_container(Call, node, iter.cur)))
				continue;
			n->postponed = nothing_done;
			n->retry_after = nothing_done ? 0 : -1;
		}
	}
	fail(target, why);
}

void
target_db_step(Target *target, const char *origin)
{
	Link	   *link = &target->link;
	LinkState	before;

	do
	{
		char	   *why = NULL;

		before = link->state;
		switch (link_step(link, &why))
		{
			case LINK_READY:
				strlcpy(target->met, link->pc->peer_node, sizeof(target->met));
				if (target->under_way > 0)
					send_batch(target, origin);
				break;
			case LINK_ANSWERED:
				target->calling = false;
				if (link->call.broken || link->call.error != NULL)
					call_failed(target);
				else
				{
					bool		sane = remote_has_rows(&link->call, 0, 0, 4) && read_answer(target, link->call.results[0]);

					if (!sane)
						fail(target, "the peer gave an unexpected answer");
					else
					{
						target->singles = Max(target->singles - 1, 0);
						remote_free(&link->call);
					}
				}
				break;
			case LINK_TIMED_OUT:
			case LINK_FAILED:
				fail(target, why);
				break;
			case LINK_NOTHING:
				break;
		}
	} while (link->state != before);
}
