/*
 * peer_use.c
 *		Who uses a (server, role) pair, and who is dropping one.
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "core/compat.h"
#include "core/peer_use.h"
#include "core/shmem.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/inval.h"
#include "utils/resowner.h"
#include "utils/syscache.h"

static bool dropping = false;	/* this transaction is counted in shared->droppers */

static bool
is_published(const ProcessSlot *slot, Oid server, Oid role)
{
	for (int i = 0; i < Min(slot->nused, DTX_USED_PEERS); i++)
		if (slot->used[i].server == server && slot->used[i].role == role)
			return true;
	return false;
}

bool
peer_drop_under_way(void)
{
	pg_memory_barrier();
	return pg_atomic_read_u32(&shared->droppers) > (dropping ? 1 : 0);
}

static Oid
mapping_of(Oid role, Oid server)
{
	return GetSysCacheOid2(USERMAPPINGUSERSERVER, Anum_pg_user_mapping_oid,
						   ObjectIdGetDatum(role), ObjectIdGetDatum(server));
}

/* Whoever drops one of these has it locked to the end of its transaction. */
static void
wait_for_droppers(Oid server, Oid role)
{
	Oid			mapping;

	LockDatabaseObject(ForeignServerRelationId, server, 0, AccessShareLock);
	LockSharedObject(AuthIdRelationId, role, 0, AccessShareLock);
	mapping = mapping_of(role, server);
	if (!OidIsValid(mapping))
		mapping = mapping_of(InvalidOid, server);
	if (OidIsValid(mapping))
		LockDatabaseObject(UserMappingRelationId, mapping, 0, AccessShareLock);
}

void
peer_use(Oid server, Oid role)
{
	ProcessSlot *slot = my_process_slot();

	/* nobody but this process writes there */
	if (is_published(slot, server, role))
		return;
	SpinLockAcquire(&slot->mutex);
	if (slot->nused < DTX_USED_PEERS)
	{
		slot->used[slot->nused].server = server;
		slot->used[slot->nused].role = role;
	}
	/* beyond that number it counts as using all */
	slot->nused = Min(slot->nused + 1, DTX_USED_PEERS + 1);
	SpinLockRelease(&slot->mutex);
	if (peer_drop_under_way())
		wait_for_droppers(server, role);
	AcceptInvalidationMessages();
}

void
peer_drop_announce(void)
{
	shmem_require();
	if (!dropping)
	{
		dropping = true;
		pg_atomic_fetch_add_u32(&shared->droppers, 1);
	}
	pg_memory_barrier();
}

bool
peer_in_use(Oid server, Oid role)
{
	for (int i = 0; i < shared->nprocesses; i++)
	{
		ProcessSlot *slot = process_slot(i);
		bool		used = false;

		if (slot->nused == 0)
			continue;
		SpinLockAcquire(&slot->mutex);
		if (!OidIsValid(server) || slot->database == MyDatabaseId)
		{
			used = slot->nused > DTX_USED_PEERS;
			for (int j = 0; j < Min(slot->nused, DTX_USED_PEERS); j++)
				used |= (!OidIsValid(server) || slot->used[j].server == server) &&
					(!OidIsValid(role) || slot->used[j].role == role);
		}
		SpinLockRelease(&slot->mutex);
		if (used)
			return true;
	}
	return false;
}

void
peer_use_pre_prepare(void)
{
	if (dropping)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot PREPARE a transaction that has dropped a server, a user mapping or a role"),
				 errdetail("dtx could not tell whether a global transaction uses it meanwhile.")));
}

void
peer_use_xact_end(void)
{
	ProcessSlot *slot;

	if (shared == NULL)
		return;
	slot = process_slot(dtx_process_number());
	if (slot->pid == MyProcPid && slot->nused > 0)
	{
		SpinLockAcquire(&slot->mutex);
		slot->nused = 0;
		SpinLockRelease(&slot->mutex);
	}
}

/*
 * Who dropped something is counted until others have been told what is gone:
 * that is after the transaction callbacks, and before the locks are released.
 */
static void
at_release(ResourceReleasePhase phase, bool commit, bool top_level, void *arg)
{
	if (phase != RESOURCE_RELEASE_AFTER_LOCKS || !top_level || !dropping)
		return;
	dropping = false;
	pg_atomic_fetch_sub_u32(&shared->droppers, 1);
}

void
peer_use_register(void)
{
	RegisterResourceReleaseCallback(at_release, NULL);
}
