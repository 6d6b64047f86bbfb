/*
 * batch.c
 *		What a delivery has read from the log, and how far that has been delivered.
 *
 * A batch is read whole, and delivered whole or message by message. The position
 * behind what is over is written down a few times a second, or with the messages
 * that failed, in one transaction.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "core/fault.h"
#include "core/override.h"
#include "core/shmem.h"
#include "msg/undelivered.h"
#include "storage/proc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker/delivery.h"
#include "worker/dispatch.h"
#include "worker/worker.h"

#define RECORD_LOCK_TIMEOUT	100		/* ms */

/* --- positions --- */

void
delivery_set_error(Delivery *delivery, const char *error)
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

void
delivery_save(Delivery *delivery)
{
	DTX_FAULT_POINT("dispatch-before-save");
	worker_begin();
	setting_override(&LockTimeout, RECORD_LOCK_TIMEOUT);
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

/* Is it still subscribed to what was read? Else that may have been published since, and
 * goes with the delivery, which somebody else has yet to hear of. */
static bool
is_subscribed(Delivery *delivery)
{
	Subscription *now = subscription_now(delivery->subscription);

	/* it keeps then what it has read */
	if (now != NULL)
		delivery->subscription->paused = now->paused;
	return now != NULL;
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
	if (batch->messages != NIL && !is_subscribed(delivery))
	{
		batch->messages = NIL;
		delivery->look = false;
		dispatch_reload();
	}
	else if (batch->messages != NIL)
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
	if (delivery->look_waiting && delivery->subscription->ordered)
		(void) undelivered_release_waiting(delivery->subscription);
	batch->messages = undelivered_due(delivery->subscription, delivery->subscription->batch_size);
	prepare_outcomes(batch);
	if (batch->messages == NIL)
		delivery->retry_at = undelivered_next(delivery->subscription);
	worker_commit(false);
	delivery->look_retries = delivery->look_waiting = false;
	return batch->messages != NIL;
}

static bool
retries_are_due(Delivery *delivery, TimestampTz now)
{
	return delivery->look_retries || (delivery->retry_at != 0 && now >= delivery->retry_at);
}

bool
delivery_may_have_batch(Delivery *delivery)
{
	TimestampTz now = GetCurrentTimestamp();

	return delivery->batches[0].messages != NIL || delivery->batches[1].messages != NIL ||
		retries_are_due(delivery, now) || (delivery->look && now >= delivery->gather_until);
}

/* Have something in the current batch. False: there is nothing to deliver. */
bool
delivery_have_batch(Delivery *delivery)
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
void
delivery_read_ahead(Delivery *delivery)
{
	Batch	   *next = &delivery->batches[1 - delivery->current];

	if (next->messages != NIL || reader_at_end(delivery->reader) || retries_are_due(delivery, GetCurrentTimestamp()))
		return;
	empty_batch(next);
	(void) read_batch(delivery, next);
}

/* Which messages wait for others of their key is known only now: when all before them
 * are over. */
void
delivery_examine(Delivery *delivery)
{
	Batch	   *batch = &delivery->batches[delivery->current];

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

/* --- the outcome of a batch --- */

/*
 * The first n messages of the current batch are over, as their outcomes say: write
 * down what failed, with the position behind them, or let the position wait.
 */
void
delivery_over(Delivery *delivery, int n)
{
	Batch	   *batch = &delivery->batches[delivery->current];
	bool		whole = n == list_length(batch->messages);
	bool		recorded = batch->retried;
	int			done = 0;
	List	   *over;
	MemoryContext old;

	for (int i = 0; i < n; i++)
	{
		/* for whom it waits may be gone when that is written */
		delivery->look_waiting |= batch->handled[i].skipped;
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
		/* what follows may have to wait for what has just failed */
		batch->examined = false;
		DTX_FAULT_POINT("dispatch-before-record");
		worker_begin();
		MemoryContextSwitchTo(worker.turn);
		/* somebody may be at these rows: then it fails, and is tried again */
		setting_override(&LockTimeout, RECORD_LOCK_TIMEOUT);
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

		/* once may be a stall; where it goes on, fewer and larger calls are cheaper */
		if (!batch->retried && size >= GATHER_MESSAGES && size < delivery->subscription->batch_size)
			delivery->many++;
		else
			delivery->many = 0;
		if (delivery->many > 1)
			delivery->gather_until = TimestampTzPlusMilliseconds(delivery->sent_at, GATHER_DELAY);
		empty_batch(batch);
		return;
	}
	old = MemoryContextSwitchTo(batch->context);
	batch->messages = list_copy_tail(batch->messages, n);
	memmove(batch->handled, batch->handled + n, list_length(batch->messages) * sizeof(Handled));
	MemoryContextSwitchTo(old);
}

void
delivery_pass(Delivery *delivery)
{
	Position	now_at = {0};

	reader_position(delivery->reader, &now_at);
	set_position(delivery, &now_at);
}
