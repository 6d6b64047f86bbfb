/*
 * notifier.c
 *		Making attempts of notifications: what is due, how many at once, and what is
 *		written down when.
 *
 * In each turn one transaction records what came of attempts and claims new ones;
 * these are made when it is durable. An endpoint that hangs costs the others nothing:
 * each has a number of requests of its own, which grows with its answers and is one
 * while there are none.
 */
#include "postgres.h"

#include "core/fault.h"
#include "core/node.h"
#include "guc.h"
#include "net/remote.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker/dispatch.h"
#include "worker/notifier.h"
#include "worker/target.h"
#include "worker/worker.h"

#define DB_BATCH		200		/* results in a call to a database */
#define FAIL_BATCH		1000	/* that fail without a call, at once */
#define FAILED_MOST		(HTTP_MAX_REQUESTS / 2)	/* requests to endpoints that did not answer the last time */
#define RESERVE			(HTTP_MAX_REQUESTS / 8)	/* for those that have none under way */
#define SLOW			5000	/* ms without an answer until a target counts as one that does not */
#define DISCOVER_DELAY	1000	/* ms between looks for targets, at least */
#define LOOK_SHARE		20		/* of the time that a look takes, until the next one like it */
#define SOON			10		/* ms from a row's time to its commit, mostly */
#define LATE			500		/* ms, nearly always at most */
#define WIDE_DELAY		50		/* ms between looks for those, at least */
#define RECORD_AGAIN	100		/* ms until a row that was locked is tried again */
#define IDLE_CLOSE		60000	/* ms */
#define MAX_BYTES		(64 * 1024 * 1024)	/* of payloads that are under way */

static List *over = NIL;		/* Call *: to be recorded; in the worker's context */
static TimestampTz record_at = 0;	/* not before that: somebody has locked a row */
static Size bytes = 0;			/* of payloads of all calls */
static int	planned = 0;		/* requests that were claimed in this turn, and not begun yet */
static bool interrupted = true; /* the last turn did not come to its end */
static int	to_failed = 0;		/* requests under way to those that did not answer the last time */
static char origin[DTX_NODE_SIZE];
static uint32 seen[DTX_TARGET_BUCKETS];
static bool discover = true;	/* there may be targets that are not known */
static bool read_stops = true;
static TimestampTz discover_at = 0; /* not before that */

/* --- calls --- */

char *
call_text(Call *call, const char *text, int size)
{
	return MemoryContextStrdup(call->claim->context, remote_text(text, size));
}

void
call_over(Call *call)
{
	MemoryContext old = MemoryContextSwitchTo(worker.context);

	call->over = true;
	call->target->under_way--;
	call->target->last_end = GetCurrentTimestamp();
	over = lappend(over, call);
	record_at = 0;
	MemoryContextSwitchTo(old);
}

void
calls_failed(Target *target, const char *why)
{
	dlist_iter	iter;

	dlist_foreach(iter, &target->calls)
	{
		Call	   *call = dlist_container(Call, node, iter.cur);

		if (!call_is_open(call))
			continue;
		call->notification->error = call_text(call, why, HTTP_ERROR_SIZE);
		call_over(call);
	}
}

static void
free_call(Call *call)
{
	Claim	   *claim = call->claim;

	dlist_delete(&call->node);
	endpoint_drop(call->endpoint);
	bytes -= strlen(call->notification->payload);
	if (--claim->left == 0)
		MemoryContextDelete(claim->context);
}

/* --- what to claim --- */

/* When to take the next look like the one that began then: looks are a small part of the
 * time, however long they take. */
static TimestampTz
next_look(TimestampTz start, int least)
{
	TimestampTz now = GetCurrentTimestamp();

	return now + Max(least * INT64CONST(1000), LOOK_SHARE * (now - start));
}

/* Did it not answer the last time, or has it not for a while? */
static bool
has_failed(const Target *target)
{
	return target->endpoint != NULL &&
		(target->failed ||
		 (target->under_way > 0 && GetCurrentTimestamp() >= TimestampTzPlusMilliseconds(target->last_end, SLOW)));
}

static void
count_to_failed(void)
{
	dlist_iter	iter;

	to_failed = 0;
	dlist_foreach(iter, &targets)
		if (has_failed(dlist_container(Target, node, iter.cur)))
			to_failed += dlist_container(Target, node, iter.cur)->under_way;
}

/* Is there, as far as is known, something due for it? */
static bool
has_due(const Target *target, TimestampTz now)
{
	return target->look || (target->look_at != 0 && now >= target->look_at) ||
		(target->late && now >= target->wide_at) || (target->unsure && now >= target->full_at);
}

static bool
is_stopped(const Target *target, TimestampTz now)
{
	return target->disabled || now < target->not_before;
}

/* How many it can get now; 0: none. */
static int
room_for(const Target *target, TimestampTz now)
{
	int			room;
	int			free;
	int			share;

	if (is_stopped(target, now) || !has_due(target, now) || bytes >= MAX_BYTES)
		return 0;
	if (target->broken != NULL)
		return FAIL_BATCH;
	if (target->endpoint == NULL)
		return target->under_way > 0 ? 0 : target->singles > 0 ? 1 :
			(int) Min(DB_BATCH, Max(1, Min(BATCH_BYTES / Max(target->typical, 1), MAX_BYTES / ((Size) guc_max_message_size * 1024))));
	free = HTTP_MAX_REQUESTS - http_active() - planned;
	if (has_failed(target))
		return target->under_way > 0 ? 0 : Min(Min(1, free), FAILED_MOST - to_failed);
	/* whoever takes more than one leaves half of what is free, and a reserve, to others */
	share = Max(Min(free / 2, free - RESERVE), target->under_way == 0 ? Min(1, free) : 0);
	room = Min(target->window - target->under_way, share);
	/* a few at a time are cheaper than one by one */
	return room >= Max(1, Min(target->window / 4, share)) ? room : 0;
}

/* In the transaction of the turn. */
static void
claim(Target *target, int room, List **claims)
{
	TimestampTz start = GetCurrentTimestamp();
	bool		full = start >= target->full_at && target->unsure;
	bool		wide = start >= target->wide_at && target->late;
	TimestampTz from = full ? DT_NOBEGIN : target->from == DT_NOBEGIN ? DT_NOBEGIN :
		TimestampTzPlusMilliseconds(target->from, wide ? -LATE : -SOON);
	Size		size = 0;
	MemoryContext context = AllocSetContextCreate(worker.turn, "dtx claim", ALLOCSET_SMALL_SIZES);
	List	   *except = NIL;
	List	   *notifications;
	dlist_iter	iter;
	ListCell   *cell;
	Claim	   *claim;

	dlist_foreach(iter, &target->calls)
		except = lappend(except, dlist_container(Call, node, iter.cur)->notification);
	notifications = notifications_claim(target->key.server, target->key.role, from, start, except, room, context);
	if (full)
	{
		target->unsure = false;
		target->full_at = next_look(start, DISCOVER_DELAY);
	}
	if (full || wide)
	{
		target->late = false;
		target->wide_at = next_look(start, WIDE_DELAY);
	}
	target->look = list_length(notifications) == room;
	if (!target->look)
		target->look_at = notifications_next(target->key.server, target->key.role, from, list_concat_copy(except, notifications));
	/* what is due, and was not to be had, is locked by somebody */
	if (!target->look && target->look_at != 0 && target->look_at <= start)
		target->look_at = TimestampTzPlusMilliseconds(start, RECORD_AGAIN);
	if (notifications == NIL)
		return;
	claim = MemoryContextAllocZero(context, sizeof(Claim));
	claim->context = context;
	foreach(cell, notifications)
	{
		Call	   *call = MemoryContextAllocZero(context, sizeof(Call));

		call->target = target;
		call->claim = claim;
		call->notification = lfirst(cell);
		claim->left++;
		size = Max(size, strlen(call->notification->payload));
		if (target->endpoint != NULL)
		{
			call->endpoint = target->endpoint;
			target_http_prepare(call, origin);
		}
		*claims = lappend(*claims, call);
	}
	/* large ones may follow small ones */
	target->typical = Max(size, target->typical / 2);
	if (target->endpoint == NULL)
		return;
	planned += claim->left;
	if (has_failed(target))
		to_failed += claim->left;
}

/* What was due before the first of those that are called now, or that was just claimed,
 * is done with, but for what commits late. */
static void
move_on(Target *target, TimestampTz claimed)
{
	TimestampTz least = claimed;
	dlist_iter	iter;

	dlist_foreach(iter, &target->calls)
		least = Min(least, dlist_container(Call, node, iter.cur)->notification->due_at);
	target->from = least;
}

/* The transaction that has claimed it is durable: make the attempt. */
static void
start_call(Call *call)
{
	Target	   *target = call->target;

	dlist_push_tail(&target->calls, &call->node);
	if (target->under_way++ == 0)
		target->last_end = GetCurrentTimestamp();
	if (call->endpoint != NULL)
		call->endpoint->users++;
	bytes += strlen(call->notification->payload);
	if (call->notification->error != NULL)
		call_over(call);
	else if (notification_is_worn_out(call->notification))
	{
		call->notification->refused = true;
		call->notification->error = call_text(call, "what came of the last attempts is not known", HTTP_ERROR_SIZE);
		call_over(call);
	}
	else if (target->broken != NULL)
	{
		call->notification->error = call_text(call, target->broken, HTTP_ERROR_SIZE);
		call_over(call);
	}
	else if (call->endpoint != NULL)
		target_http_start(call);
}

/* --- turns --- */

void
notifier_reload(void)
{
	discover = read_stops = true;
	discover_at = 0;
	notifier_look();
}

void
notifier_look(void)
{
	dlist_iter	iter;

	discover = true;
	dlist_foreach(iter, &targets)
	{
		Target	   *target = dlist_container(Target, node, iter.cur);

		target->look = target->late = target->unsure = true;
	}
}

void
notifier_receive(void)
{
	http_step(target_http_done);
}

/* Which targets have been notified. */
static void
read_buckets(void)
{
	for (uint32 i = 0; i < DTX_TARGET_BUCKETS; i++)
	{
		uint32		count = pg_atomic_read_u32(&worker.slot->notified[i]);
		bool		known = false;
		dlist_iter	iter;

		if (count == seen[i])
			continue;
		seen[i] = count;
		worker.last_work = GetCurrentTimestamp();
		dlist_foreach(iter, &targets)
		{
			Target	   *target = dlist_container(Target, node, iter.cur);

			if (target->bucket != i)
				continue;
			known = target->look = target->late = target->unsure = true;
		}
		/* and there may be another one with the same hash */
		discover = true;
		if (!known)
			discover_at = 0;
	}
}

static bool
discovery_is_due(TimestampTz now)
{
	return discover && now >= discover_at;
}

/* The first of a target's calls that are under way. */
static const Call *
first_open(const Target *target)
{
	dlist_iter	iter;
	const Call *open = NULL;

	dlist_foreach(iter, unconstify(dlist_head *, &target->calls))
	{
		open = dlist_container(Call, node, iter.cur);
		if (!open->over)
			break;
	}
	return open;
}

/* What is there to be claimed by whom: a List of Target *, in the worker's turn. */
static List *
choose_targets(TimestampTz now)
{
	List	   *chosen = NIL;
	dlist_iter	iter;
	ListCell   *cell;

	count_to_failed();
	dlist_foreach(iter, &targets)
	{
		Target	   *target = dlist_container(Target, node, iter.cur);

		if (is_stopped(target, now) || !has_due(target, now))
			continue;
		if (!target->known)
			target_read_options(target);
		/* it was a database, or becomes one: what is under way has to end first */
		if (target->under_way > 0 && (target->endpoint == NULL) != (first_open(target)->endpoint == NULL))
			continue;
		if (room_for(target, now) > 0)
			chosen = lappend(chosen, target);
	}
	/* the others first, the next time: room may be scarce */
	foreach(cell, chosen)
	{
		dlist_delete(&((Target *) lfirst(cell))->node);
		dlist_push_tail(&targets, &((Target *) lfirst(cell))->node);
	}
	return chosen;
}

static List *
recordable(void)
{
	List	   *notifications = NIL;
	ListCell   *cell;

	foreach(cell, over)
		notifications = lappend(notifications, ((Call *) lfirst(cell))->notification);
	return notifications;
}

/* What was recorded is durable; what could not be comes again. */
static void
forget_recorded(void)
{
	List	   *former = over;
	ListCell   *cell;
	MemoryContext old = MemoryContextSwitchTo(worker.context);

	over = NIL;
	foreach(cell, former)
	{
		Call	   *call = lfirst(cell);

		if (!call->notification->recorded)
		{
			over = lappend(over, call);
			continue;
		}
		/* it may be due again, soon */
		call->target->look |= !call->notification->delivered;
		free_call(call);
	}
	list_free(former);
	MemoryContextSwitchTo(old);
	record_at = over == NIL ? 0 : TimestampTzPlusMilliseconds(GetCurrentTimestamp(), RECORD_AGAIN);
}

/* Record, and claim: Calls, in the worker's turn. */
static List *
run_transaction(List *chosen)
{
	List	   *claims = NIL;
	ListCell   *cell;
	TimestampTz now = GetCurrentTimestamp();

	bool		record = over != NIL && now >= record_at;

	if (record)
		DTX_FAULT_POINT("notify-after-answer");
	DTX_FAULT_POINT("notify-before-claim");
	planned = 0;
	worker_begin();
	MemoryContextSwitchTo(worker.turn);
	strlcpy(origin, node_origin(), sizeof(origin));
	if (record)
		notifications_record(recordable());
	foreach(cell, chosen)
	{
		Target	   *target = lfirst(cell);
		int			room = room_for(target, now);

		/* its options have changed just now: in the next turn */
		if (room > 0 && target->known)
			claim(target, room, &claims);
	}
	worker_commit_flushed();
	if (record)
	{
		DTX_FAULT_POINT("notify-after-record");
		forget_recorded();
	}
	return claims;
}

static void
start_calls(List *claims)
{
	ListCell   *cell;
	dlist_iter	iter;

	foreach(cell, claims)
	{
		Call	   *call = lfirst(cell);

		/* it lives for longer than this turn */
		MemoryContextSetParent(call->claim->context, worker.context);
		move_on(call->target, Min(call->notification->due_at, GetCurrentTimestamp()));
		start_call(call);
	}
	dlist_foreach(iter, &targets)
	{
		Target	   *target = dlist_container(Target, node, iter.cur);

		if (target->under_way > 0 && first_open(target)->endpoint == NULL && !target->calling)
			target_db_start(target, origin);
	}
}

static void
step_databases(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &targets)
	{
		Target	   *target = dlist_container(Target, node, iter.cur);
		Link	   *link = &target->link;

		if (link->state == LINK_IDLE && (link_is_stale(link) ||
										 GetCurrentTimestamp() >= TimestampTzPlusMilliseconds(link->last_used, IDLE_CLOSE)))
			link_close(link);
		else if (link->state != LINK_CLOSED)
			target_db_step(target, origin);
	}
}

void
notifier_step(void *arg)
{
	TimestampTz now = GetCurrentTimestamp();
	List	   *chosen;

	/* what was claimed then, and not begun, is due still */
	if (interrupted)
		notifier_look();
	interrupted = true;
	read_buckets();
	step_databases();
	if (discovery_is_due(now) || read_stops)
	{
		worker_begin();
		MemoryContextSwitchTo(worker.turn);
		if (discovery_is_due(now))
		{
			read_stops |= targets_discover();
			discover = false;
			discover_at = next_look(now, DISCOVER_DELAY);
		}
		if (read_stops)
			targets_read_stops();
		read_stops = false;
		worker_commit(false);
	}
	chosen = worker.leave_by != 0 ? NIL : choose_targets(now);
	if ((over != NIL && now >= record_at) || chosen != NIL)
	{
		List	   *claims = run_transaction(chosen);

		if (claims != NIL)
		{
			worker.last_work = now;
			DTX_FAULT_POINT("notify-after-claim");
			start_calls(claims);
		}
		/* requests are sent at once */
		notifier_receive();
	}
	planned = 0;
	interrupted = false;
}

TimestampTz
notifier_due(void)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz due = http_due();
	dlist_iter	iter;

	if (read_stops)
		return now;
	if (over != NIL)
		due = earlier(due, Max(record_at, 1));
	if (discover)
		due = earlier(due, Max(discover_at, 1));
	dlist_foreach(iter, &targets)
	{
		Target	   *target = dlist_container(Target, node, iter.cur);

		due = earlier(due, link_due(&target->link));
		if (target->link.state == LINK_IDLE)
			due = earlier(due, TimestampTzPlusMilliseconds(target->link.last_used, IDLE_CLOSE));
		if (target->disabled)
			continue;
		if (has_due(target, now))
		{
			/* what is under way makes room; and it wakes the worker */
			if (target->not_before > now)
				due = earlier(due, target->not_before);
			else if (!target->known || room_for(target, now) > 0)
				due = now;
			continue;
		}
		if (target->look_at != 0)
			due = earlier(due, Max(target->look_at, target->not_before));
		if (target->late)
			due = earlier(due, Max(target->wide_at, target->not_before));
		if (target->unsure)
			due = earlier(due, Max(target->full_at, target->not_before));
	}
	return due;
}

bool
notifier_is_calling(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &targets)
		if (!dlist_is_empty(&dlist_container(Target, node, iter.cur)->calls))
			return true;
	return over != NIL;
}

bool
notifier_is_idle(void)
{
	dlist_iter	iter;

	if (discover || read_stops || over != NIL)
		return false;
	dlist_foreach(iter, &targets)
	{
		Target	   *target = dlist_container(Target, node, iter.cur);

		if (!dlist_is_empty(&target->calls) ||
			(!is_stopped(target, GetCurrentTimestamp()) && (target->look || target->late || target->unsure)))
			return false;
	}
	return true;
}

TimestampTz
notifier_later(void)
{
	TimestampTz due = 0;
	dlist_iter	iter;

	dlist_foreach(iter, &targets)
	{
		Target	   *target = dlist_container(Target, node, iter.cur);

		if (target->disabled)
			continue;
		if (target->look || target->late || target->unsure)
			due = earlier(due, Max(target->not_before, 1));
		if (target->look_at != 0)
			due = earlier(due, Max(target->look_at, target->not_before));
	}
	return due;
}

Link *
notifier_next_link(void **iterator)
{
	dlist_node *node = *iterator;

	if (node == NULL ? dlist_is_empty(&targets) : !dlist_has_next(&targets, node))
		return NULL;
	node = node == NULL ? dlist_head_node(&targets) : dlist_next_node(&targets, node);
	*iterator = node;
	return &dlist_container(Target, node, node)->link;
}
