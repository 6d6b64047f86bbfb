/*
 * dispatch.c
 *		Delivering messages to peers.
 *
 * Each subscription has a connection of its own and one batch in flight; while the
 * peer is at it, the next one is read. How far it has got is written down a few
 * times a second, or when a message has failed: what was delivered since then
 * comes again after a crash, and the receiver knows it. The receiver forgets only
 * what the sender cannot send again, as its position says, durably.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "core/compat.h"
#include "core/fault.h"
#include "core/relations.h"
#include "core/settle.h"
#include "guc.h"
#include "msg/deliver.h"
#include "msg/half.h"
#include "msg/message.h"
#include "msg/position.h"
#include "msg/undelivered.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "worker/dispatch.h"
#include "worker/worker.h"

#define SAVE_DELAY		100		/* ms from a batch to its position's being written */
#define REFRESH_DELAY	10000	/* ms: the same where only other messages went by */
#define IDLE_CLOSE		60000	/* ms without a message until a connection is closed */
#define BATCH_BYTES		(4 * 1024 * 1024)
#define HANDLE_TIMEOUT	30000	/* ms for a batch, where dtx.call_timeout sets none */
#define ANSWER_GRACE	10000	/* ms beyond that until the connection is given up */
#define REPLICATION_POLL 20		/* ms between looks at a standby's progress */
#define PRUNE_INTERVAL	60000	/* ms */
#define GATHER_DELAY	3		/* ms from one batch to the next where many messages come */
#define GATHER_MESSAGES	4		/* where a batch has as many */
#define MAX_BREAKS		2		/* lost connections until a message is suspected */
#define BUSY_DELAY		5		/* ms until what was busy is tried again, doubling to 640 */

/* Messages that were read together, and where the position is after each. */
typedef struct Batch
{
	MemoryContext context;
	List	   *messages;		/* those that are still to be handled, in order */
	Handled    *handled;		/* one each; skipped: they wait for others of their key */
	bool		retried;		/* from dtx.undelivered, not from the log */
	bool		examined;		/* which have to wait */
	bool		fresh;			/* what was published after this process had begun to read */
	Position	window;			/* passed and upto of the window they are from */
	Position	after;			/* where the reader was when it had read them */
} Batch;

typedef struct Delivery
{
	dlist_node	node;
	MemoryContext context;		/* of all of this */
	Subscription *subscription;
	Position   *position;		/* as it is, and is written down now and then */
	bool		has_row;
	TimestampTz changed_at;		/* when it left what is written; 0: it has not */
	TimestampTz saved_at;
	XLogRecPtr	saved_lsn;		/* the last writing is durable when this is */
	int64		saved_batch;
	int64		last_sent;		/* number of the last batch sent */
	int64		forget;			/* batches up to this will never be sent again */
	Reader	   *reader;
	Link		connection;
	Batch		batches[2];
	int			current;		/* of these two */
	int			called;			/* messages of the current one in the call: a prefix */
	TimestampTz sent_at;		/* when the last one was sent */
	bool		certain;		/* what was written when this process started is durable */
	int64		unknown;		/* 0, or: what was in batches up to this one may have been
								 * handled, and is sent again */
	bool		catching_up;	/* what is read was there when this process started */
	int			singles;		/* so many are to be sent one by one */
	bool		look;			/* there may be new messages */
	TimestampTz retry_at;		/* when the first undelivered one is due; 0: none */
	bool		look_retries;	/* retry_at is not known */
	int			failures;		/* of the peer, in a row */
	int			busy;
	int			breaks;			/* calls in a row in which the connection was lost */
	bool		asks;			/* the call only asks what became of its message */
	TimestampTz not_before;
	TimestampTz gather_until;	/* more is coming than one by one: let it come together */
} Delivery;

static dlist_head deliveries = DLIST_STATIC_INIT(deliveries);
static List *local_roles = NIL; /* Oids of those with subscriptions in this database */
static bool loaded = false;
static uint64 seen = 0;			/* of the slot's count of published messages */
static uint64 seen_timed = 0;	/* and of its count of changes of due times */
static TimestampTz delayed_at = 0;	/* when the next delayed message is due; 0: none */
static bool look_delayed = true;
static TimestampTz checks_at = 0;	/* when the next half message is to be checked */
static bool look_checks = true;
static bool rotate = true;		/* segments are to be looked at */
static int	nsegments = 0;		/* as of the last look */

/* --- subscriptions --- */

static Delivery *
find_delivery(int subscription)
{
	dlist_iter	iter;

	dlist_foreach(iter, &deliveries)
	{
		Delivery   *delivery = dlist_container(Delivery, node, iter.cur);

		if (delivery->subscription->id == subscription)
			return delivery;
	}
	return NULL;
}

static void
forget_delivery(Delivery *delivery)
{
	dlist_delete(&delivery->node);
	link_close(&delivery->connection);
	MemoryContextDelete(delivery->connection.call_context);
	MemoryContextDelete(delivery->context);
}

static Position *
copy_position(const Position *position)
{
	Position   *copy = palloc(sizeof(Position));

	*copy = *position;
	copy->passed = passed_copy(position->passed);
	copy->upto = position->upto == NULL ? NULL : passed_copy(position->upto);
	copy->last_error = position->last_error == NULL ? NULL : pstrdup(position->last_error);
	return copy;
}

static void
add_delivery(const Subscription *subscription, const Position *position)
{
	MemoryContext context = AllocSetContextCreate(worker.context, "dtx subscription", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Delivery   *delivery = palloc0(sizeof(Delivery));

	delivery->context = context;
	delivery->subscription = subscription_copy(subscription);
	delivery->has_row = position != NULL;
	if (position == NULL || position->generation != subscription->generation)
	{
		delivery->position = position_at_start(subscription);
		if (position != NULL)
			delivery->position->tid = position->tid;
		delivery->changed_at = GetCurrentTimestamp();
	}
	else
		delivery->position = copy_position(position);
	delivery->saved_batch = delivery->last_sent = delivery->position->batch;
	delivery->saved_lsn = GetXLogInsertRecPtr();
	delivery->reader = reader_open(delivery->subscription, delivery->position, context);
	delivery->catching_up = true;
	delivery->look = delivery->look_retries = true;
	for (int i = 0; i < 2; i++)
		delivery->batches[i].context = AllocSetContextCreate(context, "dtx batch", ALLOCSET_DEFAULT_SIZES);
	link_init(&delivery->connection, subscription->server, subscription->role);
	dlist_push_tail(&deliveries, &delivery->node);
	MemoryContextSwitchTo(old);
}

void
dispatch_reload(void)
{
	loaded = false;
	look_checks = true;
}

/* Compare what is delivered with what is subscribed. */
static void
load(void)
{
	List	   *subscriptions;
	List	   *positions;
	ListCell   *cell;
	dlist_mutable_iter iter;
	MemoryContext old;

	loaded = true;
	worker_begin();
	MemoryContextSwitchTo(worker.turn);
	subscriptions = subscriptions_read();
	positions = positions_read();
	list_free(local_roles);
	local_roles = NIL;
	dlist_foreach_modify(iter, &deliveries)
	{
		Delivery   *delivery = dlist_container(Delivery, node, iter.cur);
		bool		stays = false;

		foreach(cell, subscriptions)
		{
			Subscription *s = lfirst(cell);

			if (s->id != delivery->subscription->id || s->generation != delivery->subscription->generation)
				continue;
			stays = true;
			if (delivery->subscription->paused && !s->paused)
			{
				delivery->not_before = 0;
				delivery->look = true;
			}
			delivery->subscription->paused = s->paused;
			delivery->look_retries = true;
		}
		if (!stays)
			forget_delivery(delivery);
	}
	foreach(cell, subscriptions)
	{
		Subscription *s = lfirst(cell);
		Position   *position = NULL;
		ListCell   *other;

		if (s->handler == NULL)
			continue;
		if (!OidIsValid(s->server))
		{
			old = MemoryContextSwitchTo(worker.context);
			local_roles = list_append_unique_oid(local_roles, s->role);
			MemoryContextSwitchTo(old);
			continue;
		}
		if (find_delivery(s->id) != NULL)
			continue;
		foreach(other, positions)
			if (((Position *) lfirst(other))->subscription == s->id)
				position = lfirst(other);
		add_delivery(s, position);
	}
	worker_commit(false);
	foreach(cell, local_roles)
		runner_wake(lfirst_oid(cell));
}

/* --- positions --- */

static void
set_error(Delivery *delivery, const char *error)
{
	if (delivery->position->last_error != NULL)
		pfree((char *) delivery->position->last_error);
	delivery->position->last_error = error == NULL ? NULL : MemoryContextStrdup(delivery->context, error);
}

/* Write it down. In a transaction. */
static void
write_position(Delivery *delivery)
{
	if (delivery->has_row)
		position_update(delivery->position);
	else
		position_insert(delivery->position);
}

/* The transaction that has written it down has committed. */
static void
note_saved(Delivery *delivery)
{
	delivery->has_row = true;
	delivery->changed_at = 0;
	delivery->saved_at = GetCurrentTimestamp();
	delivery->saved_batch = delivery->position->batch;
	delivery->saved_lsn = XactLastCommitEnd;
}

static void
save_position(Delivery *delivery)
{
	DTX_FAULT_POINT("dispatch-before-save");
	worker_begin();
	write_position(delivery);
	worker_commit(false);
	note_saved(delivery);
	DTX_FAULT_POINT("dispatch-after-save");
}

static void
set_position(Delivery *delivery, const Position *to)
{
	MemoryContext old = MemoryContextSwitchTo(delivery->context);
	Position   *position = delivery->position;

	passed_free(position->passed);
	if (position->upto != NULL)
		passed_free(position->upto);
	position->passed = passed_copy(to->passed);
	position->upto = to->upto == NULL ? NULL : passed_copy(to->upto);
	position->cursor = to->cursor;
	if (delivery->changed_at == 0)
		delivery->changed_at = GetCurrentTimestamp();
	MemoryContextSwitchTo(old);
}

/* --- batches --- */

static void
empty_batch(Batch *batch)
{
	MemoryContextReset(batch->context);
	batch->messages = NIL;
	batch->handled = NULL;
	batch->examined = false;
}

static void
prepare_outcomes(Batch *batch)
{
	batch->handled = palloc0(list_length(batch->messages) * sizeof(Handled));
}

/* What is delivered from here on was published since this process began to read: the
 * one before it cannot have sent it. */
static void
caught_up(Delivery *delivery)
{
	if (delivery->catching_up && delivery->unknown != 0)
	{
		delivery->unknown = 0;
		delivery->position->batch = delivery->last_sent;
		delivery->changed_at = GetCurrentTimestamp();
	}
	delivery->catching_up = false;
}

/* Fill an empty batch from the log. False: there is nothing. */
static bool
read_batch(Delivery *delivery, Batch *batch)
{
	Reader	   *reader = delivery->reader;

	DTX_FAULT_POINT("dispatch-before-read");
	worker_begin();
	MemoryContextSwitchTo(batch->context);
	batch->retried = false;
	batch->messages = reader_next(reader, delivery->subscription->batch_size, BATCH_BYTES);
	if (batch->messages != NIL)
	{
		batch->fresh = reader->fresh;
		reader_window(reader, &batch->window);
		reader_position(reader, &batch->after);
		prepare_outcomes(batch);
	}
	else
	{
		delivery->look = false;
		caught_up(delivery);
	}
	worker_commit(false);
	DTX_FAULT_POINT("dispatch-after-read");
	return batch->messages != NIL;
}

static bool
read_retries(Delivery *delivery, Batch *batch)
{
	worker_begin();
	MemoryContextSwitchTo(batch->context);
	batch->retried = true;
	batch->messages = undelivered_due(delivery->subscription, delivery->subscription->batch_size);
	prepare_outcomes(batch);
	if (batch->messages == NIL)
		delivery->retry_at = undelivered_next(delivery->subscription);
	delivery->look_retries = false;
	worker_commit(false);
	return batch->messages != NIL;
}

static bool
retries_are_due(Delivery *delivery, TimestampTz now)
{
	return delivery->look_retries || (delivery->retry_at != 0 && now >= delivery->retry_at);
}

/* Have something in the current batch. False: there is nothing to deliver. */
static bool
have_batch(Delivery *delivery)
{
	Batch	   *batch = &delivery->batches[delivery->current];
	Batch	   *next = &delivery->batches[1 - delivery->current];

	if (batch->messages != NIL)
		return true;
	empty_batch(batch);
	if (next->messages != NIL)
		delivery->current = 1 - delivery->current;
	else if (retries_are_due(delivery, GetCurrentTimestamp()) && read_retries(delivery, batch))
		delivery->look_retries = true;	/* there may be more */
	else if (!delivery->look || GetCurrentTimestamp() < delivery->gather_until || !read_batch(delivery, batch))
		return false;
	batch = &delivery->batches[delivery->current];
	if (!batch->retried && batch->fresh)
		caught_up(delivery);
	return true;
}

/* While the peer is busy: the one after this, if it is known to be there. What is
 * published meanwhile goes with what comes until it is answered. */
static void
read_ahead(Delivery *delivery)
{
	Batch	   *next = &delivery->batches[1 - delivery->current];

	if (next->messages != NIL || reader_at_end(delivery->reader) || retries_are_due(delivery, GetCurrentTimestamp()))
		return;
	empty_batch(next);
	(void) read_batch(delivery, next);
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
	delivery->failures++;
	delivery->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), backoff_delay(delivery->failures));
	delivery->position->attempts = delivery->failures;
	delivery->position->next_attempt = delivery->not_before;
	set_error(delivery, message);
	save_position(delivery);
}

static void
note_success(Delivery *delivery)
{
	if (delivery->failures > 0 || delivery->position->attempts > 0)
	{
		delivery->position->attempts = 0;
		delivery->position->next_attempt = 0;
		set_error(delivery, NULL);
	}
	delivery->failures = delivery->busy = delivery->breaks = 0;
}

/* --- the outcome of a batch --- */

/*
 * The first n messages of the current batch are over, as their outcomes say: write
 * down what failed, with the position behind them, or let the position wait.
 */
static void
messages_over(Delivery *delivery, int n)
{
	Batch	   *batch = &delivery->batches[delivery->current];
	bool		whole = n == list_length(batch->messages);
	bool		recorded = batch->retried;
	int			done = 0;
	List	   *over;
	MemoryContext old;

	for (int i = 0; i < n; i++)
	{
		recorded |= !batch->handled[i].done;
		done += batch->handled[i].done;
	}
	if (!batch->retried)
	{
		Position	middle = batch->window;

		middle.cursor = ((Message *) list_nth(batch->messages, n - 1))->id;
		set_position(delivery, whole ? &batch->after : &middle);
	}
	else if (delivery->changed_at == 0)
		delivery->changed_at = GetCurrentTimestamp();
	/* what was lost with an answer is in this batch; what was sent before this process
	 * started, in what it reads until it has caught up */
	if (whole && !delivery->catching_up)
		delivery->unknown = 0;
	/* nothing of what was in batches up to the last one is sent again from here on */
	if (delivery->unknown == 0)
		delivery->position->batch = delivery->last_sent;
	position_count(delivery->position, done);
	stat_add(STAT_MESSAGES_DELIVERED, done);
	if (recorded)
	{
		DTX_FAULT_POINT("dispatch-before-record");
		worker_begin();
		MemoryContextSwitchTo(worker.turn);
		over = list_truncate(list_copy(batch->messages), n);
		(void) undelivered_record(delivery->subscription, over, batch->handled, batch->retried);
		write_position(delivery);
		worker_commit(false);
		note_saved(delivery);
		delivery->look_retries = true;
		DTX_FAULT_POINT("dispatch-after-record");
	}
	if (whole)
	{
		int			size = list_length(batch->messages);

		if (!batch->retried && size >= GATHER_MESSAGES && size < delivery->subscription->batch_size)
			delivery->gather_until = TimestampTzPlusMilliseconds(delivery->sent_at, GATHER_DELAY);
		empty_batch(batch);
		return;
	}
	old = MemoryContextSwitchTo(batch->context);
	batch->messages = list_copy_tail(batch->messages, n);
	memmove(batch->handled, batch->handled + n, list_length(batch->messages) * sizeof(Handled));
	MemoryContextSwitchTo(old);
}

/* Does the state of an error speak of one message, and not of the whole delivery? */
static bool
blames_a_message(const char *state)
{
	static const char *const whole[] = {"08", "28", "3D", "42", "53", "54", "55", "57P", "58", "F0", "XX"};

	for (int i = 0; i < lengthof(whole); i++)
		if (strncmp(state, whole[i], strlen(whole[i])) == 0)
			return false;
	return true;
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

/* The call failed as a whole, and nothing of it was done. Which message it was is
 * found out by sending them one by one. */
static void
isolate_failure(Delivery *delivery, const char *state, const char *why)
{
	Batch	   *batch = &delivery->batches[delivery->current];
	int			sent = count_sent(delivery);

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
		messages_over(delivery, delivery->called);
	}
	else
		delivery->singles = sent;
	delivery->called = 0;
	/* the failed transaction may be open at the peer: a new connection is simpler */
	link_close(&delivery->connection);
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
		if (++delivery->busy > 3)
			delivery_failed(delivery, why);
		else
			remote_free(call);
		delivery->called = 0;
		return;
	}
	if (state == NULL || call->broken || strncmp(state, "57P", 3) == 0)
		connection_lost(delivery, why);
	else if (!blames_a_message(state))
		delivery_failed(delivery, why);
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
			Max(strtoll(PQgetvalue(result, row, 4), NULL, 10), 0);
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
	}
	else if (strcmp(outcome, DELIVER_OLD) == 0 &&
			 atoi(PQgetvalue(result, last, 3)) == delivery->position->generation)
	{
		/* it has got further than is known here */
		delivery->unknown = strtoll(PQgetvalue(result, last, 0), NULL, 10);
		delivery->last_sent = Max(delivery->last_sent, delivery->unknown);
	}
	else if (strcmp(outcome, DELIVER_OLD) == 0)
		delivery_failed(delivery, "the peer has received a later generation of this subscription; dtx_seek begins a new one");
	else if (strcmp(outcome, DELIVER_REFUSED) == 0)
		delivery_failed(delivery, psprintf("%s: %s", remote_text(PQgetvalue(result, last, 2), 5),
										   remote_text(PQgetvalue(result, last, 3), 900)));
	else if (strcmp(outcome, DELIVER_DELIVERED) == 0 && read_outcomes(delivery, result))
	{
		int			called = delivery->called;

		note_success(delivery);
		delivery->asks = false;
		delivery->called = 0;
		delivery->singles = Max(delivery->singles - 1, 0);
		messages_over(delivery, called);
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

/* Which messages wait for others of their key is known only now: when all before them
 * are over. */
static void
examine(Delivery *delivery, Batch *batch)
{
	if (batch->examined)
		return;
	batch->examined = true;
	if (!delivery->subscription->ordered || batch->retried)
		return;
	worker_begin();
	MemoryContextSwitchTo(worker.turn);
	undelivered_mark_waiting(delivery->subscription, batch->messages, batch->handled);
	worker_commit(false);
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

	examine(delivery, batch);
	(void) link_new_call(&delivery->connection, 1);
	old = MemoryContextSwitchTo(delivery->connection.call_context);
	initStringInfo(&text);
	foreach(cell, batch->messages)
	{
		if (!batch->handled[i].skipped)
		{
			if (delivery->singles > 0 && sent == 1)
				break;
			appendStringInfoChar(&text, sent++ == 0 ? '[' : ',');
			append_message(&text, lfirst(cell));
		}
		i++;
	}
	delivery->called = i;
	if (sent != 1)
		delivery->asks = false;
	if (sent == 0)
	{
		/* all wait for others */
		MemoryContextSwitchTo(old);
		delivery->called = 0;
		messages_over(delivery, i);
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
	return !delivery->subscription->paused && GetCurrentTimestamp() >= delivery->not_before &&
		position_is_certain(delivery);
}

static void
step(Delivery *delivery)
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
				if (may_start(delivery) && have_batch(delivery) && (why = link_connect(link)) != NULL)
					delivery_failed(delivery, why);
				break;
			case LINK_IDLE:
				if (link_is_stale(link) ||
					GetCurrentTimestamp() >= TimestampTzPlusMilliseconds(link->last_used, IDLE_CLOSE))
					link_close(link);
				else if (may_start(delivery) && have_batch(delivery))
				{
					send_batch(delivery);
					over = delivery->connection.state == LINK_IDLE;
				}
				break;
			default:
				switch (link_step(link, &why))
				{
					case LINK_READY:
						break;
					case LINK_ANSWERED:
						if (link->call.broken || link->call.error != NULL)
							call_failed(delivery);
						else
							batch_answered(delivery);
						break;
					case LINK_TIMED_OUT:
						delivery_failed(delivery, why);
						break;
					case LINK_FAILED:
						delivery_failed(delivery, why);
						break;
					case LINK_NOTHING:
						if (link->state == LINK_CALLING)
							read_ahead(delivery);
						break;
				}
				break;
		}
	} while (delivery->connection.state != before || over);
}

static void
step_time(TimestampTz now)
{
	if (look_delayed || (delayed_at != 0 && now >= delayed_at))
	{
		look_delayed = false;
		worker_begin();
		MemoryContextSwitchTo(worker.turn);
		delayed_at = message_release_delayed();
		worker_commit(false);
	}
	if (look_checks || (checks_at != 0 && now >= checks_at))
	{
		List	   *roles;
		ListCell   *cell;

		look_checks = false;
		worker_begin();
		MemoryContextSwitchTo(worker.turn);
		roles = half_messages_due(&checks_at);
		worker_commit(false);
		foreach(cell, roles)
			runner_wake(lfirst_oid(cell));
	}
}

void
dispatch_step(void)
{
	uint64		published = pg_atomic_read_u64(&worker.slot->published);
	uint64		timed = pg_atomic_read_u64(&worker.slot->timed);
	dlist_iter	iter;
	TimestampTz now;

	if (!loaded)
		load();
	if (published != seen)
	{
		ListCell   *cell;

		seen = published;
		rotate = true;
		dlist_foreach(iter, &deliveries)
			dlist_container(Delivery, node, iter.cur)->look = true;
		foreach(cell, local_roles)
			runner_wake(lfirst_oid(cell));
		worker.last_work = GetCurrentTimestamp();
	}
	if (timed != seen_timed)
	{
		seen_timed = timed;
		look_delayed = look_checks = true;
	}
	now = GetCurrentTimestamp();
	step_time(now);
	dlist_foreach(iter, &deliveries)
	{
		Delivery   *delivery = dlist_container(Delivery, node, iter.cur);

		step(delivery);
		if (delivery->changed_at != 0 &&
			GetCurrentTimestamp() >= TimestampTzPlusMilliseconds(delivery->changed_at, SAVE_DELAY))
			save_position(delivery);
	}
}

/* Could it do something about a new message now? */
static bool
is_listening(void)
{
	dlist_iter	iter;
	TimestampTz now = GetCurrentTimestamp();

	if (local_roles != NIL || !loaded)
		return true;
	dlist_foreach(iter, &deliveries)
	{
		Delivery   *delivery = dlist_container(Delivery, node, iter.cur);

		if (!delivery->subscription->paused && delivery->connection.state != LINK_CALLING &&
			now >= delivery->gather_until)
			return true;
	}
	return false;
}

bool
dispatch_listen(void)
{
	pg_atomic_write_u32(&worker.slot->listening, is_listening());
	/* who publishes after this sees it; what was published before is seen here */
	pg_memory_barrier();
	return is_listening() && pg_atomic_read_u64(&worker.slot->published) != seen;
}

/* Every transaction below it has been passed by all subscriptions. */
static uint64
passed_below(void)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	uint64		least = passed_now(snapshot)->xmin;
	List	   *positions = positions_read();
	ListCell   *cell;

	UnregisterSnapshot(snapshot);
	foreach(cell, subscriptions_read())
	{
		Subscription *s = lfirst(cell);
		Position   *position = position_at_start(s);
		ListCell   *other;

		foreach(other, positions)
			if (((Position *) lfirst(other))->subscription == s->id &&
				((Position *) lfirst(other))->generation == s->generation)
				position = lfirst(other);
		least = Min(least, position->passed->xmin);
	}
	return least;
}

int64
dispatch_refresh_delay(void)
{
	return Min(REFRESH_DELAY, guc_message_retention * INT64CONST(500));
}

/* Positions of subscriptions in this database are written by their roles' processes. */
static void
refresh_local(TimestampTz now)
{
	static TimestampTz last = 0;
	ListCell   *cell;

	if (nsegments < 2 || now < TimestampTzPlusMilliseconds(last, dispatch_refresh_delay()))
		return;
	last = now;
	foreach(cell, local_roles)
		runner_wake(lfirst_oid(cell));
}

void
dispatch_housekeeping(void)
{
	dlist_iter	iter;
	uint64		below;
	TimestampTz now = GetCurrentTimestamp();
	static TimestampTz pruned_at = 0;

	dlist_foreach(iter, &deliveries)
	{
		Delivery   *delivery = dlist_container(Delivery, node, iter.cur);
		Batch	   *batches = delivery->batches;

		/* prepared transactions that were committed by hand tell nobody */
		delivery->look = true;
		if (batches[0].messages == NIL && batches[1].messages == NIL && delivery->changed_at == 0 &&
			delivery->reader->passed->xmin > delivery->position->passed->xmin &&
			now >= TimestampTzPlusMilliseconds(delivery->saved_at, dispatch_refresh_delay()))
		{
			Position	now_at = {0};

			reader_position(delivery->reader, &now_at);
			set_position(delivery, &now_at);
		}
	}
	if (now >= TimestampTzPlusMilliseconds(pruned_at, PRUNE_INTERVAL))
	{
		pruned_at = now;
		worker_begin();
		deliver_prune();
		worker_commit(false);
	}
	if (!rotate)
		return;
	refresh_local(now);
	worker_begin();
	MemoryContextSwitchTo(worker.turn);
	below = passed_below();
	worker_commit(false);
	nsegments = segments_rotate(below);
	rotate = nsegments > 0;
}

static TimestampTz
earlier(TimestampTz a, TimestampTz b)
{
	return a == 0 ? b : b == 0 ? a : Min(a, b);
}

TimestampTz
dispatch_due(void)
{
	TimestampTz due = earlier(delayed_at, checks_at);
	dlist_iter	iter;

	if (!loaded || look_delayed || look_checks)
		return GetCurrentTimestamp();
	dlist_foreach(iter, &deliveries)
	{
		Delivery   *delivery = dlist_container(Delivery, node, iter.cur);

		due = earlier(due, link_due(&delivery->connection));
		if (delivery->changed_at != 0)
			due = earlier(due, TimestampTzPlusMilliseconds(delivery->changed_at, SAVE_DELAY));
		if (delivery->subscription->paused ||
			(delivery->connection.state != LINK_CLOSED && delivery->connection.state != LINK_IDLE))
			continue;
		if (delivery->batches[0].messages != NIL || delivery->batches[1].messages != NIL ||
			delivery->look || delivery->look_retries)
			due = earlier(due, Max(Max(delivery->not_before, delivery->gather_until), 1));
		else if (delivery->gather_until > GetCurrentTimestamp())
			due = earlier(due, delivery->gather_until);
		else if (delivery->retry_at != 0)
			due = earlier(due, Max(delivery->retry_at, delivery->not_before));
	}
	return due;
}

bool
dispatch_is_idle(void)
{
	dlist_iter	iter;

	if (!loaded || delayed_at != 0 || checks_at != 0)
		return false;
	dlist_foreach(iter, &deliveries)
	{
		Delivery   *delivery = dlist_container(Delivery, node, iter.cur);

		if (delivery->subscription->paused)
			continue;
		if (delivery->batches[0].messages != NIL || delivery->batches[1].messages != NIL ||
			delivery->retry_at != 0 || delivery->changed_at != 0)
			return false;
	}
	return true;
}

Link *
dispatch_next_link(void **iterator)
{
	dlist_node *node = *iterator;

	if (node == NULL ? dlist_is_empty(&deliveries) : !dlist_has_next(&deliveries, node))
		return NULL;
	node = node == NULL ? dlist_head_node(&deliveries) : dlist_next_node(&deliveries, node);
	*iterator = node;
	return &dlist_container(Delivery, node, node)->connection;
}
