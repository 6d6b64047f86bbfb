/*
 * dispatch.c
 *		Delivering messages: which subscriptions there are, when there is something
 *		to do for them, and when delayed messages, checks and segments are due.
 */
#include "postgres.h"

#include "core/locks.h"
#include "core/own_sql.h"
#include "core/relations.h"
#include "core/restricted.h"
#include "guc.h"
#include "msg/deliver.h"
#include "msg/half.h"
#include "msg/handler.h"
#include "msg/message.h"
#include "msg/position.h"
#include "notify/notification.h"
#include "notify/reconcile.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "worker/delivery.h"
#include "worker/dispatch.h"
#include "worker/notifier.h"
#include "worker/target.h"
#include "worker/worker.h"

#define REFRESH_DELAY	10000	/* ms until a position is written where only other messages went by */
#define PRUNE_INTERVAL	60000	/* ms */

dlist_head	deliveries = DLIST_STATIC_INIT(deliveries);
static List *local_roles = NIL; /* Oids of those with subscriptions in this database */
static bool mended = false;
static bool loaded = false;
static uint64 seen = 0;			/* of the slot's count of published messages */
static uint64 seen_timed = 0;	/* and of its count of changes of due times */
static TimestampTz delayed_at = 0;	/* when the next delayed message is due; 0: none */
static bool look_delayed = true;
static TimestampTz checks_at = 0;	/* when the next half message is to be checked, or result asked for */
static bool look_checks = true;
static bool rotate = true;		/* segments are to be looked at */
static int	nsegments = 0;		/* as of the last look */

static bool unserved = false;	/* a role has no place for a process */

static void
wake_runners(void)
{
	ListCell   *cell;

	unserved = false;
	foreach(cell, local_roles)
		unserved |= !runner_wake(lfirst_oid(cell));
}

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
	notifier_reload();
}

/*
 * What throws in here is that job's matter: it must not end the process, which
 * settles everybody's transactions. False: it has thrown, and *why says what, in
 * the worker's turn.
 */
static bool
guarded(void (*job) (void *arg), void *arg, char **why)
{
	volatile bool done = false;

	PG_TRY();
	{
		job(arg);
		done = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(worker.turn);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		MemoryContextSwitchTo(worker.turn);
		if (error->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN)
			ReThrowError(error);
		*why = psprintf("%s: %s", unpack_sql_state(error->sqlerrcode), error->message);
	}
	PG_END_TRY();
	return done;
}

/* A job that has failed waits a while. */
typedef struct Job
{
	void		(*run) (void *arg);
	const char *name;
	int			failures;
	TimestampTz not_before;
} Job;

static void
run_job(Job *job)
{
	char	   *why;

	if (GetCurrentTimestamp() < job->not_before)
		return;
	if (guarded(job->run, NULL, &why))
	{
		job->failures = 0;
		return;
	}
	job->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), backoff_delay(++job->failures));
	ereport(LOG,
			(errmsg("dtx could not %s", job->name),
			 errdetail_internal("%s", why)));
}

/* A subscription whose delivery failed here, not at the peer. */
typedef struct Broken
{
	int			subscription;
	int			failures;
	TimestampTz until;
} Broken;

static List *broken = NIL;		/* in the worker's context */

static Broken *
find_broken(int subscription)
{
	ListCell   *cell;

	foreach(cell, broken)
		if (((Broken *) lfirst(cell))->subscription == subscription)
			return lfirst(cell);
	return NULL;
}

static void
delivery_broken(Delivery *delivery, const char *why)
{
	int			id = delivery->subscription->id;
	Broken	   *entry = find_broken(id);
	MemoryContext old = MemoryContextSwitchTo(worker.context);

	if (entry == NULL)
	{
		entry = palloc0(sizeof(Broken));
		entry->subscription = id;
		broken = lappend(broken, entry);
	}
	MemoryContextSwitchTo(old);
	/* it has gone well for a while */
	if (GetCurrentTimestamp() >= TimestampTzPlusMilliseconds(entry->until, PRUNE_INTERVAL))
		entry->failures = 0;
	entry->until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), backoff_delay(++entry->failures));
	ereport(LOG,
			(errmsg("dtx could not deliver messages of subscription \"%s\"", delivery->subscription->name),
			 errdetail_internal("%s", why)));
	/* it begins anew, as after a restart */
	forget_delivery(delivery);
}

/* Rows of subscriptions that have ended, or were moved; those that somebody is at stay
 * until the next time. */
static void
clean_up(void *arg)
{
	OwnSql		sql;

	worker_begin();
	own_sql_begin(&sql);
	(void) own_sql("DELETE FROM dtx.undelivered WHERE ctid = ANY (ARRAY(SELECT u.ctid FROM dtx.undelivered u"
				   " WHERE NOT EXISTS (SELECT FROM dtx.subscription s WHERE s.id = u.subscription"
				   " AND s.generation = u.generation AND NOT pg_visible_in_snapshot(u.xid, s.start)) FOR UPDATE SKIP LOCKED))", 0, NULL, NULL, NULL);
	note_garbage(SPI_processed);
	(void) own_sql("DELETE FROM dtx.handling WHERE ctid = ANY (ARRAY(SELECT h.ctid FROM dtx.handling h"
				   " WHERE NOT EXISTS (SELECT FROM dtx.subscription s WHERE s.id = h.subscription)"
				   " FOR UPDATE SKIP LOCKED))", 0, NULL, NULL, NULL);
	(void) own_sql("DELETE FROM dtx.position WHERE ctid = ANY (ARRAY(SELECT p.ctid FROM dtx.position p"
				   " WHERE NOT EXISTS (SELECT FROM dtx.subscription s WHERE s.id = p.subscription)"
				   " FOR UPDATE SKIP LOCKED))", 0, NULL, NULL, NULL);
	own_sql_end(&sql);
	worker_commit(false);
}

static Job	cleaning = {clean_up, "remove what subscriptions have left"};

/* Compare what is delivered with what is subscribed. */
static void
load(void *arg)
{
	List	   *subscriptions;
	List	   *positions;
	ListCell   *cell;
	dlist_mutable_iter iter;
	MemoryContext old;

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

			if (!subscription_is_same(s, delivery->subscription))
				continue;
			stays = true;
			if (delivery->subscription->paused && !s->paused)
			{
				delivery->not_before = 0;
				delivery->look = true;
			}
			delivery->subscription->paused = s->paused;
			/* dead letters may be due, or gone */
			delivery->look_retries = delivery->look_waiting = true;
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
			/* dtx_subscriptions says so */
			if (!role_may_log_in(s->role))
				continue;
			old = MemoryContextSwitchTo(worker.context);
			local_roles = list_append_unique_oid(local_roles, s->role);
			MemoryContextSwitchTo(old);
			continue;
		}
		if (find_delivery(s->id) != NULL)
			continue;
		if (find_broken(s->id) != NULL && GetCurrentTimestamp() < find_broken(s->id)->until)
			continue;
		foreach(other, positions)
			if (((Position *) lfirst(other))->subscription == s->id)
				position = lfirst(other);
		dlist_push_tail(&deliveries, &delivery_new(s, position)->node);
	}
	worker_commit(false);
	loaded = true;
	wake_runners();
}

static Job	loading = {load, "read subscriptions"};

/* Is it time to try one again whose delivery failed? */
static bool
broken_is_due(void)
{
	TimestampTz now = GetCurrentTimestamp();
	ListCell   *cell;

	foreach(cell, broken)
		if (find_delivery(((Broken *) lfirst(cell))->subscription) == NULL && now >= ((Broken *) lfirst(cell))->until)
			return true;
	return false;
}

static void
release_delayed(void *arg)
{
	worker_begin();
	MemoryContextSwitchTo(worker.turn);
	delayed_at = message_release_delayed();
	worker_commit(false);
	look_delayed = false;
}

static void
look_for_checks(void *arg)
{
	List	   *roles;
	TimestampTz expected_at;
	ListCell   *cell;

	worker_begin();
	MemoryContextSwitchTo(worker.turn);
	roles = half_messages_due(&checks_at);
	roles = list_concat_unique_oid(roles, expectations_due(&expected_at));
	worker_commit(false);
	checks_at = earlier(checks_at, expected_at);
	look_checks = false;
	foreach(cell, roles)
		(void) runner_wake(lfirst_oid(cell));
}

static Job	releasing = {release_delayed, "release delayed messages"};
static Job	checking = {look_for_checks, "look for half messages to be checked, and for what is expected"};

static void
step_time(TimestampTz now)
{
	if (look_delayed || (delayed_at != 0 && now >= delayed_at))
		run_job(&releasing);
	if (look_checks || (checks_at != 0 && now >= checks_at))
		run_job(&checking);
}

/* Deliver, and write down how far that has got. */
static void
step(void *arg)
{
	Delivery   *delivery = arg;

	delivery_step(delivery);
	if (delivery->changed_at != 0 &&
		GetCurrentTimestamp() >= TimestampTzPlusMilliseconds(delivery->changed_at, SAVE_DELAY))
		delivery_save(delivery);
}

static Job	mending = {deadlines_mend, "set deadlines anew"};
static Job	notifying = {notifier_step, "send notifications"};
static Job	stopping = {targets_record_stops, "write down what targets of notifications say"};

void
dispatch_step(void)
{
	uint64		published = pg_atomic_read_u64(&worker.slot->published);
	uint64		timed = pg_atomic_read_u64(&worker.slot->timed);
	dlist_iter	iter;
	dlist_mutable_iter each;
	TimestampTz now;

	if (!mended)
	{
		run_job(&mending);
		mended = mending.failures == 0;
	}
	if (!loaded)
	{
		run_job(&loading);
		if (loaded)
			run_job(&cleaning);
	}
	else if (broken_is_due())
		run_job(&loading);
	if (published != seen)
	{
		seen = published;
		rotate = true;
		dlist_foreach(iter, &deliveries)
			dlist_container(Delivery, node, iter.cur)->look = true;
		wake_runners();
		worker.last_work = GetCurrentTimestamp();
	}
	if (timed != seen_timed)
	{
		seen_timed = timed;
		look_delayed = look_checks = true;
	}
	now = GetCurrentTimestamp();
	step_time(now);
	pool_changed();
	dlist_foreach_modify(each, &deliveries)
	{
		Delivery   *delivery = dlist_container(Delivery, node, each.cur);
		char	   *why;

		if (!guarded(step, delivery, &why))
			delivery_broken(delivery, why);
	}
	notifier_receive();
	run_job(&notifying);
	run_job(&stopping);
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
		Position   *position = NULL;
		ListCell   *other;
		bool		moved;

		foreach(other, positions)
			if (((Position *) lfirst(other))->subscription == s->id)
				position = lfirst(other);
		position = position_to_go_on(s, position, &moved);
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

	if (nsegments < 2 || now < TimestampTzPlusMilliseconds(last, dispatch_refresh_delay()))
		return;
	last = now;
	wake_runners();
}

static void
rotate_segments(void *arg)
{
	uint64		below;

	worker_begin();
	MemoryContextSwitchTo(worker.turn);
	/* what an open transaction needs is not known; who comes after this begins later */
	below = own_lock(LOCK_LOG, 0, ExclusiveLock, false) ? passed_below() : 0;
	worker_commit(false);
	nsegments = segments_rotate(below);
	rotate = nsegments > 0;
}

static bool prune_on = false;	/* there was more than was forgotten at a time */

static void
prune(void *arg)
{
	worker_begin();
	prune_on = deliver_prune();
	prune_on |= notifications_prune();
	worker_commit(false);
}

/* Transactions that were prepared by hand may have published, and who commits them
 * tells nobody: as long as there are any, look. */
static void
watch_prepared(void *arg)
{
	OwnSql		sql;
	bool		any;

	pg_atomic_write_u32(&worker.slot->prepared, 0);
	worker_begin();
	own_sql_begin(&sql);
	any = own_sql("SELECT 1 FROM pg_prepared_xacts WHERE database = current_database() LIMIT 1", 0, NULL, NULL, NULL) > 0;
	own_sql_end(&sql);
	worker_commit(false);
	if (any)
		pg_atomic_write_u32(&worker.slot->prepared, 1);
	notifier_look();
	wake_runners();
}

static Job	rotating = {rotate_segments, "rotate the log of messages"};
static Job	pruning = {prune, "forget what was received long ago"};
static Job	watching = {watch_prepared, "look for prepared transactions"};

void
dispatch_housekeeping(void)
{
	dlist_iter	iter;
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
	if (prune_on)
		run_job(&pruning);
	if (now >= TimestampTzPlusMilliseconds(pruned_at, PRUNE_INTERVAL))
	{
		pruned_at = now;
		run_job(&pruning);
		run_job(&cleaning);
		notifier_look();
	}
	if (unserved)
		wake_runners();
	if (pg_atomic_read_u32(&worker.slot->prepared) != 0)
		run_job(&watching);
	if (!rotate)
		return;
	refresh_local(now);
	run_job(&rotating);
}

TimestampTz
dispatch_due(void)
{
	TimestampTz due = earlier(delayed_at, checks_at);
	dlist_iter	iter;

	if (notifying.failures > 0)
		due = earlier(due, notifying.not_before);
	else
		due = earlier(due, notifier_due());
	if (!loaded || look_delayed || look_checks)
		return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), loading.failures + releasing.failures + checking.failures > 0 ? 100 : 0);
	dlist_foreach(iter, &deliveries)
	{
		Delivery   *delivery = dlist_container(Delivery, node, iter.cur);

		due = earlier(due, link_due(&delivery->connection));
		if (delivery->changed_at != 0)
			due = earlier(due, TimestampTzPlusMilliseconds(delivery->changed_at, SAVE_DELAY));
		if (delivery->subscription->paused || delivery->waits ||
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
	pool_changed();
	return pool_is_stuck() ? 1 : due;
}

/* When the first one whose delivery failed is to be tried again; 0: there is none. */
static TimestampTz
broken_due(void)
{
	TimestampTz due = 0;
	ListCell   *cell;

	foreach(cell, broken)
	{
		Broken	   *entry = lfirst(cell);

		if (find_delivery(entry->subscription) == NULL && entry->until > GetCurrentTimestamp())
			due = earlier(due, entry->until);
	}
	return due;
}

TimestampTz
dispatch_later(void)
{
	TimestampTz due = earlier(earlier(delayed_at, checks_at), earlier(broken_due(), notifier_later()));
	dlist_iter	iter;

	dlist_foreach(iter, &deliveries)
	{
		Delivery   *delivery = dlist_container(Delivery, node, iter.cur);

		if (!delivery->subscription->paused && delivery->retry_at != 0)
			due = earlier(due, Max(delivery->retry_at, delivery->not_before));
	}
	return due;
}

bool
dispatch_is_calling(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &deliveries)
	{
		Delivery   *delivery = dlist_container(Delivery, node, iter.cur);

		if (delivery->changed_at != 0 ||
			(delivery->connection.state != LINK_CLOSED && delivery->connection.state != LINK_IDLE))
			return true;
	}
	return notifier_is_calling();
}

bool
dispatch_is_idle(TimestampTz until)
{
	TimestampTz later = dispatch_later();
	dlist_iter	iter;

	if (!loaded || (later != 0 && later < until) ||
		pg_atomic_read_u32(&worker.slot->prepared) != 0 || !notifier_is_idle())
		return false;
	dlist_foreach(iter, &deliveries)
	{
		Delivery   *delivery = dlist_container(Delivery, node, iter.cur);

		if (delivery->changed_at != 0)
			return false;
		if (!delivery->subscription->paused &&
			(delivery->batches[0].messages != NIL || delivery->batches[1].messages != NIL))
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
