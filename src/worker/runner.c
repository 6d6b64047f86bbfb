/*
 * runner.c
 *		Processes that run a role's functions in this database.
 *
 * Handlers of subscriptions without a server, and check functions of half messages,
 * are user code: the worker, which is a superuser's, must not call them. A process
 * of the role's own does, started when there is work and gone when there has been
 * none for a while. What a handler does and the position behind its messages commit
 * together.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "core/clock.h"
#include "core/compat.h"
#include "core/fault.h"
#include "core/leftover.h"
#include "core/override.h"
#include "core/relations.h"
#include "core/shared_here.h"
#include "core/shmem.h"
#include "guc.h"
#include "miscadmin.h"
#include "msg/care.h"
#include "msg/deliver.h"
#include "msg/half.h"
#include "msg/position.h"
#include "msg/undelivered.h"
#include "notify/reconcile.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "worker/dispatch.h"
#include "worker/worker.h"

#define END_GRACE		1000	/* ms from when it is cancelled until it is ended */

/* What the process before this one was at when it ended. */
static int	died_in = 0;
static int	died_batch = 0;
static int64 died_message = 0;

/* A subscription whose messages are handled here. */
typedef struct Local
{
	MemoryContext context;
	MemoryContext place;		/* child: of the next two */
	Subscription *subscription;
	Position   *position;
	Reader	   *reader;
	int			failures;
	TimestampTz not_before;
	TimestampTz saved_at;		/* when the position was written last */
	int			singles;		/* so many messages are to be taken one by one */
	Care		care;			/* and these, after a crash */
	int64		suspect;		/* the transaction that handled this one alone failed */
	char		suspect_state[6];
	const char *suspect_why;
} Local;

static List *locals = NIL;		/* in TopMemoryContext */
static Runner *mine = NULL;
static DatabaseSlot *worker_slot = NULL;
static MemoryContext turn;

static void
suspect_message(Local *local, int64 message, const char *state, const char *why)
{
	local->suspect = message;
	strlcpy(local->suspect_state, state, sizeof(local->suspect_state));
	local->suspect_why = MemoryContextStrdup(local->context, why);
}

/* The role's subscriptions as they are now; those that have not changed keep their
 * reader. */
static void
load_locals(Oid role)
{
	List	   *former = locals;
	ListCell   *cell;
	MemoryContext old;

	locals = NIL;
	foreach(cell, subscriptions_read())
	{
		Subscription *s = lfirst(cell);
		Local	   *local = NULL;
		ListCell   *other;

		if (OidIsValid(s->server) || s->handler == NULL || s->role != role || s->paused)
			continue;
		foreach(other, former)
			if (subscription_is_same(((Local *) lfirst(other))->subscription, s))
				local = lfirst(other);
		if (local == NULL)
		{
			MemoryContext context = AllocSetContextCreate(TopMemoryContext, "dtx subscription", ALLOCSET_DEFAULT_SIZES);
			int64		ended_with;

			old = MemoryContextSwitchTo(context);
			local = palloc0(sizeof(Local));
			local->context = context;
			local->place = AllocSetContextCreate(context, "dtx position", ALLOCSET_DEFAULT_SIZES);
			local->subscription = subscription_copy(s);
			ended_with = care_begin(s, &local->care);
			if (ended_with != 0)
				suspect_message(local, ended_with, unpack_sql_state(ERRCODE_CRASH_SHUTDOWN),
								"the server ended while it was handled");
			if (died_in == s->id)
			{
				local->singles = died_batch;
				suspect_message(local, died_message, unpack_sql_state(ERRCODE_CRASH_SHUTDOWN),
								"the process that handled it has ended");
				died_in = 0;
			}
			MemoryContextSwitchTo(old);
		}
		else
			former = list_delete_ptr(former, local);
		old = MemoryContextSwitchTo(TopMemoryContext);
		locals = lappend(locals, local);
		MemoryContextSwitchTo(old);
	}
	foreach(cell, former)
		MemoryContextDelete(((Local *) lfirst(cell))->context);
	list_free(former);
}

/* Where it stands, with a row to write that to. */
static void
find_position(Local *local)
{
	MemoryContext old;
	Position   *position;
	bool		moved;

	MemoryContextReset(local->place);
	old = MemoryContextSwitchTo(local->place);
	position = position_read(local->subscription->id);

	local->position = position_to_go_on(local->subscription, position, &moved);
	if (position == NULL)
		position_insert(local->position);
	else if (moved)
		position_update(local->position);
	local->reader = reader_open(local->subscription, local->position, local->place);
	MemoryContextSwitchTo(old);
}

/* The position is where the reader is. */
static void
follow_reader(Local *local)
{
	MemoryContext old = MemoryContextSwitchTo(local->place);

	passed_free(local->position->passed);
	if (local->position->upto != NULL)
		passed_free(local->position->upto);
	reader_position(local->reader, local->position);
	MemoryContextSwitchTo(old);
}

/* Only other messages went by: that is written down once in a while, or the log
 * would be kept for this one. */
static void
refresh_position(Local *local)
{
	if (local->reader->passed->xmin <= local->position->passed->xmin ||
		GetCurrentTimestamp() < TimestampTzPlusMilliseconds(local->saved_at, dispatch_refresh_delay()))
		return;
	follow_reader(local);
	position_update(local->position);
	local->saved_at = GetCurrentTimestamp();
}

/*
 * Handle messages so that the next process knows which they were, should this one
 * end in the middle: it takes them one by one, and one with which it ends alone has
 * had its attempt.
 */
static Handled *
handle_in_sight(Local *local, List *messages)
{
	Subscription *s = local->subscription;
	int64		only = list_length(messages) == 1 ? ((Message *) linitial(messages))->id : 0;
	int64		twice = messages_twice(messages);
	TransactionId xid = GetTopTransactionId();
	Handler    *handler;
	Handled    *handled;

	if (twice != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("message " INT64_FORMAT " is in the log twice", twice)));
	if (only != 0 && only == local->suspect)
	{
		handled = palloc0(sizeof(Handled));
		handled->state = pstrdup(local->suspect_state);
		handled->message = pstrdup(local->suspect_why);
		handled->retry_after = -1;
		local->suspect = 0;
		return handled;
	}
	handler = handler_lookup(s->handler, HANDLES_MESSAGES);
	SpinLockAcquire(&worker_slot->mutex);
	mine->batch_of = s->id;
	mine->batch_size = list_length(messages);
	mine->message = only;
	mine->batch_xid = xid;
	SpinLockRelease(&worker_slot->mutex);
	return handle_messages(handler, messages, s->ordered);
}

/* The batch is over. state: its transaction failed, with some message to blame; that
 * one is found by taking them one by one. */
static void
out_of_sight(Local *local, const char *state, const char *why)
{
	if (state != NULL && mine->batch_of != 0 && mine->message != 0)
		suspect_message(local, mine->message, state, why);
	else if (state != NULL && mine->batch_of != 0)
		local->singles = mine->batch_size + 1;
	SpinLockAcquire(&worker_slot->mutex);
	mine->batch_of = 0;
	mine->failures = 0;
	SpinLockRelease(&worker_slot->mutex);
	if (local->singles > 0)
		local->singles--;
}

/* Is the next message, of the log or of those that are due again, to be taken alone? */
static bool
takes_alone(const Local *local, bool retried)
{
	return local->singles > 0 || (retried ? local->care.retried : local->care.fresh) > 0;
}

/*
 * Write down which message is handled next, in a transaction of its own. It is read
 * again by the one that handles it: the position is as it was.
 */
static void
claim_next(Local *local)
{
	Subscription *s = local->subscription;
	List	   *messages;
	bool		retried = true;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(turn);
	local->care.claimed = 0;
	if (subscription_try_lock(s->uid))
	{
		find_position(local);
		messages = undelivered_due(s, 1);
		if (messages == NIL)
		{
			retried = false;
			messages = reader_next(local->reader, 1, BATCH_BYTES);
		}
		if (messages != NIL && (retried ? local->care.retried : local->care.fresh) > 0 &&
			((Message *) linitial(messages))->id != local->suspect)
			care_claim(s, &local->care, ((Message *) linitial(messages))->id);
		local->position = NULL;
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(turn);
}

/* May these be handled now? Not where they are to be claimed first. */
static bool
may_handle(Local *local, List *messages, bool retried)
{
	int64		id = ((Message *) linitial(messages))->id;
	int			ended = 0;
	ListCell   *cell;

	/* what has ended a process once may end the server the next time */
	foreach(cell, messages)
		ended += retried && ((Message *) lfirst(cell))->ended;
	if (ended > 0)
		local->care.retried = Max(local->care.retried, list_length(messages));
	return (retried ? local->care.retried : local->care.fresh) == 0 ||
		(list_length(messages) == 1 && (id == local->care.claimed || id == local->suspect));
}

/*
 * One batch: messages, what the handler does, and the position, in one transaction.
 * True: there may be more.
 */
static bool
run_batch(Local *local)
{
	Subscription *s = local->subscription;
	Subscription *now;
	List	   *messages;
	Handled    *handled;
	bool		retried = true;
	bool		careful;
	int			done;
	int			i = 0;
	ListCell   *cell;

	if (!subscription_try_lock(s->uid))
		return false;
	messages = undelivered_due(s, takes_alone(local, true) ? 1 : s->batch_size);
	if (messages == NIL)
	{
		retried = false;
		messages = reader_next(local->reader, takes_alone(local, false) ? 1 : s->batch_size, BATCH_BYTES);
	}
	if (messages == NIL && s->ordered && undelivered_release_waiting(s) > 0)
		return true;
	if (messages == NIL)
	{
		refresh_position(local);
		return false;
	}
	/* what was published after it had ended, or was paused, is not handled */
	now = subscription_now(s);
	if (now == NULL || now->paused)
	{
		/* its handler is not called now */
		if (now != NULL && local->care.claimed != 0)
			care_release(s, &local->care, false, false);
		local->position = NULL;
		return false;
	}
	if (!may_handle(local, messages, retried))
	{
		/* it is read again, from the row */
		local->position = NULL;
		return true;
	}
	careful = (retried ? local->care.retried : local->care.fresh) > 0;
	handled = palloc0(list_length(messages) * sizeof(Handled));
	if (s->ordered && !retried)
		undelivered_mark_waiting(s, messages, handled);
	{
		List	   *callable = NIL;
		Handled    *outcomes;
		int			n = 0;

		foreach(cell, messages)
			if (!handled[i++].skipped)
				callable = lappend(callable, lfirst(cell));
		DTX_FAULT_POINT("runner-before-handling");
		outcomes = handle_in_sight(local, callable);
		DTX_FAULT_POINT("runner-after-handling");
		for (i = 0; i < list_length(messages); i++)
			if (!handled[i].skipped)
				handled[i] = outcomes[n++];
	}
	done = undelivered_record(s, messages, handled, retried);
	position_count(local->position, done);
	local->position->attempts = 0;
	local->position->next_attempt = 0;
	local->position->last_error = NULL;
	stat_add(STAT_MESSAGES_DELIVERED, done);
	stat_add(STAT_MESSAGES_HANDLED, done);
	if (!retried)
		follow_reader(local);
	position_update(local->position);
	local->saved_at = GetCurrentTimestamp();
	if (careful)
		care_release(s, &local->care, retried, true);
	return true;
}

/* It failed as a whole: for a deferred constraint, or since the handler is gone. The
 * position's row says why. */
static void
record_failure(Local *local, const char *why)
{
	local->failures++;
	local->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), backoff_delay(local->failures));
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	/* it may be gone, or moved */
	if (subscription_is_current(local->subscription))
	{
		/* its handler was not called */
		if (local->care.claimed != 0 && local->suspect == 0)
			care_release(local->subscription, &local->care, false, false);
		find_position(local);
		local->position->attempts = local->failures;
		local->position->next_attempt = local->not_before;
		local->position->last_error = MemoryContextStrdup(local->place, why);
		position_update(local->position);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
}

static bool
run_local(Local *local)
{
	char	   *volatile why = NULL;
	char	   *volatile state = NULL;
	volatile bool more = false;

	if (GetCurrentTimestamp() < local->not_before)
		return false;
	PG_TRY();
	{
		if (local->care.fresh > 0 || local->care.retried > 0)
			claim_next(local);
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		MemoryContextSwitchTo(turn);
		if (local->position == NULL)
			find_position(local);
		handling_limit_own();
		more = run_batch(local);
		PopActiveSnapshot();
		CommitTransactionCommand();
		handling_unlimit_own();
		local->failures = 0;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(turn);
		handling_unlimit_own();
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		MemoryContextSwitchTo(turn);
		if (error->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN)
			ReThrowError(error);
		state = pstrdup(unpack_sql_state(error->sqlerrcode));
		why = pstrdup(error->message);
	}
	PG_END_TRY();
	/* a turn that found nothing to do has committed nothing */
	if (why == NULL && more)
		DTX_FAULT_POINT("runner-after-commit");
	out_of_sight(local, state, why);
	if (why != NULL)
		record_failure(local, psprintf("%s: %s", state, why));
	MemoryContextReset(turn);
	return more;
}

static void
set_end(TimestampTz end_at)
{
	SpinLockAcquire(&worker_slot->mutex);
	mine->end_at = end_at;
	SpinLockRelease(&worker_slot->mutex);
}

/*
 * A function of a table's owner may hang, and it is not this role's. It is ended as a
 * handler is; should it catch that, the process is.
 */
static bool
roll_back_shared(Oid role, TimestampTz *next)
{
	int			timeout = guc_call_timeout > 0 ? guc_call_timeout : HANDLE_TIMEOUT;
	bool		more;

	set_end(TimestampTzPlusMilliseconds(GetCurrentTimestamp(), (int64) timeout + END_GRACE));
	handling_limit_own();
	more = shared_rollback_here(role, next);
	handling_unlimit_own();
	set_end(0);
	return more;
}

/* Everything there is to do. Returns when there will be more; 0: not by itself. */
static TimestampTz
run_all(Oid role)
{
	TimestampTz due = 0;
	TimestampTz next;
	TimestampTz expected;
	TimestampTz rollback;
	ListCell   *cell;
	bool		more;

	do
	{
		more = false;
		/* what was paused, moved or ended meanwhile goes no further */
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		load_locals(role);
		PopActiveSnapshot();
		CommitTransactionCommand();
		foreach(cell, locals)
			more |= run_local(lfirst(cell));
		/* one at a time: messages come in between, however long each takes */
		more |= half_message_check(role, &next);
		more |= expectation_check(role, &expected);
		/* last: a process that does not survive it has done the rest */
		more |= roll_back_shared(role, &rollback);
		CHECK_FOR_INTERRUPTS();
		/* others wait for the process slot; what is left is the next one's */
	} while (more && !mine->turn_over);
	due = earlier(earlier(next, expected), rollback);
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	foreach(cell, locals)
	{
		Local	   *local = lfirst(cell);

		next = undelivered_next(local->subscription);
		if (next != 0)
			due = earlier(due, Max(next, local->not_before));
		if (local->failures > 0)
			due = earlier(due, local->not_before);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_stat(false);
	return due;
}

static void
runner_exit(int code, Datum arg)
{
	DatabaseSlot *slot = (DatabaseSlot *) DatumGetPointer(arg);

	SpinLockAcquire(&slot->mutex);
	mine->latch = NULL;
	mine->pid = 0;
	mine->end_at = 0;
	if (code != 0)
	{
		mine->wanted = true;
		mine->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), runner_restart_delay(Max(mine->failures - 1, 0)));
	}
	if (!mine->wanted && mine->due_at == 0)
		mine->role = InvalidOid;
	SpinLockRelease(&slot->mutex);
	ConditionVariableBroadcast(&slot->changed);
	launcher_wake();
}

/* Take the place that the worker has made for this role's runner. */
static void
take_place(DatabaseSlot *slot, Oid role)
{
	TransactionId died_xid = InvalidTransactionId;

	SpinLockAcquire(&slot->mutex);
	for (int i = 0; i < DTX_RUNNERS; i++)
		if (slot->runners[i].role == role && slot->runners[i].latch == NULL)
			mine = &slot->runners[i];
	if (mine != NULL)
	{
		mine->pid = MyProcPid;
		mine->latch = &MyProc->procLatch;
		mine->turn_over = false;
		mine->started_at = GetCurrentTimestamp();
		died_in = mine->batch_of;
		died_batch = mine->batch_size;
		died_message = mine->message;
		died_xid = mine->batch_xid;
		mine->batch_of = 0;
	}
	SpinLockRelease(&slot->mutex);
	if (mine == NULL)
		proc_exit(0);
	before_shmem_exit(runner_exit, PointerGetDatum(slot));
	/* it ended when that was done and recorded: nothing failed */
	if (died_in != 0 && TransactionIdDidCommit(died_xid))
		died_in = 0;
}

/* Leave, unless somebody has just asked for more; the launcher starts another one
 * when something is due. */
static void
leave_if_idle(DatabaseSlot *slot, TimestampTz due)
{
	bool		wanted;

	SpinLockAcquire(&slot->mutex);
	wanted = mine->wanted && slot->holds == 0;
	if (!wanted)
	{
		mine->latch = NULL;
		mine->due_at = due;
	}
	SpinLockRelease(&slot->mutex);
	if (!wanted)
		proc_exit(0);
}

void
dtx_runner_main(Datum arg)
{
	RunnerArgs	args;
	DatabaseSlot *slot;
	TimestampTz last_work = GetCurrentTimestamp();

	memcpy(&args, MyBgworkerEntry->bgw_extra, sizeof(args));
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(args.database, args.role, 0);
	settings_of_process(true);
	session_lend_always();
	slot = database_slot_find(args.database, false);
	if (slot == NULL)
		proc_exit(0);
	take_place(slot, args.role);
	worker_slot = slot;
	turn = AllocSetContextCreate(TopMemoryContext, "dtx runner's turn", ALLOCSET_DEFAULT_SIZES);

	for (;;)
	{
		TimestampTz due;
		long		timeout;
		bool		worked;

		/* another one begins anew, with what is in tables */
		if (clock_was_set_back())
		{
			SpinLockAcquire(&slot->mutex);
			mine->wanted = true;
			SpinLockRelease(&slot->mutex);
			proc_exit(0);
		}
		SpinLockAcquire(&slot->mutex);
		worked = mine->wanted;
		mine->wanted = false;
		mine->due_at = 0;
		SpinLockRelease(&slot->mutex);
		MemoryContextSwitchTo(turn);
		due = run_all(args.role);
		MemoryContextReset(turn);
		mine->failures = 0;
		mine->not_before = 0;
		if (mine->turn_over)
		{
			SpinLockAcquire(&slot->mutex);
			mine->wanted = true;
			SpinLockRelease(&slot->mutex);
			proc_exit(0);
		}
		if (worked)
			last_work = GetCurrentTimestamp();
		if (slot->holds > 0 || slot->runners_yield ||
			(guc_worker_idle_timeout > 0 &&
			 GetCurrentTimestamp() >= TimestampTzPlusMilliseconds(last_work, guc_worker_idle_timeout)))
			leave_if_idle(slot, due);
		timeout = guc_worker_idle_timeout > 0 ? guc_worker_idle_timeout : -1;
		if (due != 0)
			timeout = timeout < 0 ? deadline_remaining(due) : Min(timeout, deadline_remaining(due));
		pgstat_report_activity(STATE_IDLE, NULL);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (timeout >= 0 ? WL_TIMEOUT : 0),
						 timeout, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
	}
}
