/*
 * delivery.c
 *		Delivering one subscription's messages to a peer.
 *
 * It has a connection for as long as it is its turn, and one batch in flight; while the peer is at it,
 * the next one is read. What was delivered since the position was written down
 * comes again after a crash, and the receiver knows it. The receiver forgets only
 * what the sender cannot send again, as its position says, durably.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "core/compat.h"
#include "core/errors.h"
#include "core/fault.h"
#include "core/settle.h"
#include "core/shmem.h"
#include "guc.h"
#include "msg/deliver.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker/delivery.h"
#include "worker/dispatch.h"
#include "worker/worker.h"

#define IDLE_CLOSE		60000	/* ms without a message until a connection is closed */
#define ANSWER_GRACE	10000	/* ms beyond that until the connection is given up */
#define REPLICATION_POLL 20		/* ms between looks at a standby's progress */
#define CALL_BYTES		(8 * 1024 * 1024)	/* of text in a call, but for its last message */
#define MAX_BREAKS		2		/* lost connections until a message is suspected */
#define BUSY_DELAY		5		/* ms until what was busy is tried again, doubling to 640 */

Delivery *
delivery_new(const Subscription *subscription, const Position *position)
{
	MemoryContext context = AllocSetContextCreate(worker.context, "dtx subscription", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Delivery   *delivery = palloc0(sizeof(Delivery));
	bool		moved;

	delivery->context = context;
	delivery->subscription = subscription_copy(subscription);
	delivery->has_row = position != NULL;
	delivery->position = position_to_go_on(subscription, position, &moved);
	if (moved)
		delivery->changed_at = GetCurrentTimestamp();
	delivery->saved_batch = delivery->last_sent = delivery->position->batch;
	delivery->saved_lsn = GetXLogInsertRecPtr();
	delivery->reader = reader_open(delivery->subscription, delivery->position, context);
	delivery->catching_up = true;
	delivery->look = delivery->look_retries = delivery->look_waiting = true;
	for (int i = 0; i < 2; i++)
		delivery->batches[i].context = AllocSetContextCreate(context, "dtx batch", ALLOCSET_DEFAULT_SIZES);
	link_init(&delivery->connection, subscription->server, subscription->role);
	pool_join(delivery);
	MemoryContextSwitchTo(old);
	return delivery;
}

void
delivery_free(Delivery *delivery)
{
	link_close(&delivery->connection);
	pool_leave(delivery);
	MemoryContextDelete(delivery->connection.call_context);
	MemoryContextDelete(delivery->context);
}

/* --- failures of the peer --- */

static void
delivery_failed(Delivery *delivery, const char *why)
{
	char	   *message = MemoryContextStrdup(worker.turn, remote_text(why, 900));

	link_close(&delivery->connection);
	/* what became of the call is not known */
	if (delivery->called > 0)
		delivery->unknown = delivery->last_sent;
	delivery->called = 0;
	/* it may have been for this that a message failed alone */
	delivery->suspected = 0;
	delivery->failures++;
	delivery->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), backoff_delay(delivery->failures));
	delivery->position->attempts = delivery->failures;
	delivery->position->next_attempt = delivery->not_before;
	delivery_set_error(delivery, message);
	delivery_save(delivery);
}

static void
note_success(Delivery *delivery)
{
	if (delivery->failures > 0 || delivery->position->attempts > 0)
	{
		delivery->position->attempts = 0;
		delivery->position->next_attempt = 0;
		delivery_set_error(delivery, NULL);
	}
	delivery->position->refused = false;
	delivery->failures = delivery->busy = delivery->breaks = 0;
}

/* How many messages of the call were really sent: the others wait for others. */
static int
count_sent(Delivery *delivery)
{
	Batch	   *batch = &delivery->batches[delivery->current];
	int			n = 0;

	for (int i = 0; i < delivery->called; i++)
		n += !batch->handled[i].skipped;
	return n;
}

/*
 * The peer has not taken the call's number: the next call has the same. Were it
 * larger, a batch with it that a former process had sent, and that is still being
 * handled, would not be noticed as an answer "old".
 */
static void
number_not_used(Delivery *delivery)
{
	delivery->last_sent--;
	delivery->called = 0;
}

/*
 * The call failed as a whole, and nothing of it was done: by a deferred constraint for
 * example, which fails at the commit, or by what cannot be read there. Whatever the
 * error's state, it may speak of a message as well as of the peer. Which message it is,
 * is found out by sending them one by one; when one fails alone, a call without any
 * says whether it is the peer.
 */
static void
isolate_failure(Delivery *delivery, const char *state, const char *why)
{
	Batch	   *batch = &delivery->batches[delivery->current];
	int			sent = count_sent(delivery);
	int			called = delivery->called;

	number_not_used(delivery);
	if (sent == 1)
	{
		Handled    *handled = batch->handled;
		MemoryContext old = MemoryContextSwitchTo(batch->context);

		while (handled->skipped)
			handled++;
		handled->state = pstrdup(state);
		handled->message = pstrdup(why);
		handled->retry_after = -1;
		MemoryContextSwitchTo(old);
		delivery->suspected = called;
	}
	else
		delivery->singles = sent;
	/* the failed transaction may be open at the peer: a new connection is simpler */
	link_close(&delivery->connection);
}

/* The peer takes a call without messages: the one that failed alone has had its attempt. */
static void
suspicion_confirmed(Delivery *delivery)
{
	int			called = delivery->suspected;

	delivery->suspected = 0;
	note_success(delivery);
	delivery->singles = Max(delivery->singles - 1, 0);
	delivery_over(delivery, called);
}

/*
 * The connection was lost while messages were handled. Once, that is the peer's
 * matter; again and again, a message may be to blame that ends the process there:
 * each is sent alone then, and of one that loses the connection when it is alone
 * the peer is asked whether it was handled. If not, that was an attempt.
 */
static void
connection_lost(Delivery *delivery, const char *why)
{
	int			sent = count_sent(delivery);
	bool		asked = delivery->asks;

	delivery_failed(delivery, why);
	delivery->breaks++;
	delivery->asks = false;
	if (delivery->breaks < MAX_BREAKS || asked)
		return;
	if (sent > 1)
	{
		delivery->singles = sent;
		delivery->breaks = MAX_BREAKS - 1;
	}
	else
		delivery->asks = true;
}

static void
call_failed(Delivery *delivery)
{
	RemoteCall *call = &delivery->connection.call;
	const char *state = call->error == NULL ? NULL : PQresultErrorField(call->error, PG_DIAG_SQLSTATE);
	char	   *why = remote_error_text(call);

	if (call->error != NULL && remote_failed_on_statement(call))
	{
		/* nothing was done; say it again */
		number_not_used(delivery);
		if (++delivery->busy > 3)
			delivery_failed(delivery, why);
		else
			remote_free(call);
		return;
	}
	if (state == NULL || remote_session_ended(call))
	{
		if (delivery->suspected > 0)
			delivery_failed(delivery, why);
		else
			connection_lost(delivery, why);
	}
	else if (delivery->suspected > 0 || delivery->asks)
	{
		/* without a message to handle it fails, too */
		number_not_used(delivery);
		delivery_failed(delivery, why);
	}
	else
	{
		const char *primary = PQresultErrorField(call->error, PG_DIAG_MESSAGE_PRIMARY);

		isolate_failure(delivery, pstrdup(state), primary == NULL ? "" : remote_text(primary, 900));
	}
}

/* The rows of an answer into the outcomes. False: they are none. */
static bool
read_outcomes(Delivery *delivery, PGresult *result)
{
	Batch	   *batch = &delivery->batches[delivery->current];
	int			rows = PQntuples(result) - 1;

	for (int i = 0; i < delivery->called; i++)
		batch->handled[i].done = !batch->handled[i].skipped;
	for (int row = 0; row < rows; row++)
	{
		int64		id = strtoll(PQgetvalue(result, row, 0), NULL, 10);
		bool		skipped = strcmp(PQgetvalue(result, row, 1), DELIVER_SKIPPED) == 0;
		int			i;

		for (i = 0; i < delivery->called; i++)
			if (((Message *) list_nth(batch->messages, i))->id == id && batch->handled[i].done)
				break;
		if (i == delivery->called || (!skipped && strcmp(PQgetvalue(result, row, 1), DELIVER_FAILED) != 0))
			return false;
		batch->handled[i].done = false;
		batch->handled[i].skipped = skipped;
		batch->handled[i].state = MemoryContextStrdup(batch->context, remote_text(PQgetvalue(result, row, 2), 5));
		batch->handled[i].message = MemoryContextStrdup(batch->context, remote_text(PQgetvalue(result, row, 3), 900));
		batch->handled[i].retry_after = PQgetisnull(result, row, 4) ? -1 :
			Min(Max(strtoll(PQgetvalue(result, row, 4), NULL, 10), 0), PG_INT32_MAX);
	}
	return true;
}

static void
batch_answered(Delivery *delivery)
{
	RemoteCall *call = &delivery->connection.call;
	PGresult   *result = call->results[0];
	int			last;
	const char *outcome;

	DTX_FAULT_POINT("dispatch-after-send");
	if (!remote_has_rows(call, 0, 1, 5))
	{
		delivery_failed(delivery, "the peer gave an unexpected answer");
		return;
	}
	last = PQntuples(result) - 1;
	outcome = PQgetvalue(result, last, 1);
	if (strcmp(outcome, DELIVER_BUSY) == 0)
	{
		delivery->busy = Min(delivery->busy + 1, 8);
		delivery->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), BUSY_DELAY << (delivery->busy - 1));
		number_not_used(delivery);
	}
	else if (strcmp(outcome, DELIVER_OLD) == 0 &&
			 atoi(PQgetvalue(result, last, 3)) == delivery->position->generation)
	{
		/* it has got further than is known here */
		delivery->unknown = strtoll(PQgetvalue(result, last, 0), NULL, 10);
		delivery->last_sent = Max(delivery->last_sent, delivery->unknown);
	}
	else if (strcmp(outcome, DELIVER_OLD) == 0)
	{
		delivery->position->refused = true;
		delivery_failed(delivery, "the peer has received a later generation of this subscription; dtx_seek begins a new one");
	}
	else if (strcmp(outcome, DELIVER_REFUSED) == 0)
	{
		number_not_used(delivery);
		delivery->position->refused |= strcmp(PQgetvalue(result, last, 2), unpack_sql_state(ERRCODE_DTX_BRANCH_STATE)) == 0;
		delivery_failed(delivery, psprintf("%s: %s", remote_text(PQgetvalue(result, last, 2), 5),
										   remote_text(PQgetvalue(result, last, 3), 900)));
	}
	else if (strcmp(outcome, DELIVER_DELIVERED) == 0 && delivery->suspected > 0)
		suspicion_confirmed(delivery);
	else if (strcmp(outcome, DELIVER_DELIVERED) == 0 && read_outcomes(delivery, result))
	{
		int			called = delivery->called;

		note_success(delivery);
		delivery->asks = false;
		delivery->called = 0;
		delivery->singles = Max(delivery->singles - 1, 0);
		delivery_over(delivery, called);
	}
	else
		delivery_failed(delivery, "the peer gave an unexpected answer");
	delivery->called = 0;
	if (delivery->connection.state == LINK_IDLE)
		remote_free(call);
}

/* --- sending --- */

static void
append_message(StringInfo text, const Message *message)
{
	appendStringInfo(text, "[" INT64_FORMAT ",", message->id);
	escape_json(text, message->topic);
	appendStringInfoChar(text, ',');
	if (message->key == NULL)
		appendStringInfoString(text, "null");
	else
		escape_json(text, text_to_cstring(message->key));
	appendStringInfo(text, "," INT64_FORMAT ",%d,", message->published_at, message->attempts);
	(void) JsonbToCString(text, &message->payload->root, VARSIZE_ANY(message->payload));
	if (message->headers != NULL)
	{
		appendStringInfoChar(text, ',');
		(void) JsonbToCString(text, &message->headers->root, VARSIZE_ANY(message->headers));
	}
	appendStringInfoChar(text, ']');
}

static void
send_batch(Delivery *delivery)
{
	Subscription *subscription = delivery->subscription;
	Position   *position = delivery->position;
	Batch	   *batch = &delivery->batches[delivery->current];
	const char **values;
	StringInfoData text;
	ListCell   *cell;
	int			sent = 0;
	int			i = 0;
	int			timeout = guc_call_timeout > 0 ? guc_call_timeout : HANDLE_TIMEOUT;
	MemoryContext old;

	delivery_examine(delivery);
	(void) link_new_call(&delivery->connection, 1);
	old = MemoryContextSwitchTo(delivery->connection.call_context);
	initStringInfo(&text);
	foreach(cell, batch->messages)
	{
		if (delivery->suspected > 0)
			break;
		if (!batch->handled[i].skipped)
		{
			if (sent > 0 && (delivery->singles > 0 || text.len >= CALL_BYTES))
				break;
			appendStringInfoChar(&text, sent++ == 0 ? '[' : ',');
			append_message(&text, lfirst(cell));
		}
		i++;
	}
	delivery->called = i;
	if (sent != 1)
		delivery->asks = false;
	if (sent == 0 && delivery->suspected > 0)
		appendStringInfoChar(&text, '[');
	else if (sent == 0)
	{
		/* all wait for others */
		MemoryContextSwitchTo(old);
		delivery->called = 0;
		delivery_over(delivery, i);
		return;
	}
	appendStringInfoChar(&text, ']');
	/* what is written down durably is not sent again */
	if (durable_position() >= delivery->saved_lsn)
		delivery->forget = delivery->saved_batch;
	delivery->last_sent++;
	values = palloc(DELIVER_PARAMS * sizeof(char *));
	values[0] = psprintf(INT64_FORMAT, subscription->uid);
	values[1] = psprintf("%d", position->generation);
	values[2] = psprintf(INT64_FORMAT, delivery->last_sent);
	values[3] = psprintf(INT64_FORMAT, delivery->forget);
	values[4] = psprintf(INT64_FORMAT, delivery->unknown);
	values[5] = subscription->ordered ? "t" : "f";
	values[6] = psprintf("%d", timeout);
	values[7] = delivery->asks ? "" : subscription->handler;
	values[8] = text.data;
	MemoryContextSwitchTo(old);
	link_set_statement(&delivery->connection, 0, DELIVER_SQL, DELIVER_PARAMS, values);
	delivery->sent_at = GetCurrentTimestamp();
	DTX_FAULT_POINT("dispatch-before-send");
	/* the peer ends it by itself: then it is certain that nothing was done */
	link_start_call(&delivery->connection, timeout + ANSWER_GRACE);
}

/* --- steps --- */

/* What the row of dtx.position said when it was read: only when that is durable is it
 * certain from where on batches may be sent again. */
static bool
position_is_certain(Delivery *delivery)
{
	if (delivery->certain)
		return true;
	if (GetFlushRecPtr(NULL) < delivery->saved_lsn)
		XLogFlush(delivery->saved_lsn);
	if (durable_position() < delivery->saved_lsn)
	{
		/* a standby has to get there */
		delivery->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), REPLICATION_POLL);
		return false;
	}
	delivery->forget = delivery->saved_batch;
	delivery->certain = true;
	return true;
}

static bool
may_start(Delivery *delivery)
{
	return worker.leave_by == 0 && !delivery->subscription->paused && GetCurrentTimestamp() >= delivery->not_before &&
		position_is_certain(delivery);
}

bool
delivery_wants(Delivery *delivery)
{
	return may_start(delivery) && delivery_may_have_batch(delivery);
}

/* Have a connection, when there is something to send and one is to be had. */
static void
seek_connection(Delivery *delivery)
{
	char	   *why = NULL;

	if (!delivery_wants(delivery))
		pool_wait_no_more(delivery);
	else if (!pool_has_room(delivery))
		pool_wait(delivery);
	else if (!delivery_have_batch(delivery))
		pool_wait_no_more(delivery);
	else if ((why = link_refused(&delivery->connection)) != NULL)
		delivery_failed(delivery, why);
	else if (!pool_take(delivery, &why) && why == NULL)
		pool_wait(delivery);
	else if (why != NULL)
		delivery_failed(delivery, why);
}

void
delivery_step(Delivery *delivery)
{
	LinkState	before;
	bool		over;

	do
	{
		Link	   *link = &delivery->connection;
		char	   *why = NULL;

		over = false;
		before = link->state;
		switch (before)
		{
			case LINK_CLOSED:
				seek_connection(delivery);
				break;
			case LINK_IDLE:
				if (link_is_stale(link) ||
					GetCurrentTimestamp() >= TimestampTzPlusMilliseconds(link->last_used, IDLE_CLOSE))
					link_close(link);
				else if (pool_pass_on(delivery))
					break;
				else if (may_start(delivery) && delivery_have_batch(delivery) && (why = link_refused(link)) != NULL)
					delivery_failed(delivery, why);
				else if (may_start(delivery) && delivery_have_batch(delivery))
				{
					delivery->turn = false;
					send_batch(delivery);
					over = delivery->connection.state == LINK_IDLE;
				}
				else
				{
					/* there was nothing: it may be somebody else's turn */
					over = delivery->turn;
					delivery->turn = false;
				}
				break;
			default:
				switch (link_step(link, &why))
				{
					case LINK_READY:
						break;
					case LINK_ANSWERED:
						pool_call_over(delivery);
						if (link->call.broken || link->call.error != NULL)
							call_failed(delivery);
						else
							batch_answered(delivery);
						break;
					case LINK_TIMED_OUT:
						pool_call_over(delivery);
						delivery_failed(delivery, why);
						break;
					case LINK_FAILED:
						delivery_failed(delivery, why);
						break;
					case LINK_NOTHING:
						if (link->state == LINK_CALLING)
							delivery_read_ahead(delivery);
						break;
				}
				break;
		}
		if (delivery->connection.state != before || over)
			pool_changed();
	} while (delivery->connection.state != before || over);
}
