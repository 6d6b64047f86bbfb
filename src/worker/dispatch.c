/*
 * dispatch.c
 *		Delivering messages: which subscriptions there are, when there is something
 *		to do for them, and when delayed messages, checks and segments are due.
 */
#include "postgres.h"

#include "core/relations.h"
#include "guc.h"
#include "msg/deliver.h"
#include "msg/half.h"
#include "msg/message.h"
#include "msg/position.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "worker/delivery.h"
#include "worker/dispatch.h"
#include "worker/worker.h"

#define REFRESH_DELAY	10000	/* ms until a position is written where only other messages went by */
#define PRUNE_INTERVAL	60000	/* ms */

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
	delivery_free(delivery);
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
		dlist_push_tail(&deliveries, &delivery_new(s, position)->node);
	}
	worker_commit(false);
	foreach(cell, local_roles)
		runner_wake(lfirst_oid(cell));
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

		delivery_step(delivery);
		if (delivery->changed_at != 0 &&
			GetCurrentTimestamp() >= TimestampTzPlusMilliseconds(delivery->changed_at, SAVE_DELAY))
			delivery_save(delivery);
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
			delivery_pass(delivery);
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
