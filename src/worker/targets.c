/*
 * targets.c
 *		Whom the worker knows: the targets that notifications wait for, what the options
 *		of their servers and mappings say, and what keeps them from getting any.
 *
 * All of it is found in tables, and kept in memory from one turn to the next.
 */
#include "postgres.h"

#include "access/xact.h"
#include "core/override.h"
#include "net/peer.h"
#include "storage/proc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "worker/target.h"
#include "worker/worker.h"

#define FIRST_SIZE		(64 * 1024) /* of a payload, until it is known better */
#define STOP_LOCK_TIMEOUT	50	/* ms */

dlist_head	targets = DLIST_STATIC_INIT(targets);

/* A server, a mapping, or who may use them has changed. */
static void
forget_options(Datum arg, int cacheid, uint32 hashvalue)
{
	dlist_iter	iter;

	dlist_foreach(iter, &targets)
		dlist_container(Target, node, iter.cur)->known = false;
}

static Target *
find_target(TargetKey key)
{
	dlist_iter	iter;

	dlist_foreach(iter, &targets)
	{
		Target	   *target = dlist_container(Target, node, iter.cur);

		if (target->key.server == key.server && target->key.role == key.role)
			return target;
	}
	return NULL;
}

static Target *
add_target(TargetKey key)
{
	static bool registered = false;
	Target	   *target = MemoryContextAllocZero(worker.context, sizeof(Target));

	if (!registered)
	{
		CacheRegisterSyscacheCallback(FOREIGNSERVEROID, forget_options, (Datum) 0);
		CacheRegisterSyscacheCallback(USERMAPPINGOID, forget_options, (Datum) 0);
		/* who may use a server */
		CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, forget_options, (Datum) 0);
		CacheRegisterSyscacheCallback(AUTHOID, forget_options, (Datum) 0);
		registered = true;
	}
	target->key = key;
	target->bucket = target_bucket(key.server, key.role);
	dlist_init(&target->calls);
	target->window = 1;
	target->from = DT_NOBEGIN;
	target->typical = FIRST_SIZE;
	link_init(&target->link, key.server, key.role);
	dlist_push_tail(&targets, &target->node);
	return target;
}

void
endpoint_drop(SharedEndpoint *endpoint)
{
	if (endpoint != NULL && --endpoint->users == 0)
		MemoryContextDelete(endpoint->context);
}

static void
forget_what_it_is(Target *target)
{
	endpoint_drop(target->endpoint);
	target->endpoint = NULL;
	if (target->broken != NULL)
		pfree(target->broken);
	target->broken = NULL;
}

static void
remove_target(Target *target)
{
	forget_what_it_is(target);
	link_close(&target->link);
	MemoryContextDelete(target->link.call_context);
	dlist_delete(&target->node);
	pfree(target);
}

bool
targets_discover(void)
{
	bool		more = false;
	dlist_mutable_iter iter;
	ListCell   *cell;

	dlist_foreach_modify(iter, &targets)
		dlist_container(Target, node, iter.cur)->listed = false;
	foreach(cell, notification_targets())
	{
		TargetKey  *key = lfirst(cell);
		Target	   *target = find_target(*key);

		if (target == NULL)
		{
			target = add_target(*key);
			target->look = target->late = target->unsure = true;
			more = true;
		}
		target->listed = true;
	}
	dlist_foreach_modify(iter, &targets)
	{
		Target	   *target = dlist_container(Target, node, iter.cur);

		if (!target->listed && dlist_is_empty(&target->calls) && target->link.state == LINK_CLOSED)
			remove_target(target);
	}
	return more;
}

void
targets_read_stops(void)
{
	dlist_iter	iter;
	ListCell   *cell;

	dlist_foreach(iter, &targets)
	{
		Target	   *target = dlist_container(Target, node, iter.cur);

		if (!target->stop_changed)
		{
			target->disabled = false;
			target->not_before = 0;
		}
	}
	foreach(cell, target_stops_read())
	{
		TargetStop *stop = lfirst(cell);
		Target	   *target = find_target(stop->key);

		if (target == NULL)
			continue;
		target->disabled |= stop->disabled;
		target->not_before = Max(target->not_before, stop->not_before);
	}
}

void
target_read_options(Target *target)
{
	MemoryContext turn = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(worker.context, "dtx endpoint", ALLOCSET_SMALL_SIZES);
	SharedEndpoint *volatile endpoint = NULL;
	char	   *volatile broken = NULL;
	char	   *refused;

	target->known = true;
	worker_begin();
	PG_TRY();
	{
		MemoryContextSwitchTo(context);
		refused = peer_refused(target->key.server, target->key.role);
		if (refused == NULL && endpoint_is_http(target->key.server))
		{
			SharedEndpoint *fresh = palloc0(sizeof(SharedEndpoint));

			fresh->context = context;
			fresh->endpoint = endpoint_load(target->key.server, target->key.role);
			fresh->users = 1;
			endpoint = fresh;
		}
		else if (refused == NULL)
			peer_require_database(target->key.server);
		else
			broken = MemoryContextStrdup(turn, refused);
		worker_commit(false);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(turn);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		broken = psprintf("%s: %s", unpack_sql_state(error->sqlerrcode), error->message);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(turn);
	forget_what_it_is(target);
	target->endpoint = endpoint;
	if (broken != NULL)
		target->broken = MemoryContextStrdup(worker.context, broken);
	if (endpoint == NULL)
		MemoryContextDelete(context);
}

/* In a transaction of its own, which waits for nobody: what somebody has locked is tried
 * again. */
void
targets_record_stops(void *arg)
{
	dlist_iter	iter;
	bool		any = false;

	dlist_foreach(iter, &targets)
	{
		Target	   *target = dlist_container(Target, node, iter.cur);

		any |= target->stop_changed || target->met[0] != '\0';
	}
	if (!any)
		return;
	worker_begin();
	setting_override(&LockTimeout, STOP_LOCK_TIMEOUT);
	MemoryContextSwitchTo(worker.turn);
	dlist_foreach(iter, &targets)
	{
		Target	   *target = dlist_container(Target, node, iter.cur);

		target->stop_recorded = target->stop_changed &&
			target_stop(target->key.server, target->key.role, target->disabled, target->not_before, target->stop_reason);
		target->met_recorded = target->met[0] != '\0' &&
			target_met(target->key.server, target->key.role, target->met);
	}
	worker_commit(false);
	dlist_foreach(iter, &targets)
	{
		Target	   *target = dlist_container(Target, node, iter.cur);

		target->stop_changed &= !target->stop_recorded;
		if (target->met_recorded)
			target->met[0] = '\0';
	}
}
