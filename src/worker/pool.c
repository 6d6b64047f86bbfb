/*
 * pool.c
 *		Connections that messages are delivered through: few for a peer, shared by the
 *		subscriptions of a role, who take turns.
 *
 * A delivery has a connection while it uses it. When there are as many as may be, those
 * that want one wait in the order in which they came; who has sent a batch passes its
 * connection on to the first of them. Where a server has as many as it may have of all
 * roles, one with more of them than another gives one up for that.
 *
 * Subscriptions whose calls take long leave one connection to the others: handlers that
 * hang must not keep those waiting that do not.
 */
#include "postgres.h"

#include "guc.h"
#include "storage/fd.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker/delivery.h"
#include "worker/dispatch.h"
#include "worker/worker.h"

#define SLOW_CALL	2000		/* ms of a call from which on a subscription is a slow one */

/* The connections to a server as a role. */
struct Pool
{
	dlist_node	node;
	Oid			server;
	Oid			role;
	int			users;			/* deliveries */
	dlist_head	waiting;		/* of deliveries, who came first first */
	/* as of the last count */
	int			open;
	int			idle;			/* of these: nobody has something to send through them */
	int			slow;			/* of these: slow ones have them */
};

static dlist_head pools = DLIST_STATIC_INIT(pools);
static int	open_in_all = 0;
static bool counted = false;	/* the counts are right still */

static Pool *
find_pool(Oid server, Oid role)
{
	Pool	   *pool;
	dlist_iter	iter;

	dlist_foreach(iter, &pools)
	{
		pool = dlist_container(Pool, node, iter.cur);
		if (pool->server == server && pool->role == role)
			return pool;
	}
	pool = MemoryContextAllocZero(worker.context, sizeof(Pool));
	pool->server = server;
	pool->role = role;
	dlist_init(&pool->waiting);
	dlist_push_tail(&pools, &pool->node);
	return pool;
}

void
pool_changed(void)
{
	counted = false;
}

void
pool_join(Delivery *delivery)
{
	delivery->pool = find_pool(delivery->subscription->server, delivery->subscription->role);
	delivery->pool->users++;
}

static void
stop_waiting(Delivery *delivery)
{
	if (delivery->waits)
		dlist_delete(&delivery->wait_node);
	delivery->waits = false;
}

void
pool_leave(Delivery *delivery)
{
	Pool	   *pool = delivery->pool;

	pool_changed();
	stop_waiting(delivery);
	if (--pool->users > 0)
		return;
	dlist_delete(&pool->node);
	pfree(pool);
}

static bool
is_slow(const Delivery *delivery)
{
	return delivery->slow ||
		(delivery->connection.state == LINK_CALLING &&
		 GetCurrentTimestamp() >= TimestampTzPlusMilliseconds(delivery->sent_at, SLOW_CALL));
}

void
pool_call_over(Delivery *delivery)
{
	delivery->slow = GetCurrentTimestamp() >= TimestampTzPlusMilliseconds(delivery->sent_at, SLOW_CALL);
}

/* Nobody loses by its going to somebody else. */
static bool
is_spare(Delivery *delivery)
{
	return delivery->connection.state == LINK_IDLE && !delivery_wants(delivery);
}

static void
count(void)
{
	dlist_iter	iter;

	if (counted)
		return;
	counted = true;
	open_in_all = 0;
	dlist_foreach(iter, &pools)
	{
		Pool	   *pool = dlist_container(Pool, node, iter.cur);

		pool->open = pool->idle = pool->slow = 0;
	}
	dlist_foreach(iter, &deliveries)
	{
		Delivery   *delivery = dlist_container(Delivery, node, iter.cur);

		if (delivery->connection.state == LINK_CLOSED)
			continue;
		open_in_all++;
		delivery->pool->open++;
		delivery->pool->idle += is_spare(delivery);
		delivery->pool->slow += is_slow(delivery);
	}
}

static int
open_at_server(Oid server)
{
	int			n = 0;
	dlist_iter	iter;

	dlist_foreach(iter, &pools)
		if (dlist_container(Pool, node, iter.cur)->server == server)
			n += dlist_container(Pool, node, iter.cur)->open;
	return n;
}

/* How many connections there may be in all: others need descriptors too. */
static int
most_in_all(void)
{
	return Max(8, max_safe_fds / 6);
}

/* Must a new connection of this pool wait for one that closes? */
static bool
others_have_them_all(const Pool *pool)
{
	return open_in_all >= most_in_all() || open_at_server(pool->server) >= guc_connections_per_server;
}

/* May it have one, as far as its own pool goes? */
static bool
may_have(const Delivery *delivery)
{
	const Pool *pool = delivery->pool;

	return !is_slow(delivery) || guc_connections_per_role == 1 || pool->slow < guc_connections_per_role - 1;
}

static Delivery *
first_waiting(const Pool *pool)
{
	dlist_iter	iter;

	dlist_foreach(iter, unconstify(dlist_head *, &pool->waiting))
	{
		Delivery   *delivery = dlist_container(Delivery, wait_node, iter.cur);

		if (may_have(delivery))
			return delivery;
	}
	return NULL;
}

/* Some delivery's connection that is spare: of the pool, or of any where it would make room
 * for one of the pool's. */
static Delivery *
find_spare(const Pool *pool, bool of_others)
{
	bool		anywhere = open_in_all >= most_in_all();
	dlist_iter	iter;

	dlist_foreach(iter, &deliveries)
	{
		Delivery   *delivery = dlist_container(Delivery, node, iter.cur);

		if (is_spare(delivery) &&
			(of_others ? anywhere || delivery->pool->server == pool->server : delivery->pool == pool))
			return delivery;
	}
	return NULL;
}

/* From one delivery, that is through with it, to another one of its pool. */
static void
hand_over(Delivery *from, Delivery *to)
{
	remote_free(&from->connection.call);
	to->connection.pc = from->connection.pc;
	to->connection.state = LINK_IDLE;
	to->connection.last_used = from->connection.last_used;
	from->connection.pc = NULL;
	from->connection.state = LINK_CLOSED;
	stop_waiting(to);
	to->turn = true;
}

/*
 * Does a pool that needs room in the same place come first? One with fewer connections
 * does; among equals, who has waited longer.
 */
static bool
another_comes_first(const Pool *mine, uint64 since)
{
	bool		anywhere = open_in_all >= most_in_all() - 1;
	dlist_iter	iter;

	dlist_foreach(iter, &pools)
	{
		Pool	   *pool = dlist_container(Pool, node, iter.cur);
		Delivery   *first;

		if (pool == mine || !(anywhere || pool->server == mine->server) || pool->open > mine->open ||
			pool->open >= guc_connections_per_role)
			continue;
		first = first_waiting(pool);
		if (first != NULL && (pool->open < mine->open || first->waits_since < since))
			return true;
	}
	return false;
}

/* May the pool open one more, for who waits since then? */
static bool
may_open(const Pool *pool, uint64 since)
{
	return pool->open < guc_connections_per_role && !another_comes_first(pool, since) &&
		(!others_have_them_all(pool) || find_spare(pool, true) != NULL);
}

bool
pool_has_room(Delivery *delivery)
{
	Pool	   *pool = delivery->pool;
	Delivery   *first;

	count();
	first = first_waiting(pool);
	if (!may_have(delivery) || (first != NULL && first != delivery))
		return false;
	return pool->idle > 0 || may_open(pool, delivery->waits ? delivery->waits_since : PG_UINT64_MAX);
}

bool
pool_take(Delivery *delivery, char **why)
{
	Delivery   *spare;

	*why = NULL;
	pool_changed();
	if (!pool_has_room(delivery))
		return false;
	spare = find_spare(delivery->pool, false);
	stop_waiting(delivery);
	pool_changed();
	if (spare != NULL)
	{
		hand_over(spare, delivery);
		return true;
	}
	if (others_have_them_all(delivery->pool))
		link_close(&find_spare(delivery->pool, true)->connection);
	delivery->turn = true;
	*why = link_connect(&delivery->connection);
	return *why == NULL;
}

void
pool_wait(Delivery *delivery)
{
	static uint64 last = 0;

	if (delivery->waits)
		return;
	dlist_push_tail(&delivery->pool->waiting, &delivery->wait_node);
	delivery->waits = true;
	delivery->waits_since = ++last;
}

void
pool_wait_no_more(Delivery *delivery)
{
	stop_waiting(delivery);
}

/* Does another pool wait for what this one would give up, with less, or with nothing? */
static bool
another_pool_needs_it(const Pool *mine)
{
	bool		anywhere = open_in_all >= most_in_all();
	dlist_iter	iter;

	dlist_foreach(iter, &pools)
	{
		Pool	   *pool = dlist_container(Pool, node, iter.cur);

		if (pool != mine && (anywhere || pool->server == mine->server) &&
			(pool->open == 0 || pool->open + 1 < mine->open) && pool->open < guc_connections_per_role &&
			others_have_them_all(pool) && first_waiting(pool) != NULL)
			return true;
	}
	return false;
}

bool
pool_pass_on(Delivery *delivery)
{
	Delivery   *next;

	if (delivery->turn)
		return false;
	count();
	next = first_waiting(delivery->pool);
	if (another_pool_needs_it(delivery->pool))
		link_close(&delivery->connection);
	else if (next != NULL)
		hand_over(delivery, next);
	else
		return false;
	pool_changed();
	if (delivery_wants(delivery))
		pool_wait(delivery);
	return true;
}

bool
pool_is_stuck(void)
{
	dlist_iter	iter;

	count();
	dlist_foreach(iter, &pools)
	{
		Pool	   *pool = dlist_container(Pool, node, iter.cur);
		Delivery   *first = first_waiting(pool);

		if (first != NULL && (pool->idle > 0 || may_open(pool, first->waits_since)))
			return true;
	}
	return false;
}
